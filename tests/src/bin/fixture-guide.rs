//! The fixes that `forkio::guide` gives, one scenario each. What they fix is shown, on upstream mio, by
//! `tests/unpatched/src/bin/symptoms.rs`.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::time::Duration;

use forkio::{Fork, ForkPolicy, ProcessOwned, ProcessRuntime};
use forkio_tests::runtime::{fork_child, reap, run};
use forkio_tests::{check_eq, fixture_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

fn main() {
    fixture_main(&[
        ("daemon", || run(daemon())),
        ("runtime-per-process", runtime_per_process),
        ("daemonized", || run(daemonized())),
        ("runtime-per-process-fork-by-others", runtime_per_process_fork_by_others),
        ("registered-in-both", || run(registered_in_both())),
        ("connection-for-the-child", || run(connection_for_the_child())),
        ("connection-of-the-parent", || run(connection_of_the_parent())),
        ("process-owned", || run(process_owned())),
        ("hash-keys", || run(hash_keys())),
    ]);
}

/// Section 1, a current-thread runtime: bound by the parent, which goes; served by the child.
async fn daemon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    if let Fork::Parent(child) = forkio::fork().await.unwrap() {
        println!("{}", child.id());
        std::process::exit(0);
    }
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    stream.write_all(std::process::id().to_string().as_bytes()).await.unwrap();
}

/// Section 1, a runtime per process.
fn runtime_per_process() {
    static RUNTIME: ProcessRuntime =
        ProcessRuntime::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    RUNTIME.block_on(async { tokio::spawn(async {}).await.unwrap() }).unwrap();
    // SAFETY: the child uses what this function has made, and the runtime that it builds.
    match unsafe { forkio::fork_with_threads() }.unwrap() {
        Fork::Parent(child) => RUNTIME
            .block_on(async {
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let pid = timeout(LONG, client.read_u32()).await.expect("a child that hangs").unwrap();
                check_eq("who serves", pid, child.id());
                reap(child).await;
            })
            .unwrap(),
        Fork::Child(_) => {
            let serve = async {
                let listener = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
                let (mut stream, _) = listener.accept().await.unwrap();
                let task = tokio::spawn(async move { stream.write_u32(std::process::id()).await.unwrap() });
                task.await.unwrap();
            };
            RUNTIME.block_on(serve).unwrap();
            std::process::exit(0);
        }
    }
}

/// Forks as a library would; the child runs `child` and exits.
fn fork_by_others(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: what the child goes on with is what is to be seen.
    match unsafe { libc::fork() } {
        0 => {
            child();
            std::process::exit(0);
        }
        pid => {
            assert!(pid > 0, "fork: {}", io::Error::last_os_error());
            pid
        }
    }
}

fn reap_of_others(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    check_eq("the child's status", status, 0);
}

/// Section 1, a fork by others in the middle of a current-thread runtime: as `daemonize` does, twice.
async fn daemonized() {
    forkio::atfork::install().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    for _ in 0..2 {
        // SAFETY: this process has one thread.
        if unsafe { libc::fork() } != 0 {
            std::process::exit(0);
        }
    }
    println!("{}", std::process::id());
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    stream.write_all(std::process::id().to_string().as_bytes()).await.unwrap();
}

/// Section 1, forks by others in a process whose runtime has threads: each child finds a runtime of its own.
fn runtime_per_process_fork_by_others() {
    static RUNTIME: ProcessRuntime =
        ProcessRuntime::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
    forkio::atfork::install().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fetch = || RUNTIME.block_on(TcpStream::connect(address)).unwrap().map(drop).unwrap();
    fetch();
    let children: Vec<_> = (0..3).map(|_| fork_by_others(fetch)).collect();
    children.into_iter().for_each(reap_of_others);
    fetch();
}

/// Section 4: one socket, at one number, given to what is a selector of each process.
async fn registered_in_both() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut receiver, sender) = io::pipe().unwrap();
    let mut listener = Some(listener);
    let child = fork_child(async || {
        let listener = TcpListener::from_std(listener.take().unwrap()).unwrap();
        (&sender).write_all(&[1]).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
    })
    .await;
    receiver.read_exact(&mut [0]).unwrap();
    let listener = TcpListener::from_std(listener.take().unwrap()).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    check_eq("from the child", client.read_u8().await.unwrap(), b'x');
    reap(child).await;
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    drop((client.unwrap(), accepted.unwrap()));
}

/// The two ends of a connection within this process; the client's is not registered.
async fn connection() -> (std::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Section 7: the parent closes, and its peer sees the end while the child lives.
async fn connection_of_the_parent() {
    let (mut client, mut stream) = connection().await;
    let (mut receiver, sender) = io::pipe().unwrap();
    let mut child = match forkio::fork().await.unwrap() {
        Fork::Parent(child) => child,
        Fork::Child(_) => {
            drop(client);
            check_eq("what the child reads", stream.read(&mut [0]).await.unwrap(), 0);
            // Lives until the parent has seen what it is to see.
            drop(sender);
            let _ = receiver.read(&mut [0]);
            std::process::exit(0);
        }
    };
    stream.write_all(b"x").await.unwrap();
    drop(stream);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    check_eq("all that the peer reads", rest, b"x".to_vec());
    check_eq("the child", child.try_wait().unwrap(), None);
    drop(sender);
    reap(child).await;
}

/// Section 7: a connection that is the child's to serve.
async fn connection_for_the_child() {
    let (mut client, mut stream) = connection().await;
    forkio::set_policy(&stream, ForkPolicy::Inherit).unwrap();
    match forkio::fork().await.unwrap() {
        Fork::Parent(child) => {
            drop(stream);
            client.write_all(b"question").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            check_eq("the child's answer", answer, b"answer to question".to_vec());
            reap(child).await;
        }
        Fork::Child(_) => {
            drop(client);
            let mut question = Vec::new();
            stream.read_to_end(&mut question).await.unwrap();
            stream.write_all(&[&b"answer to "[..], &question].concat()).await.unwrap();
            drop(stream);
            std::process::exit(0);
        }
    }
}

/// What else is copied: a value whose destructor acts on the world.
async fn process_owned() {
    struct Directory(std::path::PathBuf);
    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir(&self.0).unwrap();
        }
    }
    let path = std::env::temp_dir().join(format!("forkio-guide-{}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    let mut directory = Some(ProcessOwned::new(Directory(path.clone())));
    reap(fork_child(async || drop(directory.take())).await).await;
    assert!(path.exists() && directory.is_some());
    drop(directory);
    assert!(!path.exists());
}

/// What else is copied: the keys of `HashMap`. If this fails, the page is wrong.
async fn hash_keys() {
    let before = RandomState::new();
    let (mut receiver, sender) = io::pipe().unwrap();
    let hashes = || [before.hash_one("key"), RandomState::new().hash_one("key")].map(u64::to_le_bytes).concat();
    reap(fork_child(async || (&sender).write_all(&hashes()).unwrap()).await).await;
    let mut childs = [0; 16];
    receiver.read_exact(&mut childs).unwrap();
    check_eq("hashes", hashes(), childs.to_vec());
}
