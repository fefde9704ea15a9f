//! The service worker: the process that serves the status page and the control socket.

use std::mem::ManuallyDrop;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::channel::Channel;
use super::history::{History, PERIOD};
use super::http::{Access, MOST_CONNECTIONS, MOST_CONTROL_CONNECTIONS, serve_listener};
use super::process::Listening;
use crate::prefork::connections::Common;
use crate::prefork::options::WorkerSettings;
use crate::prefork::signals::{Signals, follow_without_drain};
use crate::prefork::worker::{ExitOnDrop, fail, run_on_thread, stay_in, tie_to_supervisor};

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

/// The state of the service worker, which all of its connections share.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) common: Arc<Common>,
    pub(super) supervisor: u32,
    pub(super) channel: Channel,
    history: Mutex<History>,
}

impl ServiceState {
    pub(super) fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the state of the server once a second. Each note is also a heartbeat of this process.
    async fn note_history(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.common.slots.beat_of_service();
            let Common { scoreboard, slots, .. } = &*self.common;
            let totals = scoreboard.read_at_once(|| scoreboard.totals(slots));
            self.history.lock().unwrap_or_else(PoisonError::into_inner).note(totals);
        }
    }
}

impl ServiceProcess {
    /// Serves on a runtime of its own, and never returns to the inherited one, so that no task of the application runs
    /// in this process.
    pub(in crate::prefork) fn run(self) -> ! {
        let span = tracing::error_span!("service", pid = process::id());
        stay_in(span.clone());
        let owner = rustix::process::geteuid().as_raw();
        // Linux keeps some privileges per thread, such as `no_new_privs`. Change those of this thread now: the thread that it
        // starts below inherits them.
        self.settings.privileges.apply().unwrap_or_else(|error| fail("the service worker cannot start", error));
        // If the thread does not start, dropping the guard would end the process before the error is logged.
        let service = ManuallyDrop::new(self);
        let work = || {
            stay_in(span);
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| fail("cannot build the runtime of the service worker", error));
            runtime.block_on(ManuallyDrop::into_inner(service).serve(owner))
        };
        run_on_thread("service".to_owned(), work)
    }

    /// Serves until the supervisor closes the channel. `owner` is the user that may control the server.
    async fn serve(self, owner: u32) {
        let ServiceProcess { guard: _guard, supervisor, channel, page, control, common, signals, settings } = self;
        // A change of credentials may clear the parent-death signal, so this comes after `run` has changed the credentials.
        if !tie_to_supervisor(supervisor, None) {
            process::exit(0)
        }
        // This process shows the drain on the status page, so it ignores the signals to drain.
        tokio::spawn(follow_without_drain(signals, supervisor, settings));
        let (channel, closed) = Channel::new(channel)
            .unwrap_or_else(|error| fail("the service worker cannot talk to the supervisor", error));
        let service = Arc::new(ServiceState { common, supervisor, channel, history: Mutex::new(History::default()) });
        let notes = Arc::clone(&service);
        tokio::spawn(async move { notes.note_history().await });
        let mut accepting = tokio::task::JoinSet::new();
        let listening: Result<(), std::io::Error> = (|| {
            match page {
                Some(Listening::Tcp(listener)) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    accepting.spawn(serve_listener(listener, MOST_CONNECTIONS, Arc::clone(&service), |_| Access::Read));
                }
                Some(Listening::Unix(listener)) => {
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    tokio::spawn(serve_listener(listener, MOST_CONNECTIONS, Arc::clone(&service), |_| Access::Read));
                }
                None => {}
            }
            if let Some(listener) = control {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                let access = move |stream: &_| Access::to_control(stream, owner);
                tokio::spawn(serve_listener(listener, MOST_CONTROL_CONNECTIONS, Arc::clone(&service), access));
            }
            Ok(())
        })();
        listening.unwrap_or_else(|error| fail("the service worker cannot listen", error));
        closed.await;
        // In an upgrade, the new program has the TCP listener too, so close it here. The Unix listeners still accept,
        // because the new program may not have put its sockets in place yet. Open connections continue.
        accepting.abort_all();
        sleep(LAST_ANSWERS).await;
        process::exit(0)
    }
}
