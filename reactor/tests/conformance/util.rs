//! Helpers: waits with a limit, addresses that no other test uses, and checks of flags, registrations and conversions.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use crate::mio::event::{Event, Source};
use crate::mio::{Events, Interest, Poll, Token};

/// Far more time than any step takes; a test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const READ: Interest = Interest::READABLE;
pub(crate) const WRITE: Interest = Interest::WRITABLE;
pub(crate) const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

pub(crate) fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Returns the loopback address of IPv6, or `None` if the system has no IPv6.
pub(crate) fn localhost_v6() -> Option<SocketAddr> {
    let address = (Ipv6Addr::LOCALHOST, 0).into();
    std::net::UdpSocket::bind(address).is_ok().then_some(address)
}

/// A selector and its event buffer.
pub(crate) struct Loop {
    pub(crate) poll: Poll,
    pub(crate) events: Events,
}

impl Loop {
    pub(crate) fn new() -> Loop {
        Loop { poll: Poll::new().unwrap(), events: Events::with_capacity(16) }
    }

    #[track_caller]
    pub(crate) fn register(&self, source: &mut impl Source, token: usize, interests: Interest) {
        self.poll.registry().register(source, Token(token), interests).unwrap();
    }

    /// Polls until an event with `token` satisfies `wanted`.
    #[track_caller]
    pub(crate) fn expect(&mut self, token: usize, wanted: impl Fn(&Event) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            self.poll_until(deadline);
            if self.events.iter().any(|event| event.token() == Token(token) && wanted(event)) {
                return;
            }
            seen.extend(self.events.iter().cloned());
            assert!(Instant::now() < deadline, "no wanted event, only {seen:?}");
        }
    }

    /// Like [`expect`](Loop::expect), for readiness that comes in one event or in several.
    #[track_caller]
    pub(crate) fn expect_all(&mut self, token: usize, wanted: &[fn(&Event) -> bool]) {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            self.poll_until(deadline);
            seen.extend(self.events.iter().filter(|event| event.token() == Token(token)).cloned());
            if wanted.iter().all(|wanted| seen.iter().any(wanted)) {
                return;
            }
            assert!(Instant::now() < deadline, "not all wanted events, only {seen:?}");
        }
    }

    /// Checks that nothing is ready now. Use it only for sources whose events are in the queue when the operation that causes
    /// them returns.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        self.poll.poll(&mut self.events, Some(Duration::ZERO)).unwrap();
        assert!(self.events.is_empty(), "unexpected: {:?}", self.events);
    }

    /// Repeats `operation`, waiting for events whenever it would block.
    #[track_caller]
    pub(crate) fn block_on<T>(&mut self, mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match operation() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "still blocked");
                    self.poll_until(deadline);
                }
                result => return result,
            }
        }
    }

    #[track_caller]
    pub(crate) fn poll_until(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.poll.poll(&mut self.events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => self.events.clear(),
            result => result.unwrap(),
        }
    }
}

#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(result: io::Result<T>, kind: ErrorKind) {
    assert_eq!(result.unwrap_err().kind(), kind);
}

#[track_caller]
pub(crate) fn assert_would_block<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_kind(result, ErrorKind::WouldBlock);
}

pub(crate) fn is_nonblocking(fd: &impl AsFd) -> bool {
    fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0
}

pub(crate) fn is_cloexec(fd: &impl AsFd) -> bool {
    fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC != 0
}

/// Checks the flags that every constructor sets.
#[track_caller]
pub(crate) fn assert_flags(fd: &impl AsFd) {
    assert!(is_nonblocking(fd), "in blocking mode");
    assert!(is_cloexec(fd), "not close-on-exec");
}

fn fcntl(fd: &impl AsFd, command: libc::c_int) -> libc::c_int {
    // SAFETY: the two commands in use take no argument and only read.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command) };
    assert_ne!(flags, -1);
    flags
}

/// Keeps children and closes apart. A child process has duplicates of all descriptors until it executes its program, so
/// a file that another test closes meanwhile stays open in the child. A test that makes a child holds this lock for
/// writing. A test that relies on the effect of a close holds it for reading.
static CHILDREN: RwLock<()> = RwLock::new(());

pub(crate) fn without_children() -> RwLockReadGuard<'static, ()> {
    CHILDREN.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn making_a_child() -> RwLockWriteGuard<'static, ()> {
    CHILDREN.write().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of a test's own, removed with its contents when dropped. Its path is short enough for a socket's address.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("conformance-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        // An earlier process with the same id may have left a directory.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Registers, reregisters and deregisters a source, and registers it again. Checks the errors of calls in the wrong order.
#[track_caller]
pub(crate) fn check_registration(source: &mut impl Source) {
    let poll = Poll::new().unwrap();
    let registry = poll.registry();
    assert_kind(registry.reregister(source, Token(0), READ), ErrorKind::NotFound);
    assert_kind(registry.deregister(source), ErrorKind::NotFound);
    registry.register(source, Token(1), READ).unwrap();
    assert_kind(registry.register(source, Token(2), WRITE), ErrorKind::AlreadyExists);
    registry.reregister(source, Token(3), BOTH).unwrap();
    registry.deregister(source).unwrap();
    assert_kind(registry.deregister(source), ErrorKind::NotFound);
    assert_kind(registry.reregister(source, Token(4), READ), ErrorKind::NotFound);
    registry.register(source, Token(5), READ).unwrap();
    registry.deregister(source).unwrap();
}

/// Converts a value to std's type, to `OwnedFd`, to a raw descriptor, and back. Checks that the descriptor stays the same.
macro_rules! check_conversions {
    ($name:ty, $std:ty, $value:expr) => {{
        use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
        let value: $name = $value;
        let fd = value.as_raw_fd();
        assert_eq!(value.as_fd().as_raw_fd(), fd);
        let debug = format!("{value:?}");
        let std = <$std>::from(value);
        assert_eq!((std.as_raw_fd(), format!("{std:?}")), (fd, debug));
        let owned = OwnedFd::from(<$name>::from_std(std));
        assert_eq!(owned.as_raw_fd(), fd);
        let raw = <$name>::from(owned).into_raw_fd();
        assert_eq!(raw, fd);
        // SAFETY: `into_raw_fd` has just handed over the descriptor, so no other code owns it.
        unsafe { <$name>::from_raw_fd(raw) }
    }};
}
pub(crate) use check_conversions;
