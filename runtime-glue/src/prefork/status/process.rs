//! The service worker, as the supervisor sees it.
//!
//! The two processes talk over a socket pair, in lines:
//!
//! | line | from | meaning |
//! |---|---|---|
//! | `memory` | service worker | measure the memory of the workers |
//! | `memory` | supervisor | the result is in the scoreboard |
//! | `control ID COMMAND` | service worker | an operator's command: see `control.rs` |
//! | `accepted ID`, `done ID TEXT`, `failed ID TEXT` | supervisor | the command has begun, is done, or has failed |

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::StatusOptions;
use super::control::Operation;
use super::memory;
use super::socket_file::SocketFile;
use crate::prefork::PreforkError;
use crate::prefork::crash::delay;
use crate::prefork::inherited::is_address;
use crate::prefork::measurement::Measurement;
use crate::prefork::slots::SeenHeartbeat;
use crate::{Address, Child};

/// If a service worker has run at least this long, its restart has the shortest delay.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// The longest line of the service worker, in bytes. Its commands are shorter.
const LONGEST_LINE: usize = 1024;

/// A listener of the service worker. It is not registered with a runtime, so it needs no fork policy.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
enum State {
    /// There should be no service worker.
    None,
    Due(Instant),
    Running {
        child: Child,
        channel: UnixStream,
        /// The beginning of a line. `None` if the service worker has been killed because the line was too long.
        received: Option<Vec<u8>>,
        since: Instant,
        heartbeat: SeenHeartbeat,
    },
    /// Another program serves the addresses, and the service worker ends by itself.
    Released(Child),
}

/// The service worker and its listeners.
#[derive(Debug)]
pub(in crate::prefork) struct Service {
    options: StatusOptions,
    pub(super) page: Option<Listening>,
    pub(super) control: Option<UnixListener>,
    /// The TCP listener of the status page, if the program that this one replaces has passed it on.
    inherited: Option<TcpListener>,
    files: Vec<SocketFile>,
    state: State,
    failures: u32,
    pub(super) operations: Vec<Operation>,
    /// Whether another program may still listen at the addresses.
    waits_for_predecessor: bool,
    pub(super) measurement: Measurement,
}

#[derive(Debug)]
pub(in crate::prefork) enum ServiceEvent {
    Said(String),
    /// The memory of the next worker must be measured.
    Measure,
    Ended(ExitStatus),
}

impl Service {
    /// Opens the listeners, unless `has_predecessor`: the program that this one replaces then keeps the addresses until
    /// [`begin`](Service::begin). `inherited` is the listener of that program's page, if the page is on TCP.
    pub(in crate::prefork) fn new(
        options: StatusOptions,
        has_predecessor: bool,
        inherited: Option<TcpListener>,
    ) -> Result<Service, PreforkError> {
        let is_due = options.is_shown() && !has_predecessor;
        let state = if is_due { State::Due(Instant::now()) } else { State::None };
        let mut service = Service {
            options,
            page: None,
            control: None,
            inherited,
            files: Vec::new(),
            state,
            failures: 0,
            operations: Vec::new(),
            waits_for_predecessor: has_predecessor,
            measurement: Measurement::new(memory::PERIOD),
        };
        if !has_predecessor {
            service.listen().map_err(|(address, error)| PreforkError::Status(address, error))?;
        }
        Ok(service)
    }

    /// Takes the addresses over from the program that this one replaces. Call it when this program has announced that
    /// it is ready: if this program fails earlier, the old program keeps the addresses.
    ///
    /// This program inherits the listener of a TCP port, and replaces the file of a Unix socket atomically. The old
    /// service worker accepts on its Unix sockets until it ends. So a client always finds a listener.
    pub(in crate::prefork) fn begin(&mut self) {
        if !self.waits_for_predecessor {
            return;
        }
        if self.options.is_shown() {
            self.state = State::Due(Instant::now());
        }
        if let Err((address, error)) = self.listen() {
            tracing::debug!(address, %error, "cannot serve the status page or the control socket yet: trying again");
        }
    }

