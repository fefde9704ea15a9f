//! TLS in a prefork server: handshakes, sessions that resume on every worker, and reloads of the certificate.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};

const CERTIFICATE: &str = include_str!("certificate.pem");
const KEY: &str = include_str!("key.pem");

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The files of one test. Dropping this removes them.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(test: &str) -> Files {
        let path = |name| std::env::temp_dir().join(format!("forkio-tls-{test}-{}-{name}.pem", std::process::id()));
        Files { certificate: path("certificate"), key: path("key") }
    }

    fn write(test: &str) -> Files {
        let files = Files::new(test);
        fs::write(&files.certificate, CERTIFICATE).expect("writing");
        fs::write(&files.key, KEY).expect("writing");
        files
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tls"));
        command.args(["--listen", "127.0.0.1:0", "--certificate"]).arg(&self.certificate).arg("--key").arg(&self.key);
        command
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _missing = fs::remove_file(&self.certificate);
        let _missing = fs::remove_file(&self.key);
    }
}

/// A running server. Dropping it kills the program, and the workers end with the program.
struct Server {
    program: Child,
    address: String,
}

impl Server {
    #[track_caller]
    fn start(files: &Files) -> Server {
        // A slow machine must not cut off draining connections.
        Server::start_with(files, &["--workers", "2", "--shutdown-timeout", "60"])
    }

    #[track_caller]
    fn start_with(files: &Files, options: &[&str]) -> Server {
        Server::start_as(files.command().args(options))
    }

    #[track_caller]
    fn start_as(command: &mut Command) -> Server {
        let program = command.stdout(Stdio::piped()).spawn().expect("starting the program");
        let mut server = Server { program, address: String::new() };
        let mut line = String::new();
        BufReader::new(server.program.stdout.take().expect("piped")).read_line(&mut line).expect("an announcement");
        server.address = line.trim().strip_prefix("listening on https://").expect("an address").to_owned();
        server
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.program), signal).expect("signalling the server");
    }

    #[track_caller]
    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.program.wait().expect("waiting for the server").success());
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).expect("connecting");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket
    }

    #[track_caller]
    fn connect_tls(&self, client: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
        let name = "localhost".try_into().expect("a name");
        StreamOwned::new(ClientConnection::new(Arc::clone(client), name).expect("a client"), self.connect())
    }

    /// Sends a request. Returns the process that answers, and whether the session was resumed.
    #[track_caller]
    fn ask(&self, client: &Arc<ClientConfig>) -> (String, bool) {
        let mut stream = self.connect_tls(client);
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("sending a request");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        (response.split_once("\r\n\r\n").expect("a body").1.to_owned(), resumed)
    }

    /// Asks until `count` processes have answered. Each resumes the session that the first one has begun.
    #[track_caller]
    fn resume_on(&self, count: usize, client: &Arc<ClientConfig>, seen: &mut BTreeSet<String>) {
        let start = Instant::now();
        while seen.len() < count {
            assert!(start.elapsed() < LIMIT, "only these processes have answered: {seen:?}");
            let (worker, resumed) = self.ask(client);
            assert!(resumed, "process {worker} did not resume the session of the processes {seen:?}");
            seen.insert(worker);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.program.kill();
        let _status = self.program.wait();
    }
}

/// Makes a client that trusts the certificate, and keeps sessions.
fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate")).expect("a trust anchor");
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The server tells the client that it closes an idle connection (close_notify).
#[test]
fn idle_connection_ends() {
    let files = Files::write("idle");
    let server = Server::start_with(&files, &["--workers", "1", "--keep-alive-timeout", "1"]);
    let mut stream = server.connect_tls(&client(&rustls::version::TLS13));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sending a request");
    let mut response = String::new();
    // Without close_notify, this is an error.
    stream.read_to_string(&mut response).expect("the end of the stream");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    server.stop();
}

