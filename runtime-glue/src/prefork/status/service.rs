//! The service worker: a process beside the workers that serves the status page.

use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::parent_id;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::channel::Channel;
use super::history::{History, PERIOD};
use super::http;
use super::process::Listening;
use crate::prefork::connections::Common;
use crate::prefork::options::WorkerSettings;
use crate::prefork::signals::{Signals, WorkerCommand};
use crate::prefork::worker::{ExitOnDrop, stay_in, tie_to_supervisor};

const FAILED: i32 = 1;
const PANICKED: i32 = 101;

/// How long the service worker continues after the supervisor has closed the channel, to finish its responses.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Everything that a child needs to become the service worker.
pub(in crate::prefork) struct ServiceProcess {
    pub(super) guard: ExitOnDrop,
    pub(super) supervisor: u32,
    pub(super) channel: UnixStream,
    pub(super) page: Option<Listening>,
    pub(super) control: Option<UnixListener>,
    pub(super) common: Arc<Common>,
    pub(super) signals: Signals,
    pub(super) settings: WorkerSettings,
}

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) common: Arc<Common>,
    pub(super) supervisor: u32,
    pub(super) channel: Channel,
    history: Mutex<History>,
}

impl Service {
    pub(super) fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the state of the server once a second, which is also the heartbeat of this process.
    async fn note_history(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.common.slots.beat_of_service();
            let totals = self.common.scoreboard.totals(&self.common.slots);
            self.history.lock().unwrap_or_else(PoisonError::into_inner).note(totals);
        }
    }
}

impl ServiceProcess {
    /// Serves on a runtime of its own, so that no task of the application runs in this process. The inherited runtime, which
    /// the caller drives, does not run any more.
    pub(in crate::prefork) fn run(self) -> ! {
        let span = tracing::error_span!("service", pid = process::id());
        stay_in(span.clone());
        let serve = || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => {
                tracing::error!(%error, "cannot build the runtime of the service worker");
                process::exit(FAILED)
            }
        };
        let work = || {
            stay_in(span);
            serve()
        };
        // Start another thread, because this one is inside a runtime.
        thread::scope(|scope| {
            let own = thread::Builder::new().name("service".to_owned()).spawn_scoped(scope, work);
            let status = match own {
                // The thread exits the process. If it returns instead, it has panicked, and the panic hook has printed that.
                Ok(thread) => thread.join().map_or(PANICKED, |()| PANICKED),
                Err(error) => {
                    tracing::error!(%error, "cannot start the thread of the service worker");
                    FAILED
                }
            };
            process::exit(status)
        })
    }

    async fn serve(self) {
        let ServiceProcess { guard: _guard, supervisor, channel, page, control, common, signals, settings } = self;
        let owner = rustix::process::geteuid().as_raw();
        if let Err(error) = settings.privileges.apply() {
            tracing::error!(%error, "the service worker cannot start");
            process::exit(FAILED)
        }
        // A change of credentials may clear the parent-death signal, so this comes after `apply`.
        if !tie_to_supervisor(supervisor, None) {
            process::exit(0)
        }
        tokio::spawn(follow_signals(signals, supervisor, settings));
        let (channel, closed) = match Channel::new(channel) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::error!(%error, "the service worker cannot talk to the supervisor");
                process::exit(FAILED)
            }
        };
        let service = Arc::new(Service { common, supervisor, channel, history: Mutex::new(History::default()) });
        let notes = Arc::clone(&service);
        tokio::spawn(async move { notes.note_history().await });
        let mut accepting = tokio::task::JoinSet::new();
        let listeners: Result<(), std::io::Error> = (|| {
            match page {
                Some(Listening::Tcp(listener)) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    accepting.spawn(http::serve_tcp(listener, Arc::clone(&service)));
                }
                Some(Listening::Unix(listener)) => {
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    accepting.spawn(http::serve_unix(listener, Arc::clone(&service), None));
                }
                None => {}
            }
            if let Some(listener) = control {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                accepting.spawn(http::serve_unix(listener, Arc::clone(&service), Some(owner)));
            }
            Ok(())
        })();
        if let Err(error) = listeners {
            tracing::error!(%error, "the service worker cannot listen");
            process::exit(FAILED)
        }
        closed.await;
        // This closes the listeners. Connections are tasks of their own, and continue.
        accepting.abort_all();
        sleep(LAST_ANSWERS).await;
        process::exit(0)
    }
}

/// Follows signals. The service worker ends with the supervisor. Until then it ignores SIGTERM and SIGINT, so that the page
/// shows the drain.
async fn follow_signals(mut signals: Signals, supervisor: u32, settings: WorkerSettings) {
    loop {
        match signals.worker_command().await.0 {
            WorkerCommand::Drain if parent_id() != supervisor => process::exit(0),
            WorkerCommand::Exit => process::exit(128 + libc::SIGQUIT),
            WorkerCommand::ReopenLogs => settings.reopen_logs(),
            WorkerCommand::Drain | WorkerCommand::Ignore => {}
        }
    }
}
