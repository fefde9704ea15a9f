//! The events that the supervisor waits for, and its reactions.

use std::future::{pending, poll_fn};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::dismissed::poll_dismissed;
use super::generation::Generation;
use super::stop::{End, SAME_REQUEST};
use super::{Supervisor, process};
use crate::prefork::pid_file::PidFile;
use crate::prefork::signals::Command;
use crate::prefork::slots::ServerPhase;
use crate::prefork::status::ServiceEvent;
use crate::prefork::template::Message;
use crate::prefork::upgrade::Progress;
use crate::{ForkError, sys};

/// Half a century: longer than any server runs. An `Instant` may not hold the end of a longer time.
const FOREVER: Duration = Duration::from_secs(50 * 365 * 86_400);

pub(super) enum Event {
    Signal(Command, &'static str),
    WorkerEnded(usize, ExitStatus),
    Template(Which, Message),
    /// A worker has changed its flags.
    Woken,
    ThreadsEnded(Result<(), ForkError>),
    Upgrade(Progress),
    DismissedEnded(usize),
    Service(ServiceEvent),
    Time,
}

/// The generation that a template belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Current,
    Next,
}

impl Supervisor {
    pub(super) async fn next(&mut self, woken: &Woken) -> Event {
        let time = self.next_time();
        let measures = self.checks.memory.is_in_progress();
        let Supervisor { signals, workers, current, reload, threads, upgrade, dismissed, service, .. } = self;
        let next = reload.as_mut().map(|reload| &mut reload.generation);
        tokio::select! {
            // Signals come first: a server that is told to stop does not replace a worker that was also told to stop.
            biased;
            (command, name) = signals.command() => Event::Signal(command, name),
            (position, status) = poll_fn(|cx| process::poll_ended(workers, cx)) => Event::WorkerEnded(position, status),
            message = poll_fn(|cx| current.poll_template(cx)) => Event::Template(Which::Current, message),
            message = async {
                match next {
                    Some(generation) => poll_fn(|cx| generation.poll_template(cx)).await,
                    None => pending().await,
                }
            } => Event::Template(Which::Next, message),
            () = woken.wait() => Event::Woken,
            ended = async {
                match threads {
                    Some((threads, _)) => threads.await,
                    None => pending().await,
                }
            } => Event::ThreadsEnded(ended),
            progress = async {
                match upgrade {
                    Some(upgrade) => poll_fn(|cx| upgrade.poll(cx)).await,
                    None => pending().await,
                }
            } => Event::Upgrade(progress),
            position = poll_fn(|cx| poll_dismissed(dismissed, cx)) => Event::DismissedEnded(position),
            event = service.next() => Event::Service(event),
            // The runtime looks for other events between two measurements.
            () = yield_now(), if measures => Event::Time,
            () = async {
                match time {
                    Some(time) => sleep_until(time).await,
                    None => pending().await,
                }
            } => Event::Time,
        }
    }

