//! Forks with an allocator that aborts the process if commit allocates or frees anything.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use forkio_reactor::fork::{self, ForkPolicy, prepare};
use forkio_reactor::net::{TcpListener, UdpSocket, UnixStream};
use forkio_reactor::{Events, Interest, Poll, Token, Waker};
use forkio_tests::is_kernel;

static ARMED: AtomicBool = AtomicBool::new(false);

struct Armed;

// SAFETY: passes on to the system's allocator, or ends the process.
unsafe impl GlobalAlloc for Armed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        abort_if_armed();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        abort_if_armed();
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn abort_if_armed() {
    if ARMED.load(Ordering::Relaxed) && !is_kernel() {
        std::process::abort();
    }
}

#[global_allocator]
static ALLOCATOR: Armed = Armed;

fn main() {
    let mut selectors: Vec<Poll> = (0..3).map(|_| Poll::new().expect("a selector")).collect();
    let wakers: Vec<Waker> =
        selectors.iter().map(|poll| Waker::new(poll.registry(), Token(0)).expect("a waker")).collect();
    wakers[1].wake().expect("waking");
    let registry = selectors[0].registry().try_clone().expect("a registry");
    let mut sockets: Vec<UdpSocket> =
        (0..600).map(|_| UdpSocket::bind("127.0.0.1:0".parse().unwrap()).expect("a socket")).collect();
    let policies = [ForkPolicy::Inherit, ForkPolicy::NoFork, ForkPolicy::Sever];
    for (index, socket) in sockets.iter_mut().enumerate() {
        registry.register(socket, Token(index + 1), Interest::READABLE).expect("registering");
        fork::set_policy(socket, policies[index % 3]).expect("tagging");
    }
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).expect("a listener");
    registry.register(&mut listener, Token(700), Interest::READABLE).expect("registering");
    fork::mute(&listener).expect("muting");
    let (mut pair, mut other_end) = UnixStream::pair().expect("a pair");
    registry.register(&mut pair, Token(701), Interest::READABLE).expect("registering");
    fork::set_policy(&pair, ForkPolicy::Renew).expect("tagging");
    other_end.write_all(b"pending").expect("writing");

    // Twice: the first one makes room that the second one finds.
    for _ in 0..2 {
        let prepared = prepare().expect("preparing");
        // SAFETY: one thread.
        match unsafe { libc::fork() } {
            0 => {
                ARMED.store(true, Ordering::Relaxed);
                // SAFETY: the child of a fork after `prepare`.
                unsafe { prepared.commit() };
                ARMED.store(false, Ordering::Relaxed);
                let mut events = Events::with_capacity(1024);
                selectors[0].poll(&mut events, None).expect("polling");
                assert!(!events.is_empty());
                selectors[1].poll(&mut events, None).expect("polling");
                assert_eq!(events.iter().count(), 1, "the pending wake");
                std::process::exit(0);
            }
            child => {
                prepared.abort();
                let mut status = 0;
                // SAFETY: the kernel writes the status.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the child's status");
            }
        }
    }
}
