//! Runtimes with threads in a process that forks: `ProcessRuntime` and `fork_with_threads`.

use std::future::Future;
use std::io::Read;
use std::net::TcpListener as StdTcpListener;
use std::time::Duration;

use forkio_tests::runtime::*;

mod connections;
#[cfg(epoll)]
mod daemons;
mod fresh_signal_pipe;
mod other_forks;
mod process_runtime;
mod retired;
mod signals_and_processes;

forkio_tests::main!(
    connections,
    #[cfg(epoll)]
    daemons,
    fresh_signal_pipe,
    other_forks,
    process_runtime,
    retired,
    signals_and_processes
);

/// The runtime that each process has, as a library would define it.
static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);

/// Runs a future on the runtime of this process.
fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(async { timeout(limit(), future).await.expect("the future hangs") }).expect("a runtime")
}

/// Waits for a child, which must exit with 0.
fn wait(mut child: Child) {
    let status = block_on(child.wait()).unwrap();
    assert!(status.success(), "{status}");
}

/// A non-blocking listener at a free port.
fn listen() -> StdTcpListener {
    let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Serves each connection of a duplicate of `listener` in this process's runtime.
fn serve_each<F: Future<Output = ()> + Send + 'static>(listener: &StdTcpListener, serve: fn(TcpStream) -> F) {
    let listener = listener.try_clone().unwrap();
    RUNTIME
        .spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                tokio::spawn(serve(listener.accept().await.unwrap().0));
            }
        })
        .unwrap();
}

/// Tells each client the process id, and waits until the client closes the connection.
async fn serve(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            stream.write_u32(std::process::id()).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        });
    }
}

/// Starts serving on a duplicate of `listener`, in this process's runtime.
fn start_serving(listener: &StdTcpListener) {
    let listener = listener.try_clone().unwrap();
    RUNTIME.spawn(async { serve(TcpListener::from_std(listener).unwrap()).await }).unwrap();
}

/// Connects to a server. Returns the process id that it answers with.
fn ask(listener: &StdTcpListener) -> u32 {
    let mut stream = connect_tcp(listener.local_addr().unwrap());
    let mut id = [0; 4];
    stream.read_exact(&mut id).unwrap();
    u32::from_be_bytes(id)
}

/// Uses tasks, timers, the blocking pool, sockets and signals of this process's runtime.
fn use_everything() {
    let listener = listen();
    start_serving(&listener);
    check_eq("a server of its own", ask(&listener), std::process::id());
    block_on(async {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_millis(1));
        let slept = tokio::spawn(sleep(Duration::from_millis(5)));
        for _ in 0..3 {
            ticks.tick().await;
        }
        slept.await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5));
        check_eq("blocking", tokio::task::spawn_blocking(|| 6 * 7).await.unwrap(), 42);
        let mut signals = signal(SignalKind::user_defined2()).unwrap();
        kill(own_pid(), libc::SIGUSR2);
        signals.recv().await;
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        check_eq("a client of its own", client.read_u32().await.unwrap(), std::process::id());
    });
}
