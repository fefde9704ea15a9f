//! Helpers for scenarios in a tokio runtime. `use forkio_tests::runtime::*` imports them, the types of forkio and tokio
//! that scenarios use, and the general helpers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

pub use forkio::audit::{SharedObject, shared_descriptors};
pub use forkio::prefork::{Distribution, Listener, Prefork, PreforkError, Stopped, Worker};
pub use forkio::time::{Clock, Timer};
pub use forkio::{
    Child, Fork, ForkError, ForkOptions, ForkPolicy, Lineage, NotInChild, ParentOwned, ProcessRuntime, RuntimeError,
    SourceKind,
};
pub use forkio_reactor::fork::{PrepareObject, default_policy, glue};
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
pub use tokio::runtime::{Builder, Runtime};
pub use tokio::signal::unix::{Signal, SignalKind, signal};
pub use tokio::time::{Instant, interval, sleep, timeout};

pub use crate::process::*;
pub use crate::sys::*;
pub use crate::{Program, arguments, limit, rounds, scenarios, unplanned};

/// Builds a current-thread runtime with all drivers.
#[track_caller]
pub fn current_thread() -> Runtime {
    let mut builder = Builder::new_current_thread();
    // Let idle threads end soon, because a fork after `spawn_blocking` waits for them.
    builder.enable_all().thread_keep_alive(Duration::from_millis(20)).build().expect("a runtime")
}

/// Builds a multi-threaded runtime with two workers and all drivers.
pub fn multi_thread() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Runs a scenario on a runtime of its own.
#[track_caller]
pub fn run(scenario: impl Future<Output = ()>) {
    current_thread().block_on(scenario);
}

/// Forks. Returns the child in the parent, `None` in the child.
pub async fn fork() -> Option<Child> {
    match forkio::fork().await.expect("forking") {
        Fork::Parent(child) => Some(child),
        Fork::Child(_) => None,
    }
}

/// Forks. The child runs `child` and exits.
pub async fn fork_child(child: impl AsyncFnOnce()) -> Child {
    let Some(handle) = fork().await else {
        child().await;
        std::process::exit(0);
    };
    handle
}

/// Waits for a child, which must exit with 0.
pub async fn reap(mut child: Child) {
    let status = timeout(limit(), child.wait()).await.expect("the child hangs").expect("waiting");
    assert!(status.success(), "the child in process {}: {status}", child.id());
}

/// Forks. The child runs `child` and exits, and the parent waits for it.
pub async fn in_child(child: impl AsyncFnOnce()) {
    reap(fork_child(child).await).await;
}

/// Forks a process with threads. The child runs `child` and exits.
#[track_caller]
pub fn fork_with_threads(child: impl FnOnce()) -> Child {
    // SAFETY: the child uses only objects that it creates itself, and what a child of such a fork keeps intact.
    match unsafe { forkio::fork_with_threads() }.expect("forking") {
        Fork::Parent(child) => child,
        Fork::Child(_) => run_child(child),
    }
}

/// Checks that a server has ended without an error.
#[track_caller]
pub fn check_stopped(ended: Result<Stopped, PreforkError>) {
    check_eq("the server's exit code", ended.expect("a server that runs").exit_code(), 0);
}

/// Waits for another process without blocking the runtime.
pub async fn wait_for(turn: &Turn) {
    struct Receiver(RawFd);

    impl AsRawFd for Receiver {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    // SAFETY: the turn keeps its descriptor open until the registration is dropped below.
    let receiver = unsafe { AsyncFd::register(Receiver(turn.as_raw_fd())) }.expect("registering");
    receiver.readable().await.unwrap().clear_ready();
    turn.wait();
}

/// Opens a listener at a free port.
pub async fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // FreeBSD distributes connections only among listeners that all have this option.
    #[cfg(target_os = "freebsd")]
    socket.set_reuse_port_lb(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

/// Opens a connection within this process. Returns both ends.
pub async fn connection() -> (TcpStream, TcpStream) {
    connect_and_accept(&listener().await).await
}

/// Connects to a listener of this process, and accepts. Returns the ends of client and server.
pub async fn connect_and_accept(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}
