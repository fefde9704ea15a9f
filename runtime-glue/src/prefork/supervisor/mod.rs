//! The supervisor: one loop that checks the state, starts what is due, and waits.
//!
//! | file | concern |
//! |---|---|
//! | `mod.rs` | the state and the loop |
//! | `events.rs` | the events that the loop waits for, and the reactions to signals |
//! | `process.rs` | one worker process and its stages |
//! | `fork.rs` | which process starts next, and the forks of workers |
//! | `generation.rs` | generations and their templates |
//! | `plan.rs` | which workers there should be: worker indices, replacements, scaling |
//! | `reload.rs` | a new generation takes over from the old one |
//! | `dismissed.rs` | processes that the server no longer needs |
//! | `health.rs` | boot timeouts, heartbeats, limits, and how workers end |
//! | `stop.rs` | the end of the server |

mod dismissed;
mod events;
mod fork;
mod generation;
mod health;
mod plan;
mod process;
mod reload;
mod stop;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::dismissed::Dismissed;
pub(super) use self::fork::{Started, stay_on_cpu};
use self::generation::Generation;
use self::health::Checks;
use self::plan::Place;
use self::process::WorkerProcess;
use self::reload::Reload;
use super::accept_queues::AcceptQueues;
use super::connections::Common;
use super::crash::ReplacementRate;
use super::options::{MAX_WORKERS, Settings};
use super::pid_file::PidFile;
use super::reaper::Reaper;
use super::service_manager::ServiceManager;
use super::signals::Signals;
use super::status::{Service, ServiceProcess};
use super::template::Template;
use super::upgrade::{Predecessor, Process1, Program, Upgrade};
use super::worker::Assignment;
use super::{Distribution, Prefork, PreforkError, Stopped, inherited};
use crate::{Child, ForkError, ForkPolicy, runtime, sys};

/// How supervision ended.
pub(super) enum Outcome {
    /// This process is the supervisor, and the server has stopped.
    Stopped(Stopped),
    /// This process is a worker.
    Worker(Assignment),
    /// This process is a template, which loads the application.
    Template(Template),
    /// This process is the service worker, which serves the status page.
    #[cfg_attr(not(feature = "status"), expect(dead_code, reason = "there is no service worker"))]
    Service(ServiceProcess),
}

/// Returns the wait status for a process whose real status is unknown: exit code 255.
pub(super) fn unknown_status() -> ExitStatus {
    ExitStatus::from_raw(255 << 8)
}

