//! A snapshot has the state at one moment, and the server answers while the child writes it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use forkio_tests::{Program, connect_tcp, example, scenarios, temporary_path};

forkio_tests::main!();

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Client {
        Client(BufReader::new(connect_tcp(address)))
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sending a line");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }
}

fn start(path: &str) -> (Program, String) {
    let mut server = Program::spawn(Command::new(example("snapshot")).args(["127.0.0.1:0", path]));
    let address = server.line();
    (server, address)
}

scenarios!(
    /// A snapshot has the state at one moment, although a client changes it meanwhile.
    fn snapshots_are_consistent() {
        let path = temporary_path("snapshot");
        let (_server, address) = start(path.to_str().expect("a temporary directory"));
        let mut client = Client::connect(&address);
        assert_eq!(client.ask("fill 20000"), "20000 keys");
        assert_eq!(client.ask("get key-5"), format!("{:0>200}", 5));
        thread::scope(|scope| {
            // `a` comes first in the file, and `z` last. At any moment, the value of `a` is that of `z`, or one more.
            let writer = scope.spawn(|| {
                let mut client = Client::connect(&address);
                for number in 1..500 {
                    client.ask(&format!("set a {number}"));
                    client.ask(&format!("set z {number}"));
                }
            });
            while !writer.is_finished() {
                let answer = client.ask("save");
                assert!(answer.starts_with("saved in "), "{answer}");
                let snapshot = fs::read_to_string(&path).expect("a snapshot");
                let value = |name| {
                    snapshot.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |value| value.parse().unwrap())
                };
                let (first, last): (u32, u32) = (value("a "), value("z "));
                assert!(first == last || first == last + 1, "{first} and {last}");
                assert_eq!(snapshot.lines().filter(|line| line.starts_with("key-")).count(), 20_000);
            }
        });
        assert_eq!(client.ask("get a"), "499");
    }

    /// The answer says that a snapshot failed, and the server continues.
    fn the_answer_says_that_a_snapshot_failed() {
        let (_server, address) = start("/no/such/directory/snapshot");
        let mut client = Client::connect(&address);
        let answer = client.ask("save");
        assert!(answer.starts_with("not saved: the child ended with"), "{answer}");
        assert_eq!(client.ask("set name value"), "");
        assert_eq!(client.ask("get name"), "value");
    }
);
