//! The access log: the formats and the destination of its lines. No client can forge a line.

use std::fs;
use std::path::Path;
use std::process::Command;

use forkio_tests::http::{self, Client};
use forkio_tests::{scenarios, temporary_path, until, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{Server, program};

fn start(format: &str, file: &Path, arguments: &[&str]) -> Server {
    let file = file.to_str().expect("UTF-8");
    Server::start(&[&["--access-log", format, "--access-log-file", file], arguments].concat())
}

/// Waits until the file has this many lines. Returns them.
#[track_caller]
fn lines(file: &Path, count: usize) -> Vec<String> {
    until("the access log has all lines", || {
        let log = fs::read(file).ok()?;
        let log = String::from_utf8(log).expect("UTF-8");
        (log.matches('\n').count() >= count).then(|| {
            let lines: Vec<String> = log.lines().map(str::to_owned).collect();
            assert_eq!(lines.len(), count, "{log}");
            lines
        })
    })
}

/// A line of Apache's formats, unescaped.
#[derive(Debug, PartialEq)]
struct Line {
    peer: String,
    request: Vec<u8>,
    status: String,
    bytes: String,
    referer: Option<Vec<u8>>,
    user_agent: Option<Vec<u8>>,
}

/// Removes a quoted string from the beginning of `text`. Returns its bytes, unescaped.
#[track_caller]
fn quoted<'a>(text: &mut &'a str) -> Vec<u8> {
    let mut rest = text.strip_prefix('"').unwrap_or_else(|| panic!("no quote before {text}"));
    let mut value = Vec::new();
    let hex = |digits: &'a str| u8::from_str_radix(digits, 16).expect("two digits");
    loop {
        let mut chars = rest.chars();
        let unescaped = match (chars.next().expect("an end"), chars.clone().next()) {
            ('"', _) => break,
            ('\\', Some('x')) => {
                value.push(hex(&rest[2..4]));
                rest = &rest[4..];
                continue;
            }
            ('\\', Some('t')) => b'\t',
            ('\\', Some('"')) => b'"',
            ('\\', Some('\\')) => b'\\',
            ('\\', other) => panic!("no escape: {other:?}"),
            (char @ ' '..='~', _) => {
                value.push(char as u8);
                rest = &rest[1..];
                continue;
            }
            (other, _) => panic!("not escaped: {other:?}"),
        };
        value.push(unescaped);
        rest = &rest[2..];
    }
    *text = &rest[1..];
    value
}

