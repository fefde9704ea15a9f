//! The service manager: `sd_notify(3)`.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager about the server, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    is_present: bool,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    pub(super) fn new(notifies: bool) -> ServiceManager {
        let is_present = notifies && std::env::var_os("NOTIFY_SOCKET").is_some();
        ServiceManager { is_present, watchdog: if is_present { sd_notify::watchdog_enabled() } else { None } }
    }

    /// Returns how often to call [`alive`](ServiceManager::alive): twice in the time that the service manager allows.
    pub(super) fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    pub(super) fn ready(&self, workers: usize) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(&format!("{workers} workers are ready"))]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
            Err(error) => tracing::warn!(%error, "cannot tell the service manager about the reload"),
        }
    }

    pub(super) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Tells the service manager that process `pid` is the server now.
    pub(super) fn replaced_by(&self, pid: u32) {
        self.notify(&[NotifyState::MainPid(pid), NotifyState::Ready]);
    }

    pub(super) fn alive(&self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        if !self.is_present {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            tracing::warn!(%error, ?state, "cannot notify the service manager");
        }
    }
}
