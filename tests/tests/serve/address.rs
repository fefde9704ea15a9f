//! The addresses of a server, and its errors if it cannot listen.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use forkio::{Address, Peer, ServeError, Server};
use forkio_tests::{Program, arguments, children_of, freeze, http, kill, limit, scenarios, temporary_path, wait_until};
use socket2::{SockAddr, Socket, Type};

use crate::http::exit;
use crate::wait_for;

/// Checks that the program exits with 2 and prints one line that has all of `words`.
#[track_caller]
fn fails(args: &[&str], words: &[&str]) {
    let (status, output) = Program::start("address::routes", args).finish();
    assert_eq!(status.code(), Some(2), "{args:?}: {output}");
    for word in words {
        assert!(output.contains(word), "{args:?}: no {word:?} in {output}");
    }
    assert_eq!(output.lines().count(), 1, "{output}");
}

/// Returns the command of a server that systemd gives this listener.
fn with_listener(listener: TcpListener, argument: &str) -> Command {
    let program = Program::command("address::routes");
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null"]);
    shell.arg(program.get_program()).args(program.get_args()).arg(argument);
    shell.stdin(OwnedFd::from(listener));
    shell
}

/// Freezes the worker, and returns how many connections the queue of its listener takes. The worker then continues.
fn fill_queue(program: &Program, address: &str) -> usize {
    let [worker] = children_of(program.pid())[..] else { panic!("not one worker") };
    freeze(worker);
    let address = match address.strip_prefix("unix:") {
        Some(path) => SockAddr::unix(path).expect("a short path"),
        None => address.parse::<SocketAddr>().expect("an address").into(),
    };
    let connect = || {
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        socket.connect_timeout(&address, Duration::from_secs(1)).map(|()| socket)
    };
    let sockets: Vec<Socket> = std::iter::repeat_with(connect).map_while(Result::ok).take(20).collect();
    kill(worker, libc::SIGCONT);
    sockets.len()
}

