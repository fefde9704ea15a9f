//! Sends a command to the server, shows its progress, and waits for the result.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::client::{STATE_TIMEOUT, send};
use crate::options::Wait;
use crate::state::State;
use crate::{Failure, print, report};

/// How often to ask the server for the progress.
const PERIOD: Duration = Duration::from_millis(200);

/// The shortest time limit of a read: a socket rejects a limit of zero.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long to look for the new program of an upgrade, if the old program ended without an answer.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(5);

/// The result of a command, as the server sends it.
#[derive(Debug, Deserialize)]
struct Outcome {
    message: String,
}

/// Tells the server to carry out a command, and waits for the result.
pub(crate) fn run(control: &Path, name: &'static str, target: &str, wait: &Wait) -> Result<(), Failure> {
    let deadline = wait.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let state = || State::of(control, left().map_or(STATE_TIMEOUT, |left| left.clamp(SHORTEST, STATE_TIMEOUT)));
    // An upgrade may end the old program before that program answers. The upgrade has succeeded if a server with another
    // process id answers then.
    let before = if name == "upgrade" { Some(state()?.server.pid) } else { None };
    let (sender, receiver) = channel();
    let mut target = target.to_owned();
    if wait.no_wait {
        target.push_str(if target.contains('?') { "&wait=no" } else { "?wait=no" });
    }
    // The server carries out the command from now on, whether or not this program waits.
    let sent = send(control, "POST", &target)?;
    thread::spawn(move || {
        // A closed channel means that the main thread has stopped waiting.
        let _ = sender.send(sent.answer(None));
    });
    let mut shown = String::new();
    let answer = loop {
        match receiver.recv_timeout(left().map_or(PERIOD, |left| left.min(PERIOD))) {
            Ok(answer) => break answer,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Unreachable("the thread that waits for the server has ended".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if left().is_some_and(|left| left.is_zero()) => {
                let timeout = wait.timeout.unwrap_or_default();
                return Err(Failure::TimedOut(format!("{name}: not done after {timeout:?}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if wait.quiet {
            continue;
        }
        // Ignore an error: during an upgrade, the server has no service worker for a moment.
        let progress = state().map_or(String::new(), |state| progress(&state));
        if !progress.is_empty() && progress != shown {
            report(format_args!("{name}: {progress}"));
            shown = progress;
        }
    };
    let answer = match (answer, before) {
        (Err(Failure::Unreachable(error)), Some(before)) => {
            let limit = left().map_or(SUCCESSOR_WAIT, |left| left.min(SUCCESSOR_WAIT));
            let pid = successor(state, limit, before).ok_or(Failure::Unreachable(error))?;
            return print(format!("{name}: process {pid} serves\n").as_bytes()).map(drop);
        }
        (answer, _) => answer?,
    };
    if answer.status == 403 {
        return Err(Failure::Refused(String::from_utf8_lossy(&answer.body).trim().to_owned()));
    }
    let outcome: Outcome = answer.json()?;
    match answer.status {
        200..=299 => print(format!("{name}: {}\n", outcome.message).as_bytes()).map(drop),
        503 => Err(Failure::Unreachable(format!("{name}: {}", outcome.message))),
        _ => Err(Failure::Refused(format!("{name}: {}", outcome.message))),
    }
}

fn progress(state: &State) -> String {
    let server = &state.server;
    let newest = server.next_generation.unwrap_or(server.generation);
    format!(
        "{}, {} of {} workers of generation {newest} serve",
        server.state,
        state.serving(Some(newest)),
        server.wanted
    )
}

/// Waits at most `limit` until a supervisor other than `before` answers. Returns its process id.
fn successor(state: impl Fn() -> Result<State, Failure>, limit: Duration, before: u32) -> Option<u32> {
    let start = Instant::now();
    while start.elapsed() < limit {
        match state() {
            Ok(state) if state.server.pid != before => return Some(state.server.pid),
            _ => {}
        }
        thread::sleep(PERIOD);
    }
    None
}
