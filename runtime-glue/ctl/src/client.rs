//! Requests to the control socket: HTTP/1.1, one request per connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Failure;

/// The `timeout` of [`Sent::answer`] for requests for the server's state, unless `--timeout` is shorter.
pub(crate) const STATE_TIMEOUT: Duration = Duration::from_secs(10);

/// The size limit of an answer, in bytes. The state of a server is much smaller.
const MAX_ANSWER: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let text = String::from_utf8_lossy(&self.body);
            Failure::Unreachable(format!("the answer is not that of a forkio server of this version: {error}: {text}"))
        })
    }
}

/// A request that has been sent.
#[derive(Debug)]
pub(crate) struct Sent {
    stream: UnixStream,
    control: PathBuf,
}

fn unreachable(doing: &str, control: &Path, error: &io::Error) -> Failure {
    Failure::Unreachable(format!("cannot {doing} {}: {error}", control.display()))
}

/// Sends a request.
///
/// # Errors
///
/// [`Failure::Unreachable`].
pub(crate) fn send(control: &Path, method: &str, target: &str) -> Result<Sent, Failure> {
    let mut stream = UnixStream::connect(control).map_err(|error| unreachable("connect to", control, &error))?;
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(|error| unreachable("write to", control, &error))?;
    Ok(Sent { stream, control: control.to_owned() })
}

impl Sent {
    /// Waits for the answer. `timeout` limits each read, not the whole wait.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`].
    pub(crate) fn answer(self, timeout: Option<Duration>) -> Result<Answer, Failure> {
        let Sent { stream, control } = self;
        stream.set_read_timeout(timeout).map_err(|error| unreachable("wait for", &control, &error))?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Failure::Unreachable(format!("the server at {} does not answer", control.display()))
            }
            _ => unreachable("read from", &control, &error),
        })?;
        parse(&bytes).ok_or_else(|| {
            Failure::Unreachable(format!(
                "the server at {} closed the connection without a complete HTTP answer",
                control.display()
            ))
        })
    }
}

/// Parses an answer. Returns `None` if it is incomplete, or not HTTP.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    let status = response.code?;
    let content_length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let content_length: usize = std::str::from_utf8(content_length.value).ok()?.trim().parse().ok()?;
    let body = bytes.get(length..length.checked_add(content_length)?)?;
    Some(Answer { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_answers() {
        let answer = parse(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((answer.status, &*answer.body), (409, &b"hi"[..]));
    }

    #[test]
    fn incomplete_answers() {
        for bytes in
            [&b""[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", b"220 smtp\r\n\r\n"]
        {
            assert!(parse(bytes).is_none(), "{bytes:?}");
        }
    }
}
