//! The template: a process that loads the application and forks the workers of one generation.
//!
//! The supervisor and a template talk over a socket pair, in lines:
//!
//! | line | from | meaning |
//! |---|---|---|
//! | `loaded` | template | the application is loaded; workers can be forked |
//! | `failed TEXT` | template | the application could not be loaded; the template ends |
//! | `fork INDEX SLOT REQUESTS` | supervisor | fork a worker (`REQUESTS`: its limit of requests, or 0 for no limit) |
//! | `forked PID` | template | the worker runs and is a child of the supervisor |
//! | `refused TEXT` | template | the worker could not be forked |
//!
//! A template forks a worker through a process in between, which ends at once. The supervisor, which adopts orphans, then waits
//! for the worker and signals it like any other. So workers outlive their template.

use std::fmt::Display;
use std::io;
use std::panic::AssertUnwindSafe;
use std::process::{self, ExitStatus};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tracing::Instrument;

use super::accept_queues::AcceptQueues;
use super::connections::Common;
use super::options::WorkerSettings;
use super::signals::{Signals, follow_without_drain};
use super::worker::{Assignment, ExitOnDrop, FAILED, PANICKED, tie_to_supervisor};
use crate::{Child, Fork, ForkError, ForkOptions, lineage, parent_only, sys};

/// The longest line of a template, in bytes. A template may have fewer privileges than the supervisor, and must not fill the
/// supervisor's memory.
const LONGEST_LINE: usize = 64 * 1024;

/// The longest text of the message `failed`, in characters.
const LONGEST_ERROR: usize = 8 * 1024;

/// A template, as the supervisor sees it.
pub(super) struct TemplateProcess {
    pub(super) child: Child,
    channel: UnixStream,
    /// The bytes after the last message. `None` if the template has been killed because they were not a message.
    received: Option<Vec<u8>>,
}

/// A message of a template, or its end.
#[derive(Debug)]
pub(super) enum Message {
    Loaded,
    Failed(String),
    Forked(u32),
    Refused(String),
    Ended(ExitStatus),
}

impl TemplateProcess {
    pub(super) fn new(child: Child, channel: UnixStream) -> TemplateProcess {
        TemplateProcess { child, channel, received: Some(Vec::new()) }
    }

    pub(super) fn request(&self, index: usize, slot: usize, max_requests: Option<u64>) -> io::Result<()> {
        let line = format!("fork {index} {slot} {}\n", max_requests.unwrap_or(0));
        // There is one request at a time, so it fits into the socket's buffer.
        match self.channel.try_write(line.as_bytes())? {
            written if written == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        loop {
            if let Some(message) = self.next_message() {
                return Poll::Ready(message);
            }
            let Some(received) = &mut self.received else { break };
            let mut bytes = [0; 512];
            match self.channel.try_read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => received.extend(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.channel.poll_read_ready(cx).is_pending() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read from the template");
                    break;
                }
            }
        }
        let status = ready!(self.child.poll_wait(cx));
        // The template's last lines may have arrived before the runtime has the event, so read the socket directly.
        let mut bytes = [0; 512];
        if let Some(received) = &mut self.received {
            while let (true, Ok(read @ 1..)) =
                (received.len() <= LONGEST_LINE, rustix::io::read(&self.channel, &mut bytes))
            {
                received.extend(&bytes[..read]);
            }
        }
        if let Some(message) = self.next_message() {
            return Poll::Ready(message);
        }
        Poll::Ready(Message::Ended(status.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell how the template ended");
            super::supervisor::unknown_status()
        })))
    }

    /// Takes the next message out of the received bytes. Kills the template if they are not a message.
    fn next_message(&mut self) -> Option<Message> {
        let received = self.received.as_mut()?;
        let end = match received.iter().position(|byte| *byte == b'\n') {
            Some(end) => end,
            None if received.len() <= LONGEST_LINE => return None,
            None => 0,
        };
        let line: Vec<u8> = received.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        let message = parse(&line);
        if message.is_none() {
            let (pid, begin) = (self.child.id(), line.chars().take(80).collect::<String>());
            tracing::error!(pid, begin, "killing a template that sends something other than messages");
            // If the call fails, the process has ended.
            let _ = self.child.kill();
            self.received = None;
        }
        message
    }
}

fn parse(line: &str) -> Option<Message> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(match word {
        "loaded" => Message::Loaded,
        "failed" => Message::Failed(rest.to_owned()),
        "forked" => Message::Forked(rest.parse().ok()?),
        "refused" => Message::Refused(rest.to_owned()),
        _ => return None,
    })
}

/// Everything that a child needs to become a template.
pub(super) struct Template {
    pub(super) guard: ExitOnDrop,
    pub(super) channel: UnixStream,
    pub(super) supervisor: u32,
    pub(super) generation: u64,
    pub(super) queues: AcceptQueues,
    pub(super) is_per_cpu: bool,
    pub(super) common: Arc<Common>,
    pub(super) signals: Signals,
    pub(super) settings: WorkerSettings,
    pub(super) fork_options: ForkOptions,
    pub(super) huge_pages: bool,
}

/// A request of the supervisor.
struct Request {
    index: usize,
    slot: usize,
    max_requests: Option<u64>,
}

