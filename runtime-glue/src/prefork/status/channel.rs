//! The service worker's end of its channel to the supervisor. `process.rs` has the table of messages.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixStream, unix::OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

/// How long the service worker uses a measurement of the workers' memory.
const MEMORY_PERIOD: Duration = Duration::from_secs(2);

/// How long a response waits for the supervisor to measure the memory. A supervisor that is forking takes longer.
const MEMORY_WAIT: Duration = Duration::from_millis(500);

/// The supervisor's reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The action has begun.
    Accepted,
    Done(String),
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Channel {
    lines: UnboundedSender<String>,
    state: std::sync::Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Mutex<Waiting>,
    memory: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    commands: HashMap<u64, UnboundedSender<Reply>>,
    last: u64,
    memory_asked: Option<Instant>,
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let reply = match word {
            "memory" => return self.memory.notify_waiters(),
            "accepted" => Reply::Accepted,
            "done" => Reply::Done(text.to_owned()),
            "failed" => Reply::Failed(text.to_owned()),
            _ => return tracing::error!(line, "unknown line from the supervisor"),
        };
        let Ok(id) = id.parse() else { return };
        let mut waiting = self.waiting();
        if let Some(command) = waiting.commands.get(&id) {
            // The client may have gone away.
            let _ = command.send(reply.clone());
        }
        if reply != Reply::Accepted {
            waiting.commands.remove(&id);
        }
    }
}

impl Channel {
    /// Returns the channel, and a future that resolves when the supervisor closes the channel, or when the channel fails.
    pub(super) fn new(
        stream: std::os::unix::net::UnixStream,
    ) -> io::Result<(Channel, impl Future<Output = ()> + use<>)> {
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let (lines, receiver) = unbounded_channel();
        let state = std::sync::Arc::new(State::default());
        let writing = tokio::spawn(write_lines(write, receiver));
        let reading = tokio::spawn(read_lines(read, std::sync::Arc::clone(&state)));
        Ok((Channel { lines, state }, async {
            tokio::select! {
                _ = writing => {}
                _ = reading => {}
            }
        }))
    }

    /// Asks the supervisor to carry out a command. The receiver ends without a final reply if the supervisor ends.
    pub(super) fn command(&self, command: &str) -> UnboundedReceiver<Reply> {
        let (sender, receiver) = unbounded_channel();
        let mut waiting = self.state.waiting();
        waiting.last += 1;
        let id = waiting.last;
        if self.lines.send(format!("control {id} {command}\n")).is_ok() {
            waiting.commands.insert(id, sender);
        }
        receiver
    }

    /// Asks the supervisor to measure the memory of the workers, unless the last request was less than [`MEMORY_PERIOD`] ago.
    pub(super) async fn refresh_memory(&self) {
        let mut measured = std::pin::pin!(self.state.memory.notified());
        measured.as_mut().enable();
        {
            let mut waiting = self.state.waiting();
            if waiting.memory_asked.is_some_and(|asked| asked.elapsed() < MEMORY_PERIOD) {
                return;
            }
            waiting.memory_asked = Some(Instant::now());
        }
        if self.lines.send("memory\n".to_owned()).is_ok() {
            let _is_late = timeout(MEMORY_WAIT, measured).await;
        }
    }
}

async fn write_lines(mut stream: OwnedWriteHalf, mut lines: UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = stream.write_all(line.as_bytes()).await {
            return tracing::warn!(%error, "cannot talk to the supervisor");
        }
    }
}

async fn read_lines(stream: OwnedReadHalf, state: std::sync::Arc<State>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        state.hear(&line);
    }
    // Drops the senders, so that waiting clients learn that no reply will come.
    state.waiting().commands.clear();
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    /// The service worker ends if it cannot send commands, so that the supervisor starts another one.
    #[tokio::test]
    async fn a_failed_write_closes_the_channel() {
        let (stream, supervisor) = std::os::unix::net::UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        supervisor.shutdown(Shutdown::Read).unwrap();
        let (channel, closed) = Channel::new(stream).unwrap();
        let _replies = channel.command("reload");
        timeout(Duration::from_secs(60), closed).await.expect("the channel closes");
    }
}
