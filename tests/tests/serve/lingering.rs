//! Clients that send more than the server reads.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use forkio_tests::http::{body, connect};
use forkio_tests::{scenarios, wait_until};

use crate::http::start_tcp;
use crate::timeouts::LIMIT;

/// Sends bytes until the connection is reset, and checks that this takes less than 20 seconds. A connection that lingers takes
/// bytes for half a minute.
#[track_caller]
fn check_reset_at_once(stream: &mut impl Write) {
    let start = Instant::now();
    wait_until("the connection is reset", || stream.write_all(b"x").is_err());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

scenarios!(
    /// A client may send the rest of a body that the handler does not read. It then reads the response.
    fn body_that_is_not_read() {
        const LENGTH: usize = 32 * 1024 * 1024;
        let (program, address) = start_tcp(&[]);
        let mut stream = connect(&address);
        write!(stream, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\n\r\n")
            .expect("sending a head");
        stream.write_all(&vec![b'x'; LENGTH]).expect("sending a body");
        assert!(!body(stream).is_empty());
        program.stop();
    }

    /// A client may send the rest of a head that is too long. It then reads the response.
    fn head_that_is_too_long() {
        let (program, address) = start_tcp(&[]);
        let mut stream = connect(&address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nLong: ").expect("sending the beginning of a head");
        stream.write_all(&vec![b'x'; 32 * 1024 * 1024]).expect("sending the rest");
        let mut response = [0; 12];
        stream.read_exact(&mut response).expect("the response");
        assert_eq!(&response, b"HTTP/1.1 431");
        drop(stream);
        program.stop();
    }

    /// The server closes a connection at once if it has read all of the last request's body. It does not wait until the client
    /// has closed its side, too.
    fn body_that_is_known_to_be_read() {
        let (program, address) = start_tcp(&[]);
        for parts in [&["Content-Length: 5\r\n\r\nhello"][..], &["Content-Length: 5\r\n\r", "\nhe", "llo"]] {
            let mut stream = connect(&address);
            write!(stream, "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n").expect("sending a head");
            for part in parts {
                stream.write_all(part.as_bytes()).expect("sending");
                std::thread::sleep(Duration::from_millis(50)); // Lets the parts arrive separately.
            }
            body(&mut stream);
            check_reset_at_once(&mut stream);
        }
        program.stop();
    }

    /// A worker that must end does not linger on a connection whose header timeout has passed: it closes the connection at once.
    fn slow_head_at_the_end() {
        let (program, address) = start_tcp(&["--header-timeout", LIMIT]);
        let mut stream = connect(&address);
        write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT").expect("sending");
        program.signal(libc::SIGTERM);
        let mut response = Vec::new();
        stream.read_to_end(&mut response).expect("the end of the stream");
        check_reset_at_once(&mut stream);
        program.finish_well();
    }
);