/// Loads the application, and forks workers until the supervisor closes the channel. Returns in the workers only.
pub(super) async fn run<F, L, T, E>(mut template: Template, load: F) -> (Assignment, T)
where
    F: FnOnce() -> L,
    L: Future<Output = Result<T, E>>,
    E: Display,
{
    // Only `prepare` is in this span: the workers that this process forks have spans of their own.
    let span = tracing::error_span!("template", pid = process::id(), generation = template.generation);
    let loaded = match prepare(&mut template, load).instrument(span).await {
        Ok(loaded) => loaded,
        Err(error) => {
            let error: String = error.replace('\n', " ").chars().take(LONGEST_ERROR).collect();
            let _ = template.channel.write_all(format!("failed {error}\n").as_bytes()).await;
            process::exit(FAILED)
        }
    };
    // The socket is not split, because dropping the writing half in a worker would shut it down for this process too.
    let mut channel = BufReader::new(template.channel);
    let mut line = String::new();
    let mut reply = "loaded\n".to_owned();
    loop {
        if channel.get_mut().write_all(reply.as_bytes()).await.is_err() {
            process::exit(0);
        }
        line.clear();
        let request = match channel.read_line(&mut line).await {
            Ok(1..) => parse_request(line.trim_end()),
            // The supervisor no longer needs this template, or has ended.
            _ => process::exit(0),
        };
        let Some(request) = request else {
            reply = "refused unknown request\n".to_owned();
            continue;
        };
        match fork_twice(&template.queues, &template.common, &template.fork_options, &request).await {
            Ok(Side::Template { worker }) => reply = format!("forked {worker}\n"),
            Ok(Side::Worker { between, signals }) => {
                let distributions = template.queues.common();
                if template.is_per_cpu {
                    super::supervisor::stay_on_cpu(request.index, template.generation);
                }
                let assignment = Assignment {
                    guard: template.guard,
                    index: request.index,
                    generation: template.generation,
                    slot: request.slot,
                    supervisor: template.supervisor,
                    between: Some(between),
                    max_requests: request.max_requests,
                    listeners: template.queues.into_listeners(request.index),
                    distributions,
                    common: template.common,
                    signals,
                    settings: template.settings,
                };
                return (assignment, loaded);
            }
            Err(error) => reply = format!("refused {}\n", error.replace('\n', " ")),
        }
    }
}

fn parse_request(line: &str) -> Option<Request> {
    let mut words = line.strip_prefix("fork ")?.split(' ');
    let index = words.next()?.parse().ok()?;
    let slot = words.next()?.parse().ok()?;
    let max_requests = words.next()?.parse().ok().filter(|requests| *requests > 0);
    Some(Request { index, slot, max_requests })
}

/// Becomes a template: gives up privileges, and loads the application.
async fn prepare<F, L, T, E>(template: &mut Template, load: F) -> Result<T, String>
where
    F: FnOnce() -> L,
    L: Future<Output = Result<T, E>>,
    E: Display,
{
    template.queues.hold().map_err(|error| format!("cannot mute a listener: {error}"))?;
    template.settings.privileges.apply().map_err(|error| error.to_string())?;
    if !tie_to_supervisor(template.supervisor, None) {
        process::exit(0);
    }
    // Without this, a synchronous load would continue long after the supervisor has ended.
    if let Err(error) = sys::end_with_parent(template.supervisor, Signal::KILL) {
        tracing::debug!(%error, "if the supervisor is killed, this template ends only after loading");
    }
    let signals = std::mem::replace(&mut template.signals, Signals::none());
    // The task is `parent_only`, because the workers that this process forks follow signals in another way.
    let follow_signals = follow_without_drain(signals, template.supervisor, template.settings.clone());
    tokio::spawn(parent_only(follow_signals.in_current_span()));
    tracing::info!("loading the application");
    let loaded = match AssertUnwindSafe(async { load().await }).catch_unwind().await {
        // The alternate form of errors such as anyhow's includes their sources.
        Ok(loaded) => loaded.map_err(|error| format!("{error:#}"))?,
        // The panic hook has printed the message already.
        Err(_) => process::exit(PANICKED),
    };
    if template.huge_pages {
        crate::sys::use_huge_pages();
    }
    Ok(loaded)
}

enum Side {
    Template {
        worker: u32,
    },
    Worker {
        /// The id of the process that forked this worker. That process then ends.
        between: u32,
        signals: Signals,
    },
}

async fn fork_twice(
    queues: &AcceptQueues,
    common: &Common,
    options: &ForkOptions,
    request: &Request,
) -> Result<Side, String> {
    let signals = Signals::install().map_err(|error| error.to_string())?;
    queues.hand_to(request.index).map_err(|error| error.to_string())?;
    let forked = options.fork_with(|| ()).await;
    if !matches!(forked, Ok(Fork::Child(_))) {
        queues.take_back(request.index);
    }
    match forked.map_err(|error| error.to_string())? {
        Fork::Parent(mut between) => {
            let status = between.wait().await.map_err(|error| ForkError::Watch(error).to_string())?;
            match common.slots.pid(request.slot) {
                worker if status.success() && worker != 0 => Ok(Side::Template { worker }),
                _ => Err(format!("the process between template and worker ended with {status}")),
            }
        }
        Fork::Child(_) => {
            let between = process::id();
            // No task of the application may run in this process.
            match options.fork_at_once(|| lineage::set_worker(request.index)) {
                Ok(Fork::Parent(worker)) => {
                    common.slots.set_pid(request.slot, worker.id());
                    sys::exit_at_once(0)
                }
                Ok(Fork::Child(_)) => {
                    // The supervisor needs this id to end the worker, and the process in between may die before it writes the id.
                    common.slots.set_pid(request.slot, process::id());
                    Ok(Side::Worker { between, signals })
                }
                Err(error) => {
                    tracing::error!(worker = request.index, %error, "cannot fork a worker");
                    sys::exit_at_once(FAILED)
                }
            }
        }
    }
}
