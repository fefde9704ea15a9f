//! Clients, each of which sends one request after the other.

use std::io::{self, BufReader};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use forkio_tests::http::{Response, Stream, try_connect};

use crate::{IDLE_GRACE, Soak};

/// Sends a request, in one write so that it is one packet. Reads the response.
fn request(stream: &mut BufReader<Box<dyn Stream>>, method: &str, path: &str, keeps: bool) -> io::Result<Response> {
    let connection = if keeps { "keep-alive" } else { "close" };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    Response::read(stream)
}

/// Sends requests for the id of the worker until the soak ends.
pub(crate) fn client(soak: &Soak, address: &str, keeps: bool) {
    while !soak.stop.load(Ordering::Relaxed) {
        let connected = Instant::now();
        let mut stream = match try_connect(address) {
            Ok(stream) => BufReader::new(stream),
            Err(error) => {
                soak.fail(format!("cannot connect: {error}"));
                continue;
            }
        };
        let (mut worker, mut answered) = (None, connected);
        loop {
            match request(&mut stream, "GET", "/pid", keeps) {
                Ok(answer) if answer.status == 200 => {
                    soak.requests.fetch_add(1, Ordering::Relaxed);
                    (worker, answered) = (answer.text().parse().ok(), Instant::now());
                    if answer.closes() || !keeps || soak.stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(answer) => {
                    soak.fail(format!("the status of an answer is {}", answer.status));
                    break;
                }
                // On a busy machine, this client may have been so slow that the server has closed an idle connection.
                Err(_) if worker.is_some() && answered.elapsed() > IDLE_GRACE => {
                    soak.on_idle.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => {
                    soak.lost(worker, connected, &error);
                    break;
                }
            }
            // Leave processor time to the server.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads the status page in all its forms, and retires workers over the control socket.
pub(crate) fn operator(soak: &Soak, page: &str, control: &str, workers: usize) {
    let ask = |address, method, path: &str| request(&mut BufReader::new(try_connect(address)?), method, path, false);
    for round in 0.. {
        for path in ["/status", "/status.json", "/metrics", "/healthz", "/readyz"] {
            if soak.stop.load(Ordering::Relaxed) {
                return;
            }
            match ask(page, "GET", path) {
                Ok(answer) if answer.status == 200 || path == "/readyz" => {
                    soak.pages.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => soak.fail(format!("the status of {path} is {}", answer.status)),
                // The service worker may have been killed.
                Err(_) => {
                    soak.pages_lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        // Ignore errors: the worker may not be ready, or the service worker may be killed before it answers.
        let _ = ask(control, "POST", &format!("/control/retire?worker={}&wait=no", round % workers));
    }
}
