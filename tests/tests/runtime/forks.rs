//! The parts of a runtime that continue in both processes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::os::unix::process::parent_id;
use std::thread;
use std::time::Duration;

use forkio_tests::runtime::*;

use crate::signals::receive;

/// How many clients talk to the echo server.
const CLIENTS: usize = 16;

/// Talks to the echo server, slowly enough that the server forks in between. Checks every byte that comes back.
fn talk(client: usize, mut stream: StdTcpStream) {
    const CHUNK: usize = 10_000;
    stream.set_read_timeout(Some(limit())).unwrap();
    let mut back = vec![0; CHUNK];
    for chunk in 0..rounds(100) {
        let bytes: Vec<u8> = (0..CHUNK).map(|index| (index * 7 + chunk * 13 + client) as u8).collect();
        stream.write_all(&bytes).expect("writing");
        stream.read_exact(&mut back).expect("reading back");
        assert!(back == bytes, "client {client}, chunk {chunk}: other bytes came back");
        thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(Shutdown::Write).expect("ending");
    assert_eq!(read_to_end(stream), "", "client {client}");
}

scenarios!(
    /// Parent and child accept connections from the same listener.
    async fn both_serve() {
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let turn = Turn::new();
        let serve = async |listener: &TcpListener, count: usize| {
            for _ in 0..count {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&std::process::id().to_le_bytes()).await.unwrap();
            }
        };
        let child = fork_child(async || {
            serve(&listener, 50).await;
            wait_for(&turn).await;
        })
        .await;
        let ask = || async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.read_u32_le().await.unwrap()
        };
        // The parent begins to accept only after the child has accepted its 50 connections.
        for _ in 0..50 {
            check_eq("the serving process", ask().await, child.id());
        }
        let (_, pids) = tokio::join!(serve(&listener, 50), async {
            let mut pids = BTreeSet::new();
            for _ in 0..50 {
                pids.insert(ask().await);
            }
            pids
        });
        check_eq("the serving process", pids, BTreeSet::from([std::process::id()]));
        turn.give();
        reap(child).await;
    }

    /// Timers, lineage and listener work in generations 0 to 5.
    async fn five_generations() {
        async fn descend(depth: u32, listener: &TcpListener) {
            let lineage = forkio::Lineage::current();
            check_eq("generation", lineage.generation(), depth);
            check_eq("parent", lineage.parent().is_some(), depth > 0);
            if depth > 0 {
                check_eq("parent", lineage.parent(), Some(parent_id()));
            }
            sleep(Duration::from_millis(10)).await;
            if depth < 5 {
                in_child(async || Box::pin(descend(depth + 1, listener)).await).await;
            }
            connect_and_accept(listener).await;
        }
        descend(0, &listener().await).await;
    }

    /// Ten thousand forks, one after the other, leave neither descriptors nor processes behind.
    #[limit(900)]
    async fn ten_thousand_forks() {
        let _listener = listener().await;
        let (_a, _b) = connection().await;
        let _signal = signal(SignalKind::user_defined1()).unwrap();
        in_child(async || {}).await;
        let before = open_descriptors();
        for round in 0..rounds(10_000) {
            let Some(mut child) = fork().await else {
                // Only every thousandth child lists its descriptors, because listing takes longer than the fork.
                let is_well = !round.is_multiple_of(1_000) || open_descriptors() == before;
                exit_now(i32::from(!is_well));
            };
            let status = child.wait().await.unwrap();
            assert!(status.success(), "round {round}: {status}");
        }
        check_eq("descriptors", open_descriptors(), before);
        check_no_children();
    }

    /// A server forks under load. Clients get every byte back, and see the end of their connections while the children
    /// run.
    fn forks_under_load() {
        let (mut server, address) = Program::start_announced("forks::echo_server", &[]);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let stream = StdTcpStream::connect(&address).expect("connecting");
                thread::spawn(move || talk(client, stream))
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
        let closed = server.line();
        assert!(closed.starts_with("closed with ") && closed != "closed with 0 children", "{closed}");
        server.tell("end");
        server.finish_well();
    }

    /// An echo server that forks while its clients talk. It prints a line once all connections are closed, while the
    /// children still run.
    #[program]
    async fn echo_server() {
        let listener = listener().await;
        println!("{}", listener.local_addr().unwrap());
        let mut echoes = tokio::task::JoinSet::new();
        let mut children = Vec::new();
        let end = Turn::new();
        let mut forks = interval(Duration::from_millis(15));
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    echoes.spawn(async move {
                        let (mut reader, mut writer) = stream.split();
                        // The copy ends when the client closes its half of the connection. The task then closes the stream.
                        tokio::io::copy(&mut reader, &mut writer).await.map(|_| std::process::id())
                    });
                }
                Some(done) = echoes.join_next() => {
                    check_eq("the process of the connection", done.unwrap().unwrap(), std::process::id());
                    if echoes.is_empty() {
                        break;
                    }
                }
                _ = forks.tick(), if children.len() < 40 => {
                    let Some(child) = fork().await else {
                        // The connections are severed: each task reads the end, or cannot write its answer.
                        while let Some(done) = echoes.join_next().await {
                            if let Err(error) = done.unwrap() {
                                check_eq("the task's error", error.kind(), ErrorKind::BrokenPipe);
                            }
                        }
                        drop(children);
                        wait_for(&end).await;
                        std::process::exit(0);
                    };
                    children.push(child);
                }
            }
        }
        println!("closed with {} children", children.len());
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        // Give all turns first, because any child may take any turn.
        children.iter().for_each(|_| end.give());
        for child in children {
            reap(child).await;
        }
    }

    /// After a fork in one runtime, a second runtime that was not running works in both processes.
    fn two_runtimes() {
        let (first, second) = (current_thread(), current_thread());
        let stream = |runtime: &Runtime| {
            let _context = runtime.enter();
            signal(SignalKind::user_defined1()).unwrap()
        };
        let (mut first_signal, mut second_signal) = (stream(&first), stream(&second));
        let listener = second.block_on(listener());
        let mut check = || {
            first.block_on(receive(&mut first_signal, 3, libc::SIGUSR1));
            second.block_on(async {
                second_signal.recv().await.unwrap();
                receive(&mut second_signal, 3, libc::SIGUSR1).await;
            });
        };
        let child = first.block_on(fork());
        check();
        match child {
            Some(child) => {
                second.block_on(async {
                    let (mut client, mut server) = connect_and_accept(&listener).await;
                    client.write_all(b"x").await.unwrap();
                    check_eq("served by the second runtime", server.read_u8().await.unwrap(), b'x');
                });
                first.block_on(reap(child));
            }
            None => std::process::exit(0),
        }
    }

    /// A child can join many threads that had ended before the fork, and start threads of its own.
    async fn threads_that_were_not_joined() {
        let threads: Vec<_> = (0..40).map(|number| thread::spawn(move || number)).collect();
        while !threads.iter().all(thread::JoinHandle::is_finished) {
            sleep(Duration::from_millis(2)).await;
        }
        in_child(async || {
            let own: Vec<_> = (0..40).map(|number| thread::spawn(move || number)).collect();
            for (number, (old, own)) in threads.into_iter().zip(own).enumerate() {
                check_eq("a thread of the parent", old.join().unwrap(), number);
                check_eq("a thread of the child", own.join().unwrap(), number);
            }
        })
        .await;
    }

    /// The standard library's output buffer is written once, not once for each process.
    fn buffered_output_is_written_once() {
        check_eq("output", Program::start("forks::half_a_line", &[]).finish_well().as_str(), "half a line\n");
    }

    /// Prints half a line, forks, and prints the end of the line.
    #[program]
    async fn half_a_line() {
        print!("half a line");
        in_child(async || {}).await;
        println!();
        std::io::stdout().flush().unwrap();
    }
);
