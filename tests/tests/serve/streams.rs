//! WebSockets and server-sent events, which do not end by themselves, while workers are replaced.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::{Router, routing::get};
use forkio::Server;
use forkio::prefork::WorkerHandle;
use forkio_tests::http::{self, connect, request};
use forkio_tests::{Program, read_to_end, scenarios, wait_until};
use futures_util::stream::{self, Stream, StreamExt};

use crate::http::exit;

/// Answers each message with the worker's process id. With `ends`, closes the WebSocket when the worker must end.
async fn answer(mut socket: WebSocket, worker: WorkerHandle, ends: bool) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_))) => {
                    socket.send(process::id().to_string().into()).await.expect("sending");
                }
                _ => return,
            },
            () = worker.shutdown(), if ends => {
                // The client may have closed the connection.
                let _ = socket.send(Message::Close(None)).await;
                return;
            }
        }
    }
}

/// A stream with one event, which has the worker's process id. The stream then stays open.
fn events() -> impl Stream<Item = Result<Event, Infallible>> {
    let first = stream::iter([Ok(Event::default().data(process::id().to_string()))]);
    first.chain(stream::pending())
}

fn app(worker: WorkerHandle) -> Router {
    let socket = |ends: bool| {
        let worker = worker.clone();
        get(async move |upgrade: WebSocketUpgrade| upgrade.on_upgrade(move |socket| answer(socket, worker, ends)))
    };
    let (socket, polite) = (socket(false), socket(true));
    let events = get(async move || Sse::new(events().take_until(worker.shutdown())));
    Router::new().route("/socket", socket).route("/polite", polite).route("/events", events)
}

type Client = tungstenite::WebSocket<Box<dyn http::Stream>>;

#[track_caller]
fn open(address: &str, path: &str) -> Client {
    let request = format!("ws://{address}{path}");
    tungstenite::client(request, connect(address)).expect("a WebSocket").0
}

/// Asks for the process id of the worker.
#[track_caller]
fn ask(client: &mut Client) -> String {
    client.send("who".into()).expect("sending");
    client.read().expect("an answer").into_text().expect("text").to_string()
}

#[track_caller]
fn start() -> (Program, String) {
    Program::start_announced("streams::server", &[])
}

/// Reloads, and waits for a worker other than `old`.
#[track_caller]
fn reload(program: &Program, address: &str, old: &str) {
    program.signal(libc::SIGHUP);
    wait_until("a new worker answers", || ask(&mut open(address, "/socket")) != old);
}

scenarios!(
    /// The program of these scenarios. Its shutdown timeout is longer than any scenario.
    #[program]
    fn server() {
        let server = Server::new().bind("127.0.0.1:0").workers(1).shutdown_timeout(std::time::Duration::from_secs(600));
        exit(server.on_ready(|addresses| println!("{}", addresses[0])).serve(|worker| app(worker.handle())).run())
    }

    /// A WebSocket stays with its worker after a reload, until the client closes it.
    fn websocket_survives_a_reload() {
        let (program, address) = start();
        let mut client = open(&address, "/socket");
        let old = ask(&mut client);
        reload(&program, &address, &old);
        assert_eq!(ask(&mut client), old);
        client.close(None).expect("closing");
        // The server's close frame and the end of the stream are still to come.
        while client.read().is_ok() {}
        program.stop();
    }

    /// If a handler closes its WebSocket when the worker must end, the client can connect again, to a new worker.
    fn websocket_is_closed_by_its_handler() {
        let (program, address) = start();
        let mut client = open(&address, "/polite");
        let old = ask(&mut client);
        reload(&program, &address, &old);
        assert!(client.read().expect("a message").is_close());
        assert_ne!(ask(&mut open(&address, "/polite")), old);
        program.stop();
    }

    /// Server-sent events end as a complete response when the worker must end. The client then reaches a new worker.
    fn events_end_with_their_worker() {
        let (program, address) = start();
        let mut first = BufReader::new(request(&address, "/events"));
        let old = data(&mut first);
        reload(&program, &address, &old);
        let rest = read_to_end(&mut first);
        assert!(rest.ends_with("\r\n0\r\n\r\n"), "cut off: {rest:?}");
        let mut second = BufReader::new(request(&address, "/events"));
        assert_ne!(data(&mut second), old);
        program.stop();
        read_to_end(second);
    }
);

/// The data of the next event.
#[track_caller]
fn data(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("an event"), 0, "the end");
    }
    line["data: ".len()..].trim_end().to_owned()
}
