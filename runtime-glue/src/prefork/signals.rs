//! The signals of a prefork server, in one table.

use std::future::poll_fn;
use std::io;
use std::os::unix::process::parent_id;
use std::process;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::options::WorkerSettings;
use crate::sys;

/// What a signal tells the supervisor to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Drain the workers and end. A second signal acts like [`StopNow`](Command::StopNow).
    Stop,
    /// Kill the workers and end.
    StopNow,
    /// Start a new generation of workers, then retire the old one.
    Reload,
    /// Open the log files again, in all processes.
    ReopenLogs,
    /// Start the program again, from its file, and hand the listeners to it.
    Upgrade,
    /// Run one more worker.
    Grow,
    /// Run one worker fewer.
    Shrink,
    /// Retire all workers, and start none until a reload or a change of their number.
    RetireAll,
    /// A child process has ended. It may be one that the supervisor has not started.
    ChildEnded,
}

/// What a signal tells a worker to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerCommand {
    /// Finish the work that has begun, and end.
    Drain,
    /// End at once.
    Exit,
    ReopenLogs,
    /// Nothing: SIGCHLD, or a signal for the supervisor. Workers also get the latter if it is sent to the process group.
    Ignore,
}

struct Entry {
    number: i32,
    name: &'static str,
    supervisor: Command,
    worker: WorkerCommand,
}

/// All signals. `docs/operating.md` lists them for users, with their meanings in nginx and gunicorn.
#[rustfmt::skip]
const TABLE: [Entry; 10] = [
    Entry { number: libc::SIGTERM,  name: "SIGTERM",  supervisor: Command::Stop,       worker: WorkerCommand::Drain },
    Entry { number: libc::SIGINT,   name: "SIGINT",   supervisor: Command::Stop,       worker: WorkerCommand::Drain },
    Entry { number: libc::SIGQUIT,  name: "SIGQUIT",  supervisor: Command::StopNow,    worker: WorkerCommand::Exit },
    Entry { number: libc::SIGHUP,   name: "SIGHUP",   supervisor: Command::Reload,     worker: WorkerCommand::Ignore },
    Entry { number: libc::SIGUSR1,  name: "SIGUSR1",  supervisor: Command::ReopenLogs, worker: WorkerCommand::ReopenLogs },
    Entry { number: libc::SIGUSR2,  name: "SIGUSR2",  supervisor: Command::Upgrade,    worker: WorkerCommand::Ignore },
    Entry { number: libc::SIGTTIN,  name: "SIGTTIN",  supervisor: Command::Grow,       worker: WorkerCommand::Ignore },
    Entry { number: libc::SIGTTOU,  name: "SIGTTOU",  supervisor: Command::Shrink,     worker: WorkerCommand::Ignore },
    Entry { number: libc::SIGWINCH, name: "SIGWINCH", supervisor: Command::RetireAll,  worker: WorkerCommand::Ignore },
    Entry { number: libc::SIGCHLD,  name: "SIGCHLD",  supervisor: Command::ChildEnded, worker: WorkerCommand::Ignore },
];

/// The streams of all signals in the table. The supervisor installs them before it forks; templates and workers inherit them.
pub(super) struct Signals {
    streams: Vec<(&'static Entry, Signal)>,
}

impl Signals {
    pub(super) fn install() -> io::Result<Signals> {
        let streams = TABLE.iter().map(|entry| Ok((entry, signal(SignalKind::from_raw(entry.number))?)));
        let streams = streams.collect::<io::Result<_>>()?;
        // The program that started this one may have blocked these signals. SIGABRT makes a stuck worker print its stack.
        sys::unblock_signals(TABLE.iter().map(|entry| entry.number).chain([libc::SIGABRT]))?;
        Ok(Signals { streams })
    }

    /// Makes a set without signals.
    pub(super) fn none() -> Signals {
        Signals { streams: Vec::new() }
    }

    /// Waits for the next signal that the supervisor receives.
    pub(super) async fn command(&mut self) -> (Command, &'static str) {
        let entry = poll_fn(|cx| self.poll(cx)).await;
        (entry.supervisor, entry.name)
    }

    /// Waits for the next signal that this worker receives.
    pub(super) async fn worker_command(&mut self) -> (WorkerCommand, &'static str) {
        let entry = poll_fn(|cx| self.poll(cx)).await;
        (entry.worker, entry.name)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static Entry> {
        for (entry, stream) in &mut self.streams {
            if stream.poll_recv(cx).is_ready() {
                return Poll::Ready(entry);
            }
        }
        Poll::Pending
    }
}

/// Carries out the commands of signals in a process that serves no connections of the application: a template, or the service
/// worker. The process ends with the supervisor. Until then it ignores SIGTERM and SIGINT.
pub(super) async fn follow_without_drain(mut signals: Signals, supervisor: u32, settings: WorkerSettings) {
    loop {
        match signals.worker_command().await.0 {
            WorkerCommand::Drain if parent_id() != supervisor => process::exit(0),
            WorkerCommand::Exit => process::exit(128 + libc::SIGQUIT),
            WorkerCommand::ReopenLogs => settings.reopen_logs(),
            WorkerCommand::Drain | WorkerCommand::Ignore => {}
        }
    }
}
