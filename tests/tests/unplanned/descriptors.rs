//! Descriptors that the child lacks, because it has closed them or the kernel has not copied them.

#[cfg(epoll)]
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use forkio_tests::reactor::*;

/// Opens files before the descriptors under test. Once the child has closed these files, fresh objects take their lower
/// descriptors, and not the descriptors under test.
#[cfg(epoll)]
fn low_descriptors() -> [std::fs::File; 8] {
    [(); 8].map(|()| std::fs::File::open("/dev/null").unwrap())
}

/// Returns what proc(5) shows of these descriptors: inodes, counters, clocks, and the registrations of an epoll instance.
#[cfg(epoll)]
fn shown(descriptors: &[RawFd]) -> Vec<String> {
    let read = |fd| std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    descriptors.iter().map(read).collect()
}

/// Opens a file of the kind that `name`, a link in `/proc/self/fd`, shows, or a socket for any other name. The eventfd
/// and the timerfd differ from those of forkio: by their value, and by their clock.
#[cfg(epoll)]
fn open_like(name: &str) -> OwnedFd {
    // SAFETY: no memory is involved.
    let fd = unsafe {
        match name {
            "anon_inode:[eventpoll]" => libc::epoll_create1(0),
            "anon_inode:[eventfd]" => libc::eventfd(5, libc::EFD_NONBLOCK),
            "anon_inode:[timerfd]" => libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK),
            _ => return std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        }
    };
    assert!(fd >= 0, "{name}: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

scenarios!(
    /// A timer and signals give events in a child that also needs a dead endpoint. On kqueue systems, timers and signals
    /// have queues that the kernel does not copy, so their descriptors are free in the child.
    fn timers_and_signals() {
        let mut selector = Poll::new().unwrap();
        let signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 1);
        let mut timer = registered(selector.registry(), Timer::new(Clock::Monotonic).unwrap(), 2);
        let (mut severed, _peer) = connection();
        register_with(selector.registry(), &mut severed, 3, ForkPolicy::Sever);
        timer.set_after(Duration::from_millis(20), None).unwrap();
        unplanned::in_child(|| {
            wait_for_all(&mut selector, [2, 3]);
            check_eq("expirations", timer.expirations().unwrap(), 1);
            kill(own_pid(), libc::SIGUSR1);
            check_eq("the signal", wait(&mut selector), tokens([1]));
            check_eq("the sender", signals.receive().unwrap().sender(), Some(std::process::id()));
            exit_now(0);
        });
        check_eq("the parent's timer", wait(&mut selector), tokens([2]));
        check_eq("expirations", timer.expirations().unwrap(), 1);
    }

    /// If a child has lost the descriptor of a selector, reconciling opens the selector's queue at another descriptor, and no
    /// other selector gets that queue.
    #[cfg(epoll)]
    fn lost_queue() {
        let low = std::fs::File::open("/dev/null").unwrap();
        let (mut older, older_waker) = selector_with_waker();
        let server = registered(older.registry(), listener(), 1);
        let mut newer = Poll::new().unwrap();
        let newer_waker = Waker::new(newer.registry(), Token(2)).unwrap();
        let socket = registered(newer.registry(), udp(), 3);
        let lost = [low.as_raw_fd(), newer.as_raw_fd()];
        unplanned::in_child(|| {
            // Fresh objects take these descriptors, because they are the lowest free ones. Without closing anything, a
            // child lacks a descriptor that another thread of the parent opens during the fork.
            for fd in lost {
                // SAFETY: the file is not used again, and the selector finds out that its descriptor is closed.
                unsafe { libc::close(fd) };
            }
            check_table(&older);
            check_table(&newer);
            let _client = connect(&server);
            check_eq("the older selector", wait(&mut older), tokens([1]));
            send_to(&socket);
            check_eq("the newer selector", wait(&mut newer), tokens([3]));
            older_waker.wake().unwrap();
            newer_waker.wake().unwrap();
            check_eq("the older waker", wait(&mut older), tokens([0]));
            check_eq("the newer waker", wait(&mut newer), tokens([2]));
            exit_now(0);
        });
    }

    /// If a child closes every descriptor and opens files, reconciling does not replace those files.
    #[cfg(epoll)]
    fn closed_descriptors() {
        let (mut selector, waker) = selector_with_waker();
        let (mut severed, _peer) = connection();
        register_with(selector.registry(), &mut severed, 1, ForkPolicy::Sever);
        let (mut renewed, _other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut renewed, 2, ForkPolicy::Renew);
        let timer = Timer::new(Clock::Monotonic).unwrap();
        let highest = *open_descriptors().last().unwrap();
        unplanned::in_child(|| {
            for fd in 3..=highest {
                // SAFETY: the owners only find out that the descriptor is closed, and never close it themselves.
                unsafe { libc::close(fd) };
            }
            let files: Vec<_> = (3..=highest).map(|_| std::fs::File::open("/proc/self/exe").unwrap()).collect();
            let lengths = |files: &[std::fs::File]| -> Vec<u64> {
                files.iter().map(|file| file.metadata().unwrap().len()).collect()
            };
            let before = lengths(&files);
            check_eq("generation", generation(), 1);
            check_eq("the files", lengths(&files), before.clone());
            let _ = waker.wake();
            let error = selector.poll(&mut Events::with_capacity(4), None).unwrap_err();
            check_eq("polling without a waker", error.raw_os_error(), Some(libc::EBADF));
            // If dropped, the owners of the closed descriptors would close the files.
            std::mem::forget((selector, waker, severed, renewed, timer));
            check_new_selector();
            check_eq("the files", lengths(&files), before);
            exit_now(0);
        });
    }

    /// A daemon closes every descriptor, and opens files of the same kinds at the same descriptors, or sockets at all
    /// of them. Reconciling does not replace these files, and does not change the daemon's own epoll instance.
    #[cfg(epoll)]
    fn files_of_the_same_kinds() {
        let mut selector = Poll::new().unwrap();
        let waker = Waker::new(selector.registry(), Token(0)).unwrap();
        let [(mut severed, mut peer), (mut muted, _muted_peer)] = [connection(), connection()];
        register_with(selector.registry(), &mut severed, 1, ForkPolicy::Sever);
        register_with(selector.registry(), &mut muted, 2, ForkPolicy::Sever);
        fork::glue::mute(&muted).unwrap();
        let (mut renewed, _other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut renewed, 3, ForkPolicy::Renew);
        let (always_renewed, _other_end) = UnixStream::pair().unwrap();
        fork::glue::renew_pair_in_children(&always_renewed).unwrap();
        let [mut timer, _unregistered_timer] = [(); 2].map(|()| Timer::new(Clock::Monotonic).unwrap());
        register(selector.registry(), &mut timer, 4);
        let descriptors: Vec<RawFd> = open_descriptors().into_iter().filter(|fd| *fd > 2).collect();
        let name = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_string_lossy().into_owned();
        let names: Vec<String> = descriptors.iter().map(|fd| name(*fd)).collect();
        let queue_at = selector.as_raw_fd();
        let waker_at = descriptors.iter().zip(&names).find(|(_, name)| *name == "anon_inode:[eventfd]").unwrap().0;
        let daemon = |open: &dyn Fn(&str) -> OwnedFd| {
            // SAFETY: the owners do not use or close the descriptors again.
            check_eq("close_range", unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
            for (fd, name) in descriptors.iter().zip(&names) {
                let file = open(name);
                // SAFETY: no memory is involved.
                check_eq("dup2", unsafe { libc::dup2(file.as_raw_fd(), *fd) }, *fd);
                if file.as_raw_fd() == *fd {
                    std::mem::forget(file);
                }
            }
            // The daemon's own event loop has the same descriptors as the parent's.
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: the kernel reads the structure. The call fails if the daemon has no epoll instance at `queue_at`.
            unsafe { libc::epoll_ctl(queue_at, libc::EPOLL_CTL_ADD, *waker_at, &raw mut event) };
            let before = shown(&descriptors);
            check_eq("generation", generation(), 1);
            check_eq("the files", shown(&descriptors), before.clone());
            let _ = waker.wake();
            let mut fresh = Poll::new().unwrap();
            let fresh_waker = Waker::new(fresh.registry(), Token(7)).unwrap();
            fresh_waker.wake().unwrap();
            check_eq("a new selector", wait(&mut fresh), tokens([7]));
            unplanned::in_child(|| check_eq("the grandchild's files", shown(&descriptors), before.clone()));
            check_eq("the files", shown(&descriptors), before);
            exit_now(0);
        };
        unplanned::in_child(|| daemon(&open_like));
        unplanned::in_child(|| daemon(&|_| std::os::unix::net::UnixStream::pair().unwrap().0.into()));
        unplanned::in_child(|| {
            daemon(&|_| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap().into()
            });
        });
        check_table(&selector);
        waker.wake().unwrap();
        std::io::Write::write_all(&mut peer, b"x").unwrap();
        wait_for_all(&mut selector, [0, 1]);
    }

    /// If a child has closed or redirected an end of a renewed pair, reconciling leaves that end alone.
    #[cfg(epoll)]
    fn closed_ends_of_pairs() {
        let low = low_descriptors();
        let mut selector = Poll::new().unwrap();
        let kept = registered(selector.registry(), udp(), 1);
        let (closed, _other_end) = UnixStream::pair().unwrap();
        let (redirected, _other_end) = UnixStream::pair().unwrap();
        for end in [&closed, &redirected] {
            fork::glue::renew_pair_in_children(end).unwrap();
        }
        let (end, closed_peer) = UnixStream::pair().unwrap();
        let _registered = registered_with(
            selector.registry(),
            UnixStream::from(end.as_fd().try_clone_to_owned().unwrap()),
            2,
            ForkPolicy::Renew,
        );
        let null = std::fs::File::open("/dev/null").unwrap();
        unplanned::in_child(|| {
            drop(low);
            for fd in [closed.as_raw_fd(), closed_peer.as_raw_fd()] {
                // SAFETY: the owner only finds out that the descriptor is closed.
                unsafe { libc::close(fd) };
            }
            // SAFETY: no memory is involved.
            unsafe { libc::dup2(null.as_raw_fd(), redirected.as_raw_fd()) };
            send_to(&kept);
            check_eq("the events", wait(&mut selector), tokens([1]));
            exit_now(0);
        });
    }

    /// A child that closes a registered descriptor, or redirects it to a file that cannot be polled, keeps the other
    /// registrations.
    #[cfg(epoll)]
    fn registered_descriptor_redirected() {
        let low = low_descriptors();
        let mut selector = Poll::new().unwrap();
        let kept = registered(selector.registry(), udp(), 1);
        let (reader, _writer) = std::io::pipe().unwrap();
        let bare = reader.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&bare), 2);
        let owned = registered(selector.registry(), udp(), 3);
        let signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 4);
        let closed = registered(selector.registry(), udp(), 5);
        let null = std::fs::File::open("/dev/null").unwrap();
        unplanned::in_child(|| {
            drop(low);
            // SAFETY: the owner only finds out that the descriptor is closed.
            unsafe { libc::close(closed.as_raw_fd()) };
            for fd in [bare, owned.as_raw_fd(), signals.as_raw_fd()] {
                // SAFETY: no memory is involved.
                check_eq("redirecting", unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd);
            }
            send_to(&kept);
            check_eq("the remaining registration", wait(&mut selector), tokens([1]));
            check_table(&selector);
        });
    }

    /// Without /proc, a child has its queue at the same descriptor, and a timer of its own.
    #[cfg(epoll)]
    fn without_proc() {
        let mut selector = Poll::new().unwrap();
        let mut timer = registered(selector.registry(), Timer::new(Clock::Monotonic).unwrap(), 1);
        let _signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 2);
        timer.set_after(Duration::from_millis(20), None).unwrap();
        let queue = selector.as_raw_fd();
        unplanned::in_child(|| {
            deny_proc();
            check_eq("the descriptor", selector.as_raw_fd(), queue);
            check_eq("the timer", wait(&mut selector), tokens([1]));
            check_eq("expirations", timer.expirations().unwrap(), 1);
            kill(own_pid(), libc::SIGUSR1);
            check_eq("the signal", wait(&mut selector), tokens([2]));
        });
        check_eq("the parent's timer", wait(&mut selector), tokens([1]));
        check_eq("expirations", timer.expirations().unwrap(), 1);
    }
);