    /// Opens the listeners that are not open yet.
    fn listen(&mut self) -> Result<(), (String, io::Error)> {
        if let (None, Some(path)) = (&self.control, self.options.control.clone()) {
            let listener = self.listen_unix(&path, true).map_err(|error| (path.display().to_string(), error))?;
            tracing::info!(path = %path.display(), "serving the control socket");
            self.control = Some(listener);
        }
        if let (None, Some(text)) = (&self.page, self.options.page.clone()) {
            let page = text.parse::<Address>().map_err(|error| io::Error::other(error.to_string()));
            let page = page.and_then(|address| self.listen_at(&address)).map_err(|error| (text, error))?;
            let address = match &page {
                Listening::Tcp(listener) => listener.local_addr().map(|address| format!("http://{address}/status")),
                Listening::Unix(_) => Ok(self.options.page.clone().unwrap_or_default()),
            };
            tracing::info!(address = address.unwrap_or_default(), "serving the status page");
            self.page = Some(page);
        }
        // Close a listener that the page does not use: its clients would wait forever, rather than be refused.
        self.inherited = None;
        Ok(())
    }

    fn listen_at(&mut self, address: &Address) -> io::Result<Listening> {
        let listener = match address {
            Address::Tcp(address) => {
                let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
                let is_wanted = |own| addresses.iter().any(|address| is_address(own, *address));
                let inherited = self.inherited.take().filter(|listener| listener.local_addr().is_ok_and(is_wanted));
                inherited.map_or_else(|| TcpListener::bind(addresses.as_slice()), Ok)?
            }
            Address::Unix(path) => return self.listen_unix(path, false).map(Listening::Unix),
        };
        listener.set_nonblocking(true)?;
        Ok(Listening::Tcp(listener))
    }

    fn listen_unix(&mut self, path: &Path, is_private: bool) -> io::Result<UnixListener> {
        let (listener, file) = SocketFile::bind(path, is_private, self.waits_for_predecessor)?;
        self.files.push(file);
        Ok(listener)
    }

    /// Returns the TCP listener of the page, if there is one. The program that replaces this one inherits it.
    pub(in crate::prefork) fn for_upgrade(&self) -> Option<RawFd> {
        let Some(Listening::Tcp(listener)) = &self.page else { return None };
        Some(listener.as_raw_fd())
    }

