//! The parent's side.

use std::future::{pending, poll_fn};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::connections::Common;
use super::queues::Queues;
use super::worker::{NoWayBack, Seat};
use super::{Distribution, OnReady, Prefork, PreforkError, Stopped};
use crate::{Child, Fork, ForkError, ForkOptions, lineage, runtime, sys};

/// A worker that has run for this long did not end because it could not start.
const SETTLED: Duration = Duration::from_secs(1);

/// The delay before a worker that ended sooner is replaced; it doubles with each time in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How long after the drain timeout the parent waits before it kills: a worker that stops at the limit needs a moment.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// The wait status of a worker that nobody can tell the end of: exit code 255.
const UNKNOWN: i32 = 255 << 8;

/// How supervision ended.
pub(super) enum Outcome {
    /// In the parent.
    Stopped(Stopped),
    /// In a child.
    Worker(Seat),
}

pub(super) struct Supervisor {
    queues: Queues,
    common: Arc<Common>,
    is_per_cpu: bool,
    places: Vec<Place>,
    /// The handles of workers that have ended since the last fork, if that is prepared ahead: dropping one changes what a child
    /// is to have.
    ended: Vec<Child>,
    prepares_ahead: bool,
    signals: StopSignals,
    drain_timeout: Duration,
    crash_limit: u32,
    fork_options: ForkOptions,
    /// How many forks in a row were refused.
    refusals: u32,
}