/// A session resumes on other workers, with TLS 1.2 and with TLS 1.3.
#[test]
fn sessions_resume_on_other_workers() {
    let files = Files::write("resume");
    let server = Server::start(&files);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = client(version);
        let (first, resumed) = server.ask(&client);
        assert!(!resumed);
        server.resume_on(2, &client, &mut BTreeSet::from([first]));
    }
    server.stop();
}

/// A reload fails if the certificate file is wrong, and the server reports the error even if the program has no `tracing`
/// subscriber. Once the file is right, a reload works, and sessions outlive it.
#[test]
fn reload_reads_the_certificate() {
    let files = Files::write("reload");
    let (log, stderr) = std::io::pipe().expect("a pipe");
    let mut log = BufReader::new(log);
    let server = Server::start_as(files.command().args(["--workers", "2", "--shutdown-timeout", "60"]).stderr(stderr));
    let client = client(&rustls::version::TLS13);
    let mut seen = BTreeSet::from([server.ask(&client).0]);
    server.resume_on(2, &client, &mut seen);
    fs::write(&files.certificate, "nonsense").expect("writing");
    server.signal(Signal::HUP);
    let mut message = String::new();
    log.read_line(&mut message).expect("a message");
    assert!(message.contains("the reload failed") && message.contains("cannot read the certificates"), "{message:?}");
    assert!(seen.contains(&server.ask(&client).0), "{seen:?}");
    fs::write(&files.certificate, CERTIFICATE).expect("writing");
    server.signal(Signal::HUP);
    server.resume_on(4, &client, &mut seen);
    server.stop();
}

/// The server answers a client that offers only HTTP/1.0 in its handshake, such as `curl --http1.0`.
#[test]
fn client_of_http1_0() {
    let files = Files::write("old");
    let server = Server::start(&files);
    let mut old = ClientConfig::clone(&client(&rustls::version::TLS13));
    old.alpn_protocols = vec![b"http/1.0".to_vec()];
    let mut stream = server.connect_tls(&Arc::new(old));
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sending a request");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    server.stop();
}

/// A client that makes no TLS handshake does not delay other clients. A client without TLS gets an alert.
#[test]
fn client_without_tls() {
    let files = Files::write("plain");
    let server = Server::start(&files);
    let silent = server.connect();
    let mut plain = server.connect();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sending a request");
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    // 21 is the type of a TLS alert.
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    server.ask(&client(&rustls::version::TLS13));
    drop(silent);
    server.stop();
}

/// The server stops without an error although a client has not made its handshake. The time limit of the handshake is
/// longer than the shutdown timeout.
#[test]
fn stop_during_a_handshake() {
    let files = Files::write("stop");
    let server = Server::start_with(&files, &["--workers", "1", "--shutdown-timeout", "4", "--header-timeout", "60"]);
    let mut silent = server.connect();
    // The worker accepts in the order in which clients connect.
    server.ask(&client(&rustls::version::TLS13));
    server.stop();
    assert_eq!(silent.read(&mut [0]).expect("the end of the connection"), 0);
}

#[test]
fn errors_name_the_file() {
    let files = Files::new("wrong");
    let [certificate, key] = [&files.certificate, &files.key].map(|path| path.display().to_string());
    let fails = |words: &[&str]| {
        let output = files.command().output().expect("running the program");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        for word in words {
            assert!(errors.contains(word), "no {word:?} in {errors}");
        }
    };
    fails(&["certificates", &certificate, "No such file"]);
    fs::write(&files.certificate, "").expect("writing");
    fails(&["certificates", &certificate, "PEM"]);
    fs::write(&files.certificate, CERTIFICATE).expect("writing");
    fails(&["private key", &key, "No such file"]);
    fs::write(&files.key, CERTIFICATE).expect("writing");
    fails(&["private key", &key, "PEM"]);
    fs::write(&files.certificate, KEY).expect("writing");
    fs::write(&files.key, KEY).expect("writing");
    fails(&["certificates", &certificate, "PEM"]);
}
