//! Connections in tasks of `WorkerHandle::spawn`, which the worker finishes before it ends.

use std::io::Read;
use std::time::Duration;

use forkio::prefork::{Counted, Listener, Prefork, Worker};
use forkio_tests::http::{Stream, connect, try_connect};
use forkio_tests::{Program, arguments, check_eq, scenarios, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ends_before_it_is_killed;

/// Answers each byte, and ends with the client.
async fn echo(mut stream: Counted<TcpStream>) {
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte).await {
        stream.write_all(&byte).await.expect("answering");
    }
}

async fn accept(mut worker: Worker, mode: String) {
    let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
    let mut incoming = worker.incoming(listener);
    let handle = worker.handle();
    let accept = async move {
        while let Some((stream, _)) = incoming.next().await {
            handle.spawn(echo(stream));
        }
    };
    match mode.as_str() {
        // `next` waits for the tasks.
        "inline" => {
            accept.await;
            check_eq("connections that are open", worker.connections().open(), 0);
        }
        // The accept loop is itself a task of the worker. It must not wait for itself to end.
        "task" => {
            drop(worker.spawn(accept));
            worker.shutdown().await;
        }
        "cut-off" => accept.await,
        other => panic!("no mode {other:?}"),
    }
}

/// Connects a client, and waits until a worker has answered it.
#[track_caller]
fn client(address: &str) -> Box<dyn Stream> {
    let mut client = connect(address);
    exchange(&mut client);
    client
}

#[track_caller]
fn exchange(client: &mut impl Stream) {
    client.write_all(b"x").expect("writing");
    client.read_exact(&mut [0]).expect("an answer");
}

scenarios!(
    /// A server with a worker that accepts in one of several modes. The second argument is the shutdown timeout, in
    /// milliseconds.
    #[program]
    async fn server() {
        let [mode, timeout] = arguments().try_into().expect("two arguments");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("the address of a listener"));
        let timeout = Duration::from_millis(timeout.parse().expect("milliseconds"));
        let prefork = Prefork::new().listener(listener).workers(1).shutdown_timeout(timeout);
        let stopped = prefork.run(async |worker| accept(worker, mode).await).await.expect("a server");
        std::process::exit(stopped.exit_code().into());
    }

    /// Connections that have begun are finished before the worker ends.
    fn connections_are_finished() {
        for mode in ["inline", "task"] {
            let (program, address) = Program::start_announced("tasks::server", &[mode, "600000"]);
            let mut first = client(&address);
            let mut second = client(&address);
            program.signal(libc::SIGTERM);
            wait_until("the server accepts no more", || try_connect(&address).is_err());
            exchange(&mut first);
            drop(first);
            exchange(&mut second);
            drop(second);
            program.finish_well();
        }
    }

    /// Without connections, the worker ends at once.
    fn no_connections() {
        for mode in ["inline", "task"] {
            let (program, address) = Program::start_announced("tasks::server", &[mode, "600000"]);
            drop(client(&address));
            program.stop();
        }
    }

    /// Connections that last longer than the shutdown timeout are cut off, which the status shows.
    fn connections_are_cut_off() {
        for mode in ["cut-off", "task"] {
            ends_before_it_is_killed(|| {
                let (program, address) = Program::start_announced("tasks::server", &[mode, "50"]);
                let mut client = client(&address);
                program.signal(libc::SIGTERM);
                assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
                program
            });
        }
    }
);
