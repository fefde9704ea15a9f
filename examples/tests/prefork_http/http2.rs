//! HTTP/2: a worker that ends sends GOAWAY, and finishes the streams that have begun. Connections without a request time out.

use std::io::{Read, Write};

use forkio_tests::{connect_tcp, limit, scenarios};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::server::Server;

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://test{path}")).body(Empty::new()).expect("a request")
}

async fn text(response: hyper::Response<hyper::body::Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// The first bytes of an HTTP/2 client: the preface, and an empty SETTINGS frame.
const BEGINNING: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads frames up to GOAWAY.
fn read_goaway(client: &mut impl Read) {
    const GOAWAY: u8 = 7;
    loop {
        let mut header = [0; 9];
        client.read_exact(&mut header).expect("a frame");
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        client.read_exact(&mut vec![0; length as usize]).expect("the payload of a frame");
        if header[3] == GOAWAY {
            return;
        }
    }
}

scenarios!(
    /// A worker that must end sends GOAWAY, and finishes the streams that have begun.
    fn goaway_finishes_streams() {
        for kind in [Signal::HUP, Signal::TERM] {
            let server = Server::start(&["--workers", "1", "--http2"]);
            // The same port serves HTTP/1.1, too.
            server.check_serving();
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let stream = TcpStream::connect(server.address()).await.expect("connecting");
                let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
                let (mut sender, connection) = handshake.await.expect("a handshake");
                let connection = tokio::spawn(connection);
                let response = sender.send_request(get("/table/77")).await.expect("an answer");
                assert_eq!(text(response).await, "7");
                let slow = tokio::spawn(sender.send_request(get("/sleep/1000")));
                // An answer to a later stream shows that this one has begun.
                let response = sender.send_request(get("/table/35")).await.expect("an answer");
                assert_eq!(text(response).await, "5");
                server.signal(kind);
                let response = slow.await.expect("a task").expect("the answer to the request in flight");
                assert_eq!(text(response).await, "slept 1000 ms");
                let ended = timeout(limit(), connection).await.expect("the connection ends").expect("a task");
                assert!(ended.is_ok(), "{ended:?} instead of GOAWAY and the end");
            });
            if kind == Signal::HUP {
                server.until_logged("reloaded");
                server.stop();
            } else {
                server.ends_with(0);
            }
        }
    }

    /// A client that begins to speak HTTP/2 after its worker was told to end gets GOAWAY at once.
    fn late_beginning_gets_goaway() {
        let server = Server::start(&["--workers", "1", "--http2", "--header-timeout", "600"]);
        let mut late = connect_tcp(server.address());
        // There is one queue, so an answer to this connection shows that the worker has accepted the earlier one.
        server.check_serving();
        server.signal_until(Signal::TERM, "draining");
        late.write_all(BEGINNING.as_bytes()).expect("sending");
        read_goaway(&mut late);
        drop(late);
        server.ends_with(0);
    }

    /// The server closes a connection without a request after the header timeout, regardless of the bytes that the client
    /// has sent.
    fn connection_without_a_request_is_timed_out() {
        let server = Server::start(&["--workers", "1", "--http2", "--header-timeout", "0.3"]);
        for beginning in ["", "P", "PRI * HTTP/2.0\r\n", BEGINNING, "GET / HTTP/1.1\r\n"] {
            let mut client = connect_tcp(server.address());
            client.write_all(beginning.as_bytes()).expect("sending");
            if beginning == BEGINNING {
                // The server sends GOAWAY first, because a request may be on its way.
                read_goaway(&mut client);
            }
            client.read_to_end(&mut Vec::new()).expect("the end");
        }
        server.stop();
    }
);