pub(super) struct Supervisor {
    pub(super) settings: Settings,
    queues: AcceptQueues,
    pub(super) common: Arc<Common>,
    is_per_cpu: bool,
    signals: Signals,
    pub(super) workers: Vec<WorkerProcess>,
    /// The place of each worker index.
    places: Vec<Place>,
    wanted: usize,
    /// Whether SIGWINCH has retired all workers.
    is_dormant: bool,
    current: Generation,
    /// The number of the newest generation.
    generations: u64,
    reload: Option<Reload>,
    reload_is_queued: bool,
    /// The slot of the worker that is being replaced, on request or because it has reached a limit.
    replacing: Option<usize>,
    dismissed: Vec<Dismissed>,
    /// Slots of workers that may still appear after their template has ended or failed. Each has the time at which it
    /// is free again.
    quarantined: Vec<(usize, Instant)>,
    /// If forks are prepared in advance, the handles of workers that have ended since the last fork. Dropping a handle
    /// would discard the preparation.
    ended: Vec<Child>,
    prepares_ahead: bool,
    /// The future that waits until the other threads have ended, before a fork, and whether that is the fork of the service
    /// worker.
    threads: Option<(BoxFuture<'static, Result<(), ForkError>>, bool)>,
    /// How many forks in a row were refused, and when to try again.
    refusals: u32,
    fork_due: Option<Instant>,
    rate: ReplacementRate,
    checks: Checks,
    /// Whether the server has been ready.
    is_up: bool,
    /// When the server stops, if it is a lame duck, and the signal that has told it to.
    stops_at: Option<(Instant, &'static str)>,
    program: Program,
    upgrade: Option<Upgrade>,
    /// The program that this one replaces, until the server is ready.
    predecessor: Option<Predecessor>,
    /// Process 1, if it is an earlier program of this server, which an upgrade has replaced.
    process_1: Option<Process1>,
    /// Whether a service manager keeps the listeners open.
    listeners_are_kept: bool,
    service_manager: ServiceManager,
    pid_file: Option<PidFile>,
    reaper: Option<Reaper>,
    pub(super) service: Service,
}

impl Supervisor {
    pub(super) fn new(mut prefork: Prefork) -> Result<Supervisor, PreforkError> {
        if prefork.settings.workers == 0 {
            return Err(PreforkError::NoWorkers);
        }
        if prefork.settings.workers > MAX_WORKERS {
            return Err(PreforkError::TooManyWorkers(prefork.settings.workers));
        }
        // This comes before any change, so that the error says why the runtime cannot fork.
        runtime::check().map_err(PreforkError::Fork)?;
        // Signals come next: until their handlers are installed, they have their default actions.
        let signals = Signals::install().map_err(PreforkError::Signals)?;
        // Panics now if the runtime has no timers, rather than when the first worker ends.
        drop(tokio::time::sleep(Duration::ZERO));
        let mut settings = prefork.settings;
        settings.worker.privileges.resolve().map_err(PreforkError::Privileges)?;
        let of_server = settings.distribution;
        let listeners = prefork.listeners.drain(..);
        let listeners: Vec<_> = listeners.map(|(listener, own)| (listener, own.unwrap_or(of_server))).collect();
        let is_per_cpu = listeners.iter().any(|(_, distribution)| *distribution == Distribution::ReusePortPerCpu);
        let queues = AcceptQueues::new(listeners, settings.workers)?;
        let prepares_ahead = settings.prepare_ahead && !settings.loads && !queues.has_own_queues();
        let is_balanced = queues.common().iter().any(|(_, distribution)| *distribution == Distribution::Balanced);
        let common = Common::new(plan::slots(settings.workers), is_balanced, settings.status.is_shown())
            .map_err(PreforkError::Share)?;
        let mut predecessor = Predecessor::from_env();
        if let (Some(path), None) = (&settings.pid_file, &predecessor) {
            PidFile::check(path).map_err(|error| PreforkError::PidFile(path.clone(), error))?;
        }
        let listeners_are_kept =
            predecessor.as_ref().map_or_else(inherited::has_inherited, |predecessor| predecessor.listeners_are_kept);
        common.slots.set_owns_listeners(!listeners_are_kept && predecessor.is_none());
        let page = predecessor.as_mut().and_then(|predecessor| predecessor.page.take());
        let service = Service::new(settings.status.clone(), predecessor.is_some(), page)?;
        let is_first_process = std::process::id() == 1;
        if settings.loads {
            sys::adopt_orphans()
                .map_err(|error| PreforkError::Load(format!("cannot adopt the workers of a template: {error}")))?;
        }
        let now = Instant::now();
        let mut places = Vec::new();
        places.resize_with(settings.workers, Place::default);
        Ok(Supervisor {
            queues,
            common: Arc::new(common),
            is_per_cpu,
            signals,
            workers: Vec::new(),
            places,
            wanted: settings.workers,
            is_dormant: false,
            current: Generation::new(1, settings.loads, now),
            generations: 1,
            reload: None,
            reload_is_queued: false,
            replacing: None,
            dismissed: Vec::new(),
            quarantined: Vec::new(),
            ended: Vec::new(),
            prepares_ahead,
            threads: None,
            refusals: 0,
            fork_due: None,
            rate: ReplacementRate::new(now),
            checks: Checks::new(now),
            is_up: false,
            stops_at: None,
            program: Program::of_this_process(),
            upgrade: None,
            predecessor,
            process_1: None,
            listeners_are_kept,
            service_manager: ServiceManager::new(settings.notifies),
            pid_file: None,
            service,
            reaper: (is_first_process || settings.loads).then(Reaper::default),
            settings,
        })
    }

    pub(super) async fn run(mut self) -> Result<Outcome, PreforkError> {
        if self.settings.huge_pages && !self.settings.loads {
            crate::sys::use_huge_pages();
        }
        let woken = self.common.supervisor.waiter().map_err(PreforkError::Share)?;
        crate::set_policy(&woken, ForkPolicy::NoFork).map_err(PreforkError::Share)?;
        loop {
            let now = Instant::now();
            // Read the flags first: a worker that becomes ready may be older than its limit, and no timer checks that.
            let mut end = self.read_slots();
            self.check(now);
            self.show_state();
            end = end.or_else(|| self.settle(now));
            if end.is_none() {
                let event = match self.start_due(now).await {
                    Started::Nothing => {
                        self.prepare_ahead();
                        Some(self.next(&woken).await)
                    }
                    // There may be more to start, but a signal comes first.
                    Started::MaybeMore => self.next(&woken).now_or_never(),
                    Started::Child(outcome) => return Ok(*outcome),
                    Started::End(reason) => {
                        end = Some(reason);
                        None
                    }
                };
                end = end.or_else(|| event.and_then(|event| self.handle(event)));
            }
            if let Some(end) = end {
                return self.end(end, &woken).await;
            }
        }
    }

    /// Takes the signals out of a child's copy of the supervisor.
    #[cfg(feature = "status")]
    pub(super) fn take_signals(&mut self) -> Signals {
        std::mem::replace(&mut self.signals, Signals::none())
    }

    pub(super) fn show_state(&self) {
        let next = self.reload.as_ref().map(|reload| reload.generation.number);
        self.common.scoreboard.set_server(self.number(), (self.current.number, next), self.is_up);
    }

    /// Prepares the next fork in advance, while there is nothing else to do.
    fn prepare_ahead(&mut self) {
        if !self.prepares_ahead || self.threads.is_some() {
            return;
        }
        if let Err(error) = crate::fork::prepare_ahead() {
            // If the cause of the error lasts, the fork will fail with the same error.
            tracing::debug!(%error, "cannot prepare the next fork in advance");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Workers still run only if the caller has dropped the future of `run`. In a child, the handles return errors.
        self.signal_workers(libc::SIGTERM);
    }
}
