//! The parent's side.

use std::future::{pending, poll_fn};
use std::io;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::worker::Seat;
use super::{Listener, Prefork, PreforkError, Stopped};
use crate::{Child, Fork, ForkError, runtime};

/// A worker that has run for this long did not end because it could not start.
const SETTLED: Duration = Duration::from_secs(1);

/// The delay before a worker that ended sooner is replaced; it doubles with each time in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How long after the drain timeout the parent waits before it kills: a worker that stops at the limit needs a moment.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// How supervision ended.
pub(super) enum Outcome {
    /// In the parent.
    Stopped(Stopped),
    /// In a child.
    Worker(Seat),
}

pub(super) struct Supervisor {
    listeners: Vec<Listener>,
    places: Vec<Place>,
    signals: StopSignals,
    drain_timeout: Duration,
    crash_limit: u32,
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

/// What a fork made of this process.
enum Side {
    Parent,
    Child,
}

impl Supervisor {
    pub(super) fn new(prefork: Prefork) -> Result<Supervisor, PreforkError> {
        // Before anything is changed, so that a forgotten patch is named as such.
        runtime::check().map_err(PreforkError::Fork)?;
        for listener in &prefork.listeners {
            crate::mute(listener).map_err(PreforkError::Mute)?;
        }
        let mut places = Vec::new();
        places.resize_with(prefork.workers, Place::default);
        Ok(Supervisor {
            listeners: prefork.listeners,
            places,
            // Before the first worker: from its first moment on a signal means to drain, not to die.
            signals: StopSignals::install().map_err(PreforkError::Signals)?,
            drain_timeout: prefork.drain_timeout,
            crash_limit: prefork.crash_limit,
        })
    }

    pub(super) async fn run(mut self, on_ready: Option<Box<dyn FnOnce()>>) -> Result<Outcome, PreforkError> {
        for index in 0..self.places.len() {
            match self.fork(index).await {
                Ok(Side::Parent) => {}
                Ok(Side::Child) => return Ok(Outcome::Worker(self.into_seat(index))),
                Err(error) => {
                    self.drain().await;
                    return Err(PreforkError::Fork(error));
                }
            }
        }
        if let Some(ready) = on_ready {
            ready();
        }
        loop {
            match self.next().await {
                Event::Stop(signal) => {
                    tracing::info!(signal, "stopping: draining the workers");
                    return Ok(Outcome::Stopped(Stopped { workers: self.drain().await }));
                }
                Event::Ended(index, status) => {
                    if let Some(error) = self.note_end(index, status) {
                        tracing::error!(%error, "giving up");
                        self.drain().await;
                        return Err(error);
                    }
                }
                Event::Due(index) => match self.fork(index).await {
                    Ok(Side::Parent) => {}
                    Ok(Side::Child) => return Ok(Outcome::Worker(self.into_seat(index))),
                    Err(error) => {
                        let place = &mut self.places[index];
                        place.ends += 1;
                        let delay = delay(place.ends);
                        place.due = Some(Instant::now() + delay);
                        tracing::error!(worker = index, %error, ?delay, "cannot replace the worker yet");
                    }
                },
            }
        }
    }

    async fn fork(&mut self, index: usize) -> Result<Side, ForkError> {
        match crate::fork().await? {
            Fork::Parent(child) => {
                tracing::info!(worker = index, pid = child.id(), "worker started");
                let place = &mut self.places[index];
                place.due = None;
                place.running = Some(Running { child, since: Instant::now() });
                Ok(Side::Parent)
            }
            Fork::Child(_) => Ok(Side::Child),
        }
    }

    /// In the child: keeps what a worker needs, and drops the handles to its siblings.
    fn into_seat(self, index: usize) -> Seat {
        let mut signals = self.signals;
        let shutdown = async move {
            let signal = signals.recv().await;
            tracing::info!(signal, "draining");
        };
        Seat { index, listeners: self.listeners, shutdown: shutdown.boxed() }
    }

    async fn next(&mut self) -> Event {
        let due = self.places.iter().enumerate().filter_map(|(index, place)| Some((place.due?, index))).min();
        let places = &mut self.places;
        tokio::select! {
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

    /// A worker has ended: decides when it is replaced, or that it is not.
    fn note_end(&mut self, index: usize, status: ExitStatus) -> Option<PreforkError> {
        let place = &mut self.places[index];
        let running = place.running.take()?;
        let uptime = running.since.elapsed();
        place.ends = if uptime < SETTLED { place.ends + 1 } else { 0 };
        let delay = if place.ends == 0 { Duration::ZERO } else { delay(place.ends) };
        place.due = Some(Instant::now() + delay);
        tracing::warn!(worker = index, pid = running.child.id(), %status, ?uptime, ?delay, "worker ended: replacing it");
        (self.crash_limit > 0 && place.ends >= self.crash_limit).then_some(PreforkError::CrashLoop {
            worker: index,
            ends: place.ends,
            status,
        })
    }

    /// Closes the listeners, has the workers stop, and kills those that do not. Returns how each of them ended.
    async fn drain(&mut self) -> Vec<ExitStatus> {
        // First, so that a connection that comes now is refused rather than queued for nobody.
        self.listeners.clear();
        self.signal_all(libc::SIGTERM);
        let mut deadline = Some(Instant::now() + self.drain_timeout + KILL_GRACE);
        let mut ended = Vec::new();
        while self.places.iter().any(|place| place.running.is_some()) {
            let places = &mut self.places;
            tokio::select! {
                (index, status) = poll_fn(|cx| poll_ended(places, cx)) => {
                    tracing::info!(worker = index, %status, "worker stopped");
                    self.places[index].running = None;
                    ended.push(status);
                }
                signal = self.signals.recv(), if deadline.is_some() => {
                    tracing::warn!(signal, "told to stop again: killing the workers that are left");
                    self.signal_all(libc::SIGKILL);
                    deadline = None;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    tracing::warn!(timeout = ?self.drain_timeout, "killing the workers that have not drained in time");
                    self.signal_all(libc::SIGKILL);
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
                // Somebody else has reaped it, so it has ended, and nobody can say how.
                tracing::warn!(worker = index, pid = running.child.id(), %error, "cannot wait for the worker");
                return Poll::Ready((index, ExitStatus::default()));
            }
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