scenarios!(
    /// A server at the addresses of the arguments. `systemd` stands for the listeners of systemd, and `options` for other
    /// options of listeners.
    #[program]
    fn routes() {
        let mut server = Server::new().workers(1).shutdown_timeout(limit());
        for argument in arguments() {
            server = match argument.as_str() {
                "systemd" => server.systemd(),
                "options" => server.backlog(7).unix_mode(0o606),
                address => server.bind(address),
            };
        }
        let peer = get(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.to_string());
        let tcp = get(async |ConnectInfo(address): ConnectInfo<SocketAddr>| address.to_string());
        let app = Router::new().route("/", get(async || "Hello!")).route("/peer", peer).route("/tcp", tcp);
        let ready = |addresses: &[Address]| println!("{}\n{}", addresses[0], std::process::id());
        exit(server.connect_info().on_ready(ready).serve(|_| app).run())
    }

    /// A text that is not an address is refused. An address is shown as it was written.
    fn not_an_address() {
        for text in
            ["", "nonsense", "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "::1:8080", "two\nlines:80", "unix:"]
        {
            fails(&[text], &["cannot listen on", "IP address and a port", "127.0.0.1:8080"]);
        }
        for text in ["127.0.0.1:0", "[::1]:8080", "localhost:80", "a-b.example.org:65535", "unix:relative/path"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
    }

    /// An error names the address and says what is wrong with it.
    fn cannot_listen() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("the address of a listener").to_string();
        fails(&[&address], &[&address, "in use", "stop the program"]);
        // This address is reserved for documentation, so no host has it.
        fails(&["192.0.2.1:8080"], &["192.0.2.1:8080", "not an address of this machine"]);
        fails(&["unix:/no/such/folder"], &["unix:/no/such/folder", "folder does not exist"]);
        fails(&[], &["nothing to listen on"]);
        fails(&["systemd"], &["nothing to listen on", "socket unit"]);
    }

    /// The server replaces the file of a socket that no process listens on, and leaves other files alone.
    fn abandoned_socket() {
        let path = temporary_path("abandoned");
        let address = format!("unix:{}", path.display());
        let listener = UnixListener::bind(&path).expect("listening");
        fails(&[&address], &[&address, "in use"]);
        drop(listener);
        let mut program = Program::start("address::routes", &[&address]);
        assert_eq!(program.line(), address);
        assert_eq!(http::get(&address, "/"), "Hello!");
        program.stop();
        assert!(!path.exists(), "a stopped server has not removed its socket");
        fs::write(&path, "important").expect("writing");
        fails(&[&address], &[&address, "in use"]);
        assert_eq!(fs::read_to_string(&path).expect("the file"), "important");
    }

    /// The server sets the backlog of its listeners and the permissions of its Unix sockets. After an upgrade, an inherited
    /// socket has the permissions that it had before.
    fn options_of_listeners() {
        let path = temporary_path("mode");
        let address = format!("unix:{}", path.display());
        let mode = || fs::metadata(&path).expect("the socket").permissions().mode() & 0o777;
        let mut program = Program::start("address::routes", &["127.0.0.1:0", &address, "options"]);
        let (tcp, _pid) = (program.line(), program.line());
        assert_eq!(mode(), 0o606);
        assert_eq!(http::get(&address, "/"), "Hello!");
        for address in [&tcp, &address] {
            let waiting = fill_queue(&program, address);
            assert!((7..=11).contains(&waiting), "{waiting} connections wait at {address}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changing the permissions");
        program.signal(libc::SIGUSR2);
        let new = (program.line(), program.line());
        assert_eq!(mode(), 0o600);
        wait_until("the old program ends", || program.has_ended());
        kill(new.1.parse().expect("a process id"), libc::SIGTERM);
        program.finish_well();
    }

    /// A server that cannot listen at its second address removes the socket of its first.
    fn socket_of_a_server_that_does_not_start() {
        let path = temporary_path("first-of-two");
        fails(&[&format!("unix:{}", path.display()), "192.0.2.1:8080"], &["192.0.2.1:8080"]);
        assert!(!path.exists(), "the server has not removed its socket");
    }

    /// A service can ask for the address of its client.
    fn peers() {
        let path = temporary_path("peers");
        for (address, peer) in [("127.0.0.1:0".to_owned(), "127.0.0.1:"), (format!("unix:{}", path.display()), "unix")]
        {
            let (program, address) = Program::start_announced("address::routes", &[&address]);
            let answer = http::get(&address, "/peer");
            assert!(answer.starts_with(peer), "{answer}");
            if peer != "unix" {
                let answer = http::get(&address, "/tcp");
                assert!(answer.starts_with(peer), "{answer}");
            }
            program.stop();
        }
    }

    /// After an upgrade, the new program removes the Unix socket when it stops, and the old program leaves it alone.
    fn socket_of_an_upgraded_server() {
        let path = temporary_path("upgraded");
        let address = format!("unix:{}", path.display());
        let mut program = Program::start("address::routes", &[&address]);
        let old = (program.line(), program.line());
        program.signal(libc::SIGUSR2);
        let new = (program.line(), program.line());
        assert_eq!(new.0, old.0);
        assert_ne!(new.1, old.1);
        wait_until("the old program ends", || program.has_ended());
        assert_eq!(http::get(&address, "/"), "Hello!");
        kill(new.1.parse().expect("a process id"), libc::SIGTERM);
        // The new program has the same standard output, which is closed when that program ends.
        program.finish_well();
        assert!(!path.exists(), "the new program has not removed its socket");
    }

    /// If a listener of systemd has the port of another address, the error names that listener.
    fn port_of_an_inherited_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("the address of a listener");
        let output = with_listener(listener, &format!("0.0.0.0:{}", own.port())).stderr(Stdio::piped()).output();
        let output = output.expect("running a server");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("started with a listener at {own}")), "{text}");
        assert_eq!(output.status.code(), Some(2));
    }

    /// A server takes a listener of systemd if the server binds the listener's address, or is told to use systemd's
    /// listeners.
    fn systemd() {
        for bound in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("the address of a listener").to_string();
            let argument = if bound { &address } else { "systemd" };
            let server = with_listener(listener, argument).spawn().expect("starting a server");
            wait_for(&address);
            assert_eq!(http::get(&address, "/"), "Hello!");
            kill(server.id().cast_signed(), libc::SIGTERM);
            let ended = server.wait_with_output().expect("waiting");
            assert!(ended.status.success(), "{}", ended.status);
        }
    }

    /// Running a server inside a runtime returns an error that says what to change.
    async fn inside_a_runtime() {
        let error =
            Server::new().bind("127.0.0.1:0").serve(|_| Router::new()).try_run().expect_err("a runtime in a runtime");
        assert!(matches!(error, ServeError::InsideRuntime));
        assert!(error.to_string().contains("#[tokio::main]"), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
);