    /// Returns when the service worker must be started.
    pub(in crate::prefork) fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Due(due) => Some(*due),
            State::None | State::Running { .. } | State::Released(_) => None,
        }
    }

    /// Opens the listeners that are not open yet. After an error, schedules another attempt. Returns whether the service worker
    /// can start.
    pub(in crate::prefork) fn try_open(&mut self) -> bool {
        match self.listen() {
            Ok(()) => true,
            Err((address, error)) => {
                let delay = self.failed();
                tracing::error!(
                    address, %error, ?delay, "cannot serve the status page or the control socket yet: trying again"
                );
                false
            }
        }
    }

    /// Schedules the next start after a failure. Returns the delay.
    pub(in crate::prefork) fn failed(&mut self) -> Duration {
        self.failures += 1;
        let delay = delay(self.failures);
        self.state = State::Due(Instant::now() + delay);
        delay
    }

    pub(super) fn started(&mut self, child: Child, channel: UnixStream) {
        let now = Instant::now();
        let heartbeat = SeenHeartbeat::new(0, now);
        self.state = State::Running { child, channel, received: Some(Vec::new()), since: now, heartbeat };
    }

    /// Kills a service worker that has had the same heartbeat for `limit`, or for five heartbeat periods if that is longer. If
    /// `is_late`, the supervisor itself did not run meanwhile, so the time begins again.
    pub(in crate::prefork) fn check_heartbeat(&mut self, found: u64, limit: Duration, is_late: bool, now: Instant) {
        let limit = limit.max(super::history::PERIOD * 5);
        let State::Running { child, heartbeat, .. } = &mut self.state else { return };
        if heartbeat.is_stuck(found, is_late, limit, now) {
            tracing::error!(pid = child.id(), ?limit, "killing a service worker that is stuck");
            if let Err(error) = child.kill() {
                tracing::debug!(%error, "cannot kill the service worker: it has ended");
            }
        }
    }

    /// Waits for the next event. Cancel safe.
    pub(in crate::prefork) async fn next(&mut self) -> ServiceEvent {
        let measures = self.measurement.is_in_progress();
        tokio::select! {
            biased;
            event = poll_fn(|cx| self.poll(cx)) => event,
            // The runtime looks for other events between two measurements.
            () = yield_now(), if measures => ServiceEvent::Measure,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ServiceEvent> {
        let State::Running { child, channel, received, .. } = &mut self.state else { return Poll::Pending };
        while let Some(line) = received {
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = line.drain(..=end).collect();
                return Poll::Ready(ServiceEvent::Said(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if line.len() > LONGEST_LINE {
                tracing::error!(pid = child.id(), "killing a service worker that sends something other than commands");
                // If the call fails, the process has ended.
                let _ = child.kill();
                *received = None;
                break;
            }
            let mut bytes = [0; 512];
            match channel.try_read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => line.extend(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if channel.poll_read_ready(cx).is_pending() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read from the service worker");
                    break;
                }
            }
        }
        let status = ready!(child.poll_wait(cx));
        Poll::Ready(ServiceEvent::Ended(status.unwrap_or_else(|_| crate::prefork::supervisor::unknown_status())))
    }

    /// Sends a line to the service worker. If the channel is full, the line is lost, or only its beginning is sent.
    pub(super) fn say(&self, line: &str) {
        let State::Running { channel, .. } = &self.state else { return };
        let line = format!("{}\n", line.replace('\n', " "));
        match channel.try_write(line.as_bytes()) {
            Ok(written) if written == line.len() => {}
            result => tracing::debug!(?result, "the service worker does not read"),
        }
    }

    /// Schedules a restart of a service worker that has ended.
    pub(super) fn ended(&mut self, status: ExitStatus) {
        if let State::Running { child, since, .. } = &self.state {
            let pid = child.id();
            if since.elapsed() >= LONG_ENOUGH {
                self.failures = 0;
            }
            let delay = self.failed();
            tracing::warn!(pid, %status, ?delay, "the service worker ended: starting it again");
        }
        self.operations.clear();
        self.measurement.cancel();
    }

    pub(in crate::prefork) fn is_child(&self, pid: u32) -> bool {
        matches!(&self.state, State::Running { child, .. } | State::Released(child) if child.id() == pid)
    }

    pub(in crate::prefork) fn signal(&self, signal: i32) {
        if let State::Running { child, .. } | State::Released(child) = &self.state {
            if let Err(error) = child.signal(signal) {
                tracing::debug!(%error, "cannot signal the service worker: it has ended");
            }
        }
    }

    pub(in crate::prefork) fn has_control(&self) -> bool {
        self.options.control.is_some()
    }

    /// Leaves the addresses to another program. The service worker finishes its responses, and ends.
    pub(in crate::prefork) fn release(&mut self) {
        self.page = None;
        self.control = None;
        self.state = match std::mem::replace(&mut self.state, State::None) {
            // The service worker ends when the channel closes.
            State::Running { child, .. } => State::Released(child),
            _ => State::None,
        };
    }

    /// Ends the service worker, after all workers.
    pub(in crate::prefork) async fn end(&mut self) {
        let (mut child, grace) = match std::mem::replace(&mut self.state, State::None) {
            State::Running { child, .. } => (child, Duration::ZERO),
            State::Released(child) => (child, super::service::LAST_ANSWERS * 2),
            State::None | State::Due(_) => return,
        };
        if tokio::time::timeout(grace, child.wait()).await.is_ok() {
            return;
        }
        // If the call fails, the process has ended.
        let _ = child.kill();
        let _ = child.wait().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The service worker still runs only if the supervisor is dropped before `end`. In a child, `kill` fails.
        if let State::Running { child, .. } | State::Released(child) = &self.state {
            let _ = child.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// The supervisor may have more privileges than the service worker, so the service worker must not fill the
    /// supervisor's memory.
    #[test]
    fn a_line_without_end_is_not_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = StatusOptions { page: None, control: None };
            let mut service = Service::new(options, false, None).unwrap();
            let program = std::process::Command::new("sleep").arg("60").spawn();
            let pid = program.map(|program| program.id()).unwrap();
            let (own_end, child_end) = UnixStream::pair().unwrap();
            service.started(Child::adopt(pid).unwrap(), own_end);
            child_end.try_write(&[b'x'; 8 * LONGEST_LINE]).unwrap();
            let event = service.next().await;
            let ServiceEvent::Ended(status) = event else { panic!("{event:?}") };
            assert_eq!(status.signal(), Some(libc::SIGKILL));
            assert!(matches!(service.state, State::Running { received: None, .. }), "{service:?}");
        });
    }

    /// Clients of an address without a page must be refused, and not wait in the queue of the inherited listener.
    #[test]
    fn an_unused_inherited_listener_is_closed() {
        let path = std::env::temp_dir().join(format!("forkio-moved-page-{}", std::process::id()));
        for page in [None, Some(format!("unix:{}", path.display()))] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let mut service = Service::new(StatusOptions { page, control: None }, true, Some(listener)).unwrap();
            service.begin();
            // A program that another test of this binary starts has a copy of the listener until it calls exec.
            let deadline = Instant::now() + Duration::from_secs(60);
            while let Err(error) = TcpListener::bind(address) {
                assert!(Instant::now() < deadline, "{error}");
                std::thread::yield_now();
            }
        }
    }
}