    pub(super) fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Signal(command, name) => return self.handle_signal(command, name),
            Event::WorkerEnded(position, status) => return self.worker_ended(position, status),
            Event::Template(which, message) => return self.handle_template_message(which, message),
            Event::ThreadsEnded(ended) => {
                let for_service = self.threads.take().is_some_and(|(_, for_service)| for_service);
                if let Err(error) = ended {
                    return self.wait_failed(error, for_service);
                }
            }
            Event::Upgrade(progress) => return self.upgrade_progressed(progress),
            Event::DismissedEnded(position) => self.dismissed_ended(position),
            Event::Service(event) => self.handle_service(event),
            Event::Woken | Event::Time => {}
        }
        None
    }

    fn handle_signal(&mut self, command: Command, name: &'static str) -> Option<End> {
        match command {
            Command::ChildEnded => self.checks.reap_orphans_soon(),
            _ => tracing::info!(signal = name, ?command, "received a signal"),
        }
        match command {
            Command::Stop => {
                let period = self.settings.lame_duck;
                if let Some(end) = self.pass_stop_on() {
                    return Some(end);
                }
                if let Some((stops_at, _)) = self.stops_at {
                    let period = period.min(FOREVER);
                    let elapsed = period.saturating_sub(stops_at.saturating_duration_since(Instant::now()));
                    return (elapsed > SAME_REQUEST).then_some(End::Stop { signal: name });
                }
                if period.is_zero() {
                    return Some(End::Stop { signal: name });
                }
                tracing::info!(?period, "still accepting connections before the stop");
                // The stop takes precedence over the upgrade: otherwise, the new program would continue to serve.
                if let Some(upgrade) = &mut self.upgrade {
                    tracing::warn!(pid = upgrade.child.id(), "stopping: killing the new program, which is not ready");
                    upgrade.kill();
                }
                self.service.upgrade_ends(Err("it has been told to stop, and has killed the new program"));
                self.service_manager.stopping();
                self.common.slots.set_phase(ServerPhase::LameDuck);
                self.stops_at = Some((Instant::now() + period.min(FOREVER), name));
            }
            Command::StopNow => return Some(End::StopNow { signal: name }),
            Command::Reload => self.log_refusal(Supervisor::request_reload),
            Command::ReopenLogs => self.reopen_logs(),
            Command::Upgrade => self.log_refusal(Supervisor::start_upgrade),
            Command::Grow => self.log_refusal(|supervisor| supervisor.scale(supervisor.wanted + 1)),
            Command::Shrink => self.log_refusal(|supervisor| supervisor.scale(supervisor.wanted.saturating_sub(1))),
            Command::RetireAll if sys::is_in_foreground() => {
                tracing::info!("ignoring SIGWINCH: a terminal sends it when the size of its window changes");
            }
            Command::RetireAll => self.log_refusal(Supervisor::retire_all),
            Command::ChildEnded => {}
        }
        None
    }

    fn log_refusal(&mut self, act: impl FnOnce(&mut Supervisor) -> Result<(), String>) {
        if let Err(error) = act(self) {
            tracing::error!(error, "cannot carry out the command of a signal");
        }
    }

    pub(in crate::prefork) fn request_reload(&mut self) -> Result<(), String> {
        self.refuse_before_stop()?;
        self.queue_reload();
        Ok(())
    }

    fn retire_all(&mut self) -> Result<(), String> {
        self.refuse_before_stop()?;
        if !self.is_up {
            return Err("the server has not been ready yet".to_owned());
        }
        if self.upgrade.is_some() && self.queues.has_own_queues() {
            // The new program gets one of the queues. The workers must empty the others.
            return Err("an upgrade is in progress: at its end, the workers must empty their queues".to_owned());
        }
        let reason = "SIGWINCH retires all workers";
        if let Some(reload) = &mut self.reload {
            // A reload without workers would succeed at once, with a generation that has not proved itself.
            reload.was_dormant = true;
            self.abort_reload(reason);
        }
        if std::mem::take(&mut self.reload_is_queued) {
            // The operators who have asked for this reload wait for its result.
            self.service.reload_begins(self.generations + 1);
            self.service.reload_ends(self.generations + 1, Err(reason));
        }
        self.is_dormant = true;
        self.show_number();
        Ok(())
    }

    /// Returns an error if the server is a lame duck.
    pub(super) fn refuse_before_stop(&self) -> Result<(), String> {
        match self.stops_at {
            Some(_) => Err("the server is stopping: it still accepts connections, but no commands".to_owned()),
            None => Ok(()),
        }
    }

    pub(in crate::prefork) fn start_upgrade(&mut self) -> Result<(), String> {
        self.refuse_before_stop()?;
        if self.upgrade.is_some() {
            return Err("an upgrade is in progress already".to_owned());
        }
        if self.predecessor.is_some() {
            // If the upgrade ended this program now, the old program would continue, and serve beside the new one.
            return Err("this program has not taken over yet from the one that it replaces".to_owned());
        }
        // If the reload of a dormant server fails, the server is dormant again.
        let may_lack_workers = self.is_dormant || self.reload.as_ref().is_some_and(|reload| reload.was_dormant);
        if may_lack_workers && self.queues.has_own_queues() {
            // The new program would get one of the queues. Connections in the others would be lost.
            return Err("the server has no workers to empty its queues: send HUP, and wait for the reload".to_owned());
        }
        let deadline = Instant::now().checked_add(self.settings.upgrade_timeout);
        // If this process ends before the new program is ready, the old workers must leave the shared listeners as they are.
        self.common.slots.set_owns_listeners(false);
        let (queues, page) = (self.queues.for_upgrade(), self.service.for_upgrade());
        match self.program.start(&queues, self.listeners_are_kept, page, self.process_1.as_ref(), deadline) {
            Ok(upgrade) => {
                tracing::info!(pid = upgrade.child.id(), "started the program again: waiting until it is ready");
                self.upgrade = Some(upgrade);
                Ok(())
            }
            Err(error) => {
                self.show_ownership();
                self.restore_pid_file();
                Err(format!("cannot start the program again: this one continues ({error})"))
            }
        }
    }

    /// Tells the workers whether this server alone has the listeners open.
    pub(super) fn show_ownership(&self) {
        let is_alone = self.predecessor.is_none() && self.upgrade.is_none();
        self.common.slots.set_owns_listeners(is_alone && !self.listeners_are_kept);
    }

    fn upgrade_progressed(&mut self, progress: Progress) -> Option<End> {
        let upgrade = self.upgrade.take()?;
        match progress {
            Progress::Ready => {
                self.service.upgrade_ends(Ok(upgrade.child.id()));
                self.service_manager.replaced_by(upgrade.child.id());
                return Some(End::HandedOver { to: upgrade });
            }
            Progress::Ended(status) => {
                self.show_ownership();
                self.service.upgrade_ends(Err(&format!("the new program ended with {status} before it was ready")));
                self.restore_pid_file();
                tracing::error!(%status, "the new program ended before it was ready: this one continues");
            }
        }
        None
    }

    /// Writes the pid file again if a new program has replaced the file, and has ended.
    pub(super) fn restore_pid_file(&mut self) {
        if let Some(Err(error)) = self.pid_file.as_mut().map(PidFile::restore) {
            tracing::error!(%error, "cannot write the pid file again");
        }
    }

    /// Passes the stop signal on to a new program that has just become ready, because that program serves already.
    fn pass_stop_on(&mut self) -> Option<End> {
        let upgrade = self.upgrade.as_mut().filter(|upgrade| upgrade.is_ready())?;
        let pid = upgrade.child.id();
        tracing::info!(pid, "the new program is ready: passing the stop signal on to it");
        if let Err(error) = upgrade.child.signal(libc::SIGTERM) {
            tracing::warn!(%error, pid, "cannot pass the stop signal on to the new program");
        }
        self.upgrade_progressed(Progress::Ready)
    }

    pub(super) fn reopen_logs(&self) {
        self.settings.worker.reopen_logs();
        self.signal_workers(libc::SIGUSR1);
        // The next workers inherit the files of their template.
        let generations = [Some(&self.current), self.reload.as_ref().map(|reload| &reload.generation)];
        for template in generations.into_iter().flatten().filter_map(Generation::template) {
            if let Err(error) = template.child.signal(libc::SIGUSR1) {
                tracing::debug!(%error, "cannot signal a template: it has ended");
            }
        }
        self.service.signal(libc::SIGUSR1);
    }

    pub(super) fn signal_workers(&self, signal: i32) {
        for worker in &self.workers {
            worker.signal(signal);
        }
    }
}

/// The descriptor that wakes the supervisor.
pub(super) type Woken = tokio::io::unix::AsyncFd<OwnedFd>;

trait Wait {
    async fn wait(&self);
}

impl Wait for Woken {
    /// Waits until a worker wakes the supervisor. After an error, waits forever: every other event also makes the
    /// supervisor read the flags.
    async fn wait(&self) {
        match self.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "workers cannot wake the supervisor");
                pending().await
            }
        }
    }
}