#[track_caller]
fn parse(line: &str, is_combined: bool) -> Line {
    let (peer, rest) = line.split_once(" - - [").expect("a peer");
    let (time, mut rest) = rest.split_once("] ").expect("a time");
    let shape: String = time.chars().map(|char| if char.is_ascii_digit() { '9' } else { char }).collect();
    assert_eq!(shape.replace(&time[3..6], "Mon"), "99/Mon/9999:99:99:99 +9999", "{time}");
    assert!("JanFebMarAprMayJunJulAugSepOctNovDec".contains(&time[3..6]), "{time}");
    let request = quoted(&mut rest);
    let (status, rest) = rest.strip_prefix(' ').and_then(|rest| rest.split_once(' ')).expect("a status");
    let (bytes, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut header = |separator: &str| {
        rest = rest.strip_prefix(separator).expect("a separator");
        Some(quoted(&mut rest))
    };
    let (referer, user_agent) = if is_combined { (header(""), header(" ")) } else { (None, None) };
    assert_eq!(rest, "", "{line}");
    Line { peer: peer.to_owned(), request, status: status.to_owned(), bytes: bytes.to_owned(), referer, user_agent }
}

/// Sends a request, whose path and headers may have any bytes. Returns the status of the response.
#[track_caller]
fn request(client: &mut Client, path: &[u8], headers: &[(&str, &[u8])]) -> u16 {
    let mut request = [b"GET ", path, b" HTTP/1.1\r\nHost: test\r\n"].concat();
    for (name, value) in headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    client.send(request).expect("sending");
    client.response().expect("an answer").status
}

scenarios!(
    /// The lines have the formats of Apache.
    fn common_and_combined() {
        for format in ["common", "combined"] {
            let file = temporary_path(format);
            let server = start(format, &file, &["--workers", "1"]);
            let mut client = server.connect();
            assert_eq!(request(&mut client, b"/", &[("User-Agent", b"test"), ("Referer", b"http://a/")]), 200);
            assert_eq!(request(&mut client, b"/nothing?a=b", &[]), 404);
            client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").expect("sending");
            client.response_head().expect("an answer");
            let expected = [
                ("GET / HTTP/1.1", "200", "13", Some(("http://a/", "test"))),
                ("GET /nothing?a=b HTTP/1.1", "404", "9", None),
                ("HEAD / HTTP/1.1", "200", "-", None),
            ];
            let is_combined = format == "combined";
            for (line, (request, status, bytes, headers)) in lines(&file, 3).iter().zip(expected) {
                let (referer, user_agent) = headers.unwrap_or(("-", "-"));
                let header = |value: &str| is_combined.then(|| value.as_bytes().to_vec());
                let expected = Line {
                    peer: "127.0.0.1".to_owned(),
                    request: request.into(),
                    status: status.to_owned(),
                    bytes: bytes.to_owned(),
                    referer: header(referer),
                    user_agent: header(user_agent),
                };
                assert_eq!(parse(line, is_combined), expected, "{line}");
            }
            server.stop();
        }
    }

    /// A line of JSON has request, response, client and worker.
    fn json() {
        let file = temporary_path("log");
        for arguments in [&["--workers", "2", "--worker-threads", "2"][..], &["--workers", "2", "--load-in-template"]] {
            let server = start("json", &file, arguments);
            let clients = server.connect_to_each(2);
            let before = fs::read_to_string(&file).expect("the log").lines().count();
            let mut number = before;
            for (mut client, status) in clients {
                assert_eq!(
                    request(&mut client, b"/sleep/20", &[("User-Agent", b"test"), ("Referer", b"http://a/")]),
                    200
                );
                number += 1;
                let lines = lines(&file, number);
                let line: Value = serde_json::from_str(&lines[number - 1]).expect("JSON");
                let time = line["time"].as_str().expect("a time");
                assert!(time.len() == "2000-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
                let peer = line["peer"].as_str().and_then(|peer| peer.strip_prefix("127.0.0.1:"));
                assert!(peer.expect("a peer").parse::<u16>().is_ok(), "{line}");
                assert!(line["duration"].as_f64().expect("a duration") >= 0.02, "{line}");
                let expected = serde_json::json!({
                    "time": line["time"], "peer": line["peer"], "method": "GET", "path": "/sleep/20", "version": "HTTP/1.1",
                    "status": 200, "bytes": "slept 20 ms".len(), "referer": "http://a/", "user_agent": "test",
                    "duration": line["duration"], "worker": status.worker, "pid": status.pid,
                    "generation": 1,
                });
                assert_eq!(line, expected);
            }
            server.stop();
            fs::remove_file(&file).expect("removing");
        }
    }

    /// A client cannot forge a line with quotes, control characters or bytes that are not UTF-8.
    fn no_injection() {
        const HEADER: &[u8] = b"\" 200 1\t\\\x80\xff \xc2\x9b31m \xe2\x80\xa8 \xe2\x80\xae end";
        const PATH: &[u8] = b"/x\"\xc2\x9b{}?\xe2\x80\xae";
        for format in ["common", "combined", "json"] {
            let file = temporary_path(format);
            let server = start(format, &file, &["--workers", "1"]);
            let mut client = server.connect();
            let headers: &[(&str, &[u8])] = &[("User-Agent", HEADER), ("Referer", HEADER)];
            let mut count = 1;
            // If hyper refuses a request, it closes the connection, and the log has no line.
            if request(&mut client, PATH, headers) == 400 {
                panic!("hyper refuses the path, so this tests nothing");
            }
            // hyper refuses these control characters. If a later version accepts some, the log must escape them.
            for end in [&b"a\nb"[..], b"a\rb", b"a\0b", b"a\x1b[31m"] {
                let status = request(&mut server.connect(), b"/", &[("User-Agent", end)]);
                count += usize::from(status != 400);
            }
            let lines = lines(&file, count);
            for line in &lines {
                let is_safe = |char: char| match format {
                    "json" => !char.is_control() && !"\u{2028}\u{202e}".contains(char),
                    _ => matches!(char, ' '..='~'),
                };
                assert!(line.chars().all(is_safe), "{line:?}");
            }
            if format == "json" {
                let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
                assert_eq!(line["path"], String::from_utf8_lossy(PATH).as_ref());
                assert_eq!(line["user_agent"], String::from_utf8_lossy(HEADER).as_ref());
                assert_eq!(line["referer"], line["user_agent"]);
                assert_eq!((&line["status"], &line["bytes"]), (&404.into(), &9.into()));
            } else {
                let line = parse(&lines[0], format == "combined");
                assert_eq!(line.request, [b"GET ", PATH, b" HTTP/1.1"].concat());
                assert_eq!((line.status.as_str(), line.bytes.as_str()), ("404", "9"));
                let header = (format == "combined").then(|| HEADER.to_vec());
                assert_eq!((line.referer, line.user_agent), (header.clone(), header));
            }
            server.stop();
        }
    }

    /// Each line is shorter than `PIPE_BUF`. In a pipe, longer lines could mix with lines of other workers.
    fn no_line_is_longer_than_a_pipe_writes_at_once() {
        const PIPE_BUF: usize = 4096;
        for format in ["common", "combined", "json"] {
            let file = temporary_path(format);
            let server = start(format, &file, &["--workers", "1"]);
            let mut client = server.connect();
            let long = vec![0xff; 4000];
            let path = [&b"/"[..], "\u{e9}".repeat(2000).as_bytes()].concat();
            assert_eq!(request(&mut client, &path, &[("User-Agent", &long), ("Referer", &long)]), 404);
            let line = lines(&file, 1).remove(0);
            assert!(line.len() < PIPE_BUF, "{} bytes", line.len());
            assert!(line.contains("..."), "{line}");
            match format {
                "json" => drop(serde_json::from_str::<Value>(&line).expect("JSON")),
                _ => drop(parse(&line, format == "combined")),
            }
            server.stop();
        }
    }

    /// Without `--access-log-file`, standard output has the lines. Without `--access-log`, it has only the addresses, as
    /// `Server::stop` checks.
    fn standard_output_unless_there_is_a_file() {
        let mut server = Server::start(&["--workers", "2", "--access-log", "common"]);
        assert_eq!(server.connect().get("/table/77").expect("an answer").text(), "7");
        let line = parse(server.stdout_line().trim_end_matches('\n'), false);
        assert_eq!(line.request, b"GET /table/77 HTTP/1.1");
        // The line is not in the server's log.
        server.until_logged("worker is ready");
        assert!(!server.stderr().contains("/table/77"), "{}", server.stderr());
        server.stop();
        let server = Server::start(&["--workers", "1"]);
        assert_eq!(server.connect().get("/table/77").expect("an answer").text(), "7");
        server.stop();
    }

    /// After SIGUSR1, the worker writes to a new file.
    fn usr1_opens_the_file_again() {
        let (file, old) = (temporary_path("log"), temporary_path("log.1"));
        let server = start("common", &file, &["--workers", "1"]);
        let mut client = server.connect();
        client.get("/table/1").expect("an answer");
        lines(&file, 1);
        fs::rename(&file, &old).expect("rotating");
        server.signal(Signal::USR1);
        wait_until("the worker writes to the new file", || {
            client.get("/table/2").expect("an answer");
            // The supervisor may have created the file before the worker opens it.
            fs::read_to_string(&file).is_ok_and(|log| log.contains("/table/2"))
        });
        assert!(fs::read_to_string(&old).expect("the old file").contains("/table/1 "));
        server.stop();
    }

    /// A request whose client does not wait for the answer is logged without a status.
    fn no_answer() {
        for (format, status) in [("common", "\" - -"), ("json", "\"status\":null,\"bytes\":0")] {
            let file = temporary_path(format);
            let server = start(format, &file, &["--workers", "1"]);
            let mut client = server.connect();
            client.request("/sleep/60000").expect("sending");
            drop(client);
            let line = lines(&file, 1).remove(0);
            assert!(line.contains("/sleep/60000") && line.contains(status), "{line}");
            server.stop();
        }
    }

    /// The log names a client of a Unix socket `unix`.
    fn unix_socket() {
        let (socket, file) = (temporary_path("socket"), temporary_path("log"));
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0", "--listen"]).arg(format!("unix:{}", socket.display()));
        command.args(["--workers", "1", "--access-log", "json", "--access-log-file"]).arg(&file);
        let server = Server::start_as(&mut command, 1);
        let stream = http::request(&format!("unix:{}", socket.display()), "/pid");
        let line: Value = serde_json::from_str(&lines(&file, 1)[0]).expect("JSON");
        assert_eq!((&line["peer"], &line["status"]), (&"unix".into(), &200.into()));
        drop(stream);
        drop(server);
    }
);
