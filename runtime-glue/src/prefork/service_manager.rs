//! Notifies the service manager, in the protocol of `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long to wait for a service manager that reads no messages. The supervisor can do nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

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

    pub(super) fn scaled(&self, workers: usize) {
        self.notify(&[NotifyState::Status(&format!("the number of workers is {workers}"))]);
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
        if let Err(error) = send(state) {
            tracing::warn!(%error, ?state, "cannot notify the service manager");
        }
    }
}

/// Sends a message like `sd_notify::notify`, but waits at most [`LIMIT`] instead of forever.
fn send(state: &[NotifyState<'_>]) -> io::Result<()> {
    let mut path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default().into_vec();
    // An `@` stands for the zero byte of an abstract address.
    if let Some(first @ b'@') = path.first_mut() {
        *first = 0;
    }
    let message: String = state.iter().map(|line| format!("{line}\n")).collect();
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.send_to(message.as_bytes(), &SockAddr::unix(OsStr::from_bytes(&path))?).map(drop)
}
