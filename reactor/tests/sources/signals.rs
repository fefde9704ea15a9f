//! `unix::Signals`.

use std::io::ErrorKind;

use static_assertions::{assert_impl_all, assert_not_impl_any};

use super::util::{Loop, READ, assert_flags, assert_kind, assert_would_block, check_registration, is_cloexec};
use crate::mio::event::{Event, Source};
use crate::mio::unix::{SignalInfo, Signals};

assert_impl_all!(Signals: Source, Send, Sync, Unpin, std::fmt::Debug);
assert_not_impl_any!(Signals: Clone);
assert_impl_all!(SignalInfo: Copy, Eq, std::fmt::Debug);

/// Sends a signal to the calling thread, because another thread of the harness might not block it.
fn raise(signal: i32) {
    // SAFETY: no memory is involved; the signal is blocked.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

#[test]
fn registers() {
    check_registration(&mut Signals::new([libc::SIGUSR1]).unwrap());
    check_registration(&mut Signals::new([]).unwrap());
}

#[test]
fn is_close_on_exec() {
    // A kqueue has no blocking mode.
    let check = if cfg!(any(forkio_kqueue, not(target_os = "linux"))) {
        |fd: &_| assert!(is_cloexec(fd))
    } else {
        |fd: &_| assert_flags(fd)
    };
    check(&Signals::new([libc::SIGUSR1]).unwrap());
}

#[test]
fn receives_signals() {
    let mut run = Loop::new();
    let mut signals = Signals::new([libc::SIGUSR1, libc::SIGUSR2]).unwrap();
    run.register(&mut signals, 1, READ);
    run.expect_nothing();
    assert_would_block(signals.receive());
    for signal in [libc::SIGUSR1, libc::SIGUSR2] {
        raise(signal);
        run.expect(1, Event::is_readable);
        let received = signals.receive().unwrap();
        assert_eq!(received.signal(), signal);
        assert_eq!(received.sender(), Some(std::process::id()));
        // SAFETY: the call cannot fail.
        assert_eq!(received.user(), Some(unsafe { libc::getuid() }));
        assert_eq!(received.value(), 0);
        // The kqueue backend calls sigtimedwait(2), and glibc then reports `SI_TKILL` as `SI_USER`.
        #[cfg(target_os = "linux")]
        assert_eq!(received.code(), if cfg!(forkio_kqueue) { libc::SI_USER } else { libc::SI_TKILL });
        assert_would_block(signals.receive());
    }
}

// Not every system has real-time signals.
#[cfg(target_os = "linux")]
#[test]
fn coalesces_standard_signals_and_queues_real_time_ones() {
    let real_time = libc::SIGRTMIN() + 3;
    let signals = Signals::new([libc::SIGUSR1, real_time]).unwrap();
    for _ in 0..3 {
        raise(libc::SIGUSR1);
        raise(real_time);
    }
    let mut received = Vec::new();
    while let Ok(info) = signals.receive() {
        received.push(info.signal());
    }
    assert_eq!(received, [libc::SIGUSR1, real_time, real_time, real_time]);
}

// Only glibc has `pthread_sigqueue`. Other functions could signal another thread, which does not block the signal.
#[cfg(target_env = "gnu")]
#[test]
fn a_value_comes_with_a_queued_signal() {
    let real_time = libc::SIGRTMIN() + 4;
    let signals = Signals::new([real_time]).unwrap();
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(4711) };
    // SAFETY: this thread has the signal blocked.
    assert_eq!(unsafe { libc::pthread_sigqueue(libc::pthread_self(), real_time, value) }, 0);
    let received = signals.receive().unwrap();
    assert_eq!((received.code(), received.value()), (libc::SI_QUEUE, 4711));
}

#[test]
fn pending_signals_give_an_event_when_registered() {
    let mut signals = Signals::new([libc::SIGUSR1]).unwrap();
    raise(libc::SIGUSR1);
    let mut run = Loop::new();
    run.register(&mut signals, 1, READ);
    run.expect(1, Event::is_readable);
    signals.receive().unwrap();
}

#[test]
fn an_invalid_signal_is_refused() {
    for number in [-1, 0, libc::SIGKILL, libc::SIGSTOP, 65, i32::MAX] {
        assert_kind(Signals::new([libc::SIGUSR2, number]), ErrorKind::InvalidInput);
    }
}