/// Where one worker is to be.
#[derive(Debug, Default)]
struct Place {
    running: Option<Running>,
    /// When to fork the next one.
    due: Option<Instant>,
    /// How many in a row ended before they had settled.
    ends: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    since: Instant,
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> io::Result<StopSignals> {
        Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What the supervisor waits for.
enum Event {
    Ended(usize, ExitStatus),
    Due(usize),
    Stop(&'static str),
}

/// What came of forking.
enum Side {
    Parent,
    Child(NoWayBack),
    /// Nothing: there was a signal to stop first.
    Stop(&'static str),
}

impl Supervisor {
    pub(super) fn new(prefork: Prefork) -> Result<Supervisor, PreforkError> {
        // Before anything is changed, so that a forgotten patch is named as such.
        runtime::check().map_err(PreforkError::Fork)?;
        // Panics without timers, which is better now than when the first worker ends.
        drop(tokio::time::sleep(Duration::ZERO));
        let of_server = prefork.distribution;
        let listeners = prefork.listeners.into_iter();
        let listeners: Vec<_> = listeners.map(|(listener, own)| (listener, own.unwrap_or(of_server))).collect();
        let is_per_cpu = listeners.iter().any(|(_, distribution)| *distribution == Distribution::ReusePortPerCpu);
        let is_per_place =
            |distribution| matches!(distribution, Distribution::ReusePort | Distribution::ReusePortPerCpu);
        let prepares_ahead = prefork.prepare_ahead && !listeners.iter().any(|(_, own)| is_per_place(*own));
        let queues = Queues::new(listeners, prefork.workers)?;
        let common = Common::new(
            prefork.workers,
            queues.common().iter().any(|(_, distribution)| *distribution == Distribution::Balanced),
        )
        .map_err(PreforkError::Share)?;
        let mut places = Vec::new();
        places.resize_with(prefork.workers, Place::default);
        Ok(Supervisor {
            queues,
            common: Arc::new(common),
            is_per_cpu,
            places,
            ended: Vec::new(),
            prepares_ahead,
            // Before the first worker: from its first moment on a signal means to drain, not to die.
            signals: StopSignals::install().map_err(PreforkError::Signals)?,
            drain_timeout: prefork.drain_timeout,
            crash_limit: prefork.crash_limit,
            fork_options: prefork.fork_options,
            refusals: 0,
        })
    }

    pub(super) async fn run(mut self, on_ready: Option<OnReady>) -> Result<Outcome, PreforkError> {
        for index in 0..self.places.len() {
            match self.fork(index).await {
                Ok(Side::Parent) => {}
                Ok(Side::Child(no_way_back)) => return Ok(self.into_worker(index, no_way_back)),
                Ok(Side::Stop(signal)) => return Ok(self.stop(signal).await),
                Err(error) => {
                    self.drain().await;
                    return Err(PreforkError::Fork(error));
                }
            }
        }
        if let Some(signal) = self.signals.recv().now_or_never() {
            return Ok(self.stop(signal).await);
        }
        if let Some(ready) = on_ready {
            ready();
        }
        loop {
            match self.next().await {
                Event::Stop(signal) => return Ok(self.stop(signal).await),
                Event::Ended(index, status) => {
                    if let Some(error) = self.note_end(index, status) {
                        tracing::error!(%error, "giving up");
                        self.drain().await;
                        return Err(error);
                    }
                }
                Event::Due(index) => {
                    let forked = self.fork(index).await;
                    // Whatever came of it, it has used what was prepared.
                    self.ended.clear();
                    match forked {
                        Ok(Side::Parent) => self.refusals = 0,
                        Ok(Side::Child(no_way_back)) => return Ok(self.into_worker(index, no_way_back)),
                        Ok(Side::Stop(signal)) => return Ok(self.stop(signal).await),
                        Err(error) => {
                            self.refusals += 1;
                            let none_left = self.places.iter().all(|place| place.running.is_none());
                            if none_left && self.crash_limit > 0 && self.refusals >= self.crash_limit {
                                return Err(PreforkError::Fork(error));
                            }
                            let delay = delay(self.refusals);
                            self.places[index].due = Some(Instant::now() + delay);
                            tracing::error!(worker = index, %error, ?delay, "cannot replace the worker yet");
                        }
                    }
                }
            }
        }
    }

    async fn fork(&mut self, index: usize) -> Result<Side, ForkError> {
        // What may take long first, with an ear for signals.
        tokio::select! {
            biased;
            signal = self.signals.recv() => return Ok(Side::Stop(signal)),
            ready = self.fork_options.ready() => ready?,
        }
        let mut no_way_back = None;
        let first = || {
            no_way_back = Some(NoWayBack);
            lineage::set_worker(index);
        };
        self.queues.hand_to(index).map_err(ForkError::Inspect)?;
        let forked = self.fork_options.fork_with(first).await;
        if !matches!(forked, Ok(Fork::Child(_))) {
            self.queues.take_back(index);
        }
        match forked? {
            Fork::Parent(mut child) => {
                if let Err(error) = child.watch() {
                    // Ended before it counts as a worker; whoever drops the handle reaps it.
                    let _ = child.kill();
                    return Err(ForkError::Watch(error));
                }
                tracing::info!(worker = index, pid = child.id(), "worker started");
                let place = &mut self.places[index];
                place.due = None;
                place.running = Some(Running { child, since: Instant::now() });
                Ok(Side::Parent)
            }
            Fork::Child(_) => Ok(Side::Child(no_way_back.unwrap_or_else(|| NoWayBack))),
        }
    }

    /// In the child: keeps what a worker needs, and drops the handles to its siblings.
    fn into_worker(mut self, index: usize, no_way_back: NoWayBack) -> Outcome {
        self.places.clear();
        let queues = std::mem::take(&mut self.queues);
        let distributions = queues.common();
        let listeners = queues.into_listeners(index);
        let common = Arc::clone(&self.common);
        if self.is_per_cpu {
            stay_on_cpu(index);
        }
        // The rest goes along: it is the signals that are needed of it.
        let shutdown = async move {
            let signal = self.signals.recv().await;
            tracing::info!(signal, "draining");
        };
        Outcome::Worker(Seat { no_way_back, index, listeners, distributions, common, shutdown: shutdown.boxed() })
    }

    async fn stop(&mut self, signal: &'static str) -> Outcome {
        tracing::info!(signal, "stopping: draining the workers");
        // Ctrl-C may come with a SIGTERM from whoever started the server. That is one request to stop, not two.
        let _ = self.signals.recv().now_or_never();
        Outcome::Stopped(Stopped { workers: self.drain().await })
    }

    async fn next(&mut self) -> Event {
        if self.places.iter().all(|place| place.due.is_none()) {
            self.prepare_ahead();
        }
        let due = self.places.iter().enumerate().filter_map(|(index, place)| Some((place.due?, index))).min();
        let places = &mut self.places;
        tokio::select! {
            // In this order: whoever is to stop does not replace a worker that was told so too.
            biased;
            signal = self.signals.recv() => Event::Stop(signal),
            (index, status) = poll_fn(|cx| poll_ended(places, cx)) => Event::Ended(index, status),
            index = async {
                match due {
                    Some((time, index)) => {
                        sleep_until(time).await;
                        index
                    }
                    None => pending().await,
                }
            } => Event::Due(index),
        }
    }

    /// While there is nothing else to do.
    fn prepare_ahead(&mut self) {
        if self.prepares_ahead
            && let Err(error) = crate::prepare_ahead()
        {
            // The fork will tell, if it comes to that.
            tracing::debug!(%error, "cannot prepare the next worker's fork ahead");
        }
    }

    /// A worker has ended: decides when it is replaced, or that it is not.
    fn note_end(&mut self, index: usize, status: ExitStatus) -> Option<PreforkError> {
        let place = &mut self.places[index];
        let running = place.running.take()?;
        self.common.vacate(index);
        let uptime = running.since.elapsed();
        place.ends = if uptime < SETTLED { place.ends + 1 } else { 0 };
        let delay = if place.ends == 0 { Duration::ZERO } else { delay(place.ends) };
        place.due = Some(Instant::now() + delay);
        tracing::warn!(worker = index, pid = running.child.id(), %status, ?uptime, ?delay, "worker ended: replacing it");
        if self.prepares_ahead {
            self.ended.push(running.child);
        }
        (self.crash_limit > 0 && place.ends >= self.crash_limit).then_some(PreforkError::CrashLoop {
            worker: index,
            ends: place.ends,
            status,
        })
    }

    /// Closes the listeners, has the workers stop, and kills those that do not. Returns how each of them ended.
    async fn drain(&mut self) -> Vec<ExitStatus> {
        // First, so that a connection that comes now is refused rather than queued for nobody.
        self.queues.close();
        self.signal_all(libc::SIGTERM);
        // None: no limit that could be told, or everything is killed already.
        let mut deadline = Instant::now().checked_add(self.drain_timeout.saturating_add(KILL_GRACE));
        let mut has_killed = false;
        let mut ended = Vec::new();
        while self.places.iter().any(|place| place.running.is_some()) {
            let places = &mut self.places;
            tokio::select! {
                biased;
                (index, status) = poll_fn(|cx| poll_ended(places, cx)) => {
                    tracing::info!(worker = index, %status, "worker stopped");
                    self.places[index].running = None;
                    ended.push(status);
                }
                signal = self.signals.recv(), if !has_killed => {
                    tracing::warn!(signal, "told to stop again: killing the workers that are left");
                    self.signal_all(libc::SIGKILL);
                    has_killed = true;
                    deadline = None;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    tracing::warn!(timeout = ?self.drain_timeout, "killing the workers that have not drained in time");
                    self.signal_all(libc::SIGKILL);
                    has_killed = true;
                    deadline = None;
                }
            }
        }
        ended
    }

    fn signal_all(&self, signal: i32) {
        for running in self.places.iter().filter_map(|place| place.running.as_ref()) {
            if let Err(error) = running.child.signal(signal) {
                tracing::debug!(pid = running.child.id(), signal, %error, "cannot signal a worker: it has ended");
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Workers are left only if nobody waits for the server any more. In another process the handles refuse.
        self.signal_all(libc::SIGTERM);
    }
}

/// Keeps worker `index` where its connections arrive.
fn stay_on_cpu(index: usize) {
    let cpu = sys::allowed_cpus().and_then(|cpus| {
        let cpu = cpus[index % cpus.len()];
        sys::stay_on_cpu(cpu).map(|()| cpu)
    });
    match cpu {
        Ok(cpu) => tracing::debug!(worker = index, cpu, "runs on one CPU"),
        Err(error) => tracing::warn!(worker = index, %error, "cannot stay on the CPU that its connections arrive on"),
    }
}

fn delay(ends: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << (ends - 1).min(16)).min(LONGEST_DELAY)
}

/// Which worker has ended.
fn poll_ended(places: &mut [Place], cx: &mut Context<'_>) -> Poll<(usize, ExitStatus)> {
    for (index, place) in places.iter_mut().enumerate() {
        let Some(running) = &mut place.running else { continue };
        match running.child.poll_wait(cx) {
            Poll::Ready(Ok(status)) => return Poll::Ready((index, status)),
            Poll::Ready(Err(error)) => {
                // It is watched already, so this is ECHILD: other code has reaped it, or SIGCHLD is ignored.
                tracing::warn!(worker = index, pid = running.child.id(), %error, "cannot tell how the worker ended");
                return Poll::Ready((index, ExitStatus::from_raw(UNKNOWN)));
            }
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
