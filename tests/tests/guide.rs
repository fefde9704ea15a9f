//! The remedies of `forkio::guide`. The topic `upstream_mio` shows the symptoms. Sections are those of `forkio::guide::hangs`.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::path::PathBuf;

use forkio_tests::runtime::*;

forkio_tests::main!();

/// Starts a program that prints its address and the id of another process, and ends. Checks that the other process serves
/// afterwards.
#[track_caller]
fn serves_without_its_parent(name: &str) {
    let (mut server, address) = Program::start_announced(name, &[]);
    let child = server.line();
    wait_until("the parent has ended", || server.has_ended());
    let mut client = connect_tcp(address);
    client.write_all(b"x").expect("writing");
    check_eq("the serving process", read_to_end(client), child);
    server.finish_well();
}

/// Accepts a connection, waits for a byte, and answers with the process id.
async fn serve_one(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    stream.write_all(std::process::id().to_string().as_bytes()).await.unwrap();
}

/// The two ends of a connection within this process. The client's end is not registered.
async fn connection() -> (StdTcpStream, TcpStream) {
    let listener = listener().await;
    let client = connect_tcp(listener.local_addr().unwrap());
    (client, listener.accept().await.unwrap().0)
}

scenarios!(
    /// Section 1: the parent binds, forks and exits. The child serves.
    fn daemon_with_a_planned_fork() {
        serves_without_its_parent("daemon");
    }

    /// Section 1: the program makes two unplanned forks, and only the grandchild remains. It serves.
    fn daemon_with_unplanned_forks() {
        serves_without_its_parent("daemonized");
    }

    /// Section 1: prints its address, forks, and serves in the child.
    #[program]
    async fn daemon() {
        let listener = listener().await;
        println!("{}", listener.local_addr().unwrap());
        if let Fork::Parent(child) = forkio::fork().await.unwrap() {
            println!("{}", child.id());
            std::process::exit(0);
        }
        serve_one(&listener).await;
    }

    /// Section 1: prints its address, forks twice as in daemon(7), and serves in the grandchild.
    #[program]
    async fn daemonized() {
        forkio::atfork::install().unwrap();
        let listener = listener().await;
        println!("{}", listener.local_addr().unwrap());
        for _ in 0..2 {
            if unplanned::fork().is_some() {
                std::process::exit(0);
            }
        }
        println!("{}", std::process::id());
        serve_one(&listener).await;
    }

    /// Section 1: parent and child each have a multi-threaded runtime.
    fn runtime_per_process() {
        static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        RUNTIME.block_on(async { tokio::spawn(async {}).await.unwrap() }).unwrap();
        // SAFETY: the child uses only the listener, and the runtime that it builds.
        match unsafe { forkio::fork_with_threads() }.unwrap() {
            Fork::Parent(child) => RUNTIME
                .block_on(async {
                    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                    let pid = timeout(limit(), client.read_u32()).await.expect("the child hangs").unwrap();
                    check_eq("the serving process", pid, child.id());
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

    /// Section 1: parent and child each have a multi-threaded runtime, after an unplanned fork.
    fn runtime_per_process_and_unplanned_forks() {
        static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);
        forkio::atfork::install().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fetch = || RUNTIME.block_on(TcpStream::connect(address)).unwrap().map(drop).unwrap();
        fetch();
        let children: Vec<_> = (0..3).map(|_| unplanned::fork_child(fetch)).collect();
        children.into_iter().for_each(forkio_tests::reap);
        fetch();
    }

    /// Section 4: parent and child register the same socket, at the same descriptor, each with its own selector.
    async fn registered_in_both() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let turn = Turn::new();
        let mut listener = Some(listener);
        let child = fork_child(async || {
            let listener = TcpListener::from_std(listener.take().unwrap()).unwrap();
            turn.give();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"x").await.unwrap();
        })
        .await;
        turn.wait();
        let listener = TcpListener::from_std(listener.take().unwrap()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        check_eq("from the child", client.read_u8().await.unwrap(), b'x');
        reap(child).await;
        connect_and_accept(&listener).await;
    }

    /// Section 7: the child serves a connection that the parent has accepted.
    async fn connection_for_the_child() {
        let (mut client, mut stream) = connection().await;
        forkio::set_policy(&stream, ForkPolicy::Inherit).unwrap();
        let Some(child) = fork().await else {
            drop(client);
            let mut question = Vec::new();
            stream.read_to_end(&mut question).await.unwrap();
            stream.write_all(&[&b"answer to "[..], &question].concat()).await.unwrap();
            drop(stream);
            std::process::exit(0);
        };
        drop(stream);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        check_eq("the child's answer", read_to_end(client).as_str(), "answer to question");
        reap(child).await;
    }

    /// Section 7: the parent closes a connection, and the peer sees the end while the child runs.
    async fn connection_of_the_parent() {
        let (client, mut stream) = connection().await;
        let turn = Turn::new();
        let Some(mut child) = fork().await else {
            drop(client);
            check_eq("the bytes that the child reads", stream.read(&mut [0]).await.unwrap(), 0);
            turn.wait();
            std::process::exit(0);
        };
        stream.write_all(b"x").await.unwrap();
        drop(stream);
        check_eq("all bytes that the peer reads", read_to_end(client).as_str(), "x");
        check_eq("the child's status", child.try_wait().unwrap(), None);
        turn.give();
        reap(child).await;
    }

    /// `forkio::guide::copied`: the destructor of a `ParentOwned` value runs in the parent, and not in the child.
    async fn parent_owned() {
        struct Directory(PathBuf);
        impl Drop for Directory {
            fn drop(&mut self) {
                fs::remove_dir(&self.0).unwrap();
            }
        }
        let path = temporary_path("directory");
        fs::create_dir(&path).unwrap();
        let mut directory = Some(ParentOwned::new(Directory(path.clone())));
        in_child(async || drop(directory.take())).await;
        assert!(path.exists() && directory.is_some());
        drop(directory);
        assert!(!path.exists());
    }

    /// `forkio::guide::copied`: parent and child make the same hash keys after the fork. If this fails, the guide is wrong.
    async fn hash_keys() {
        let before = RandomState::new();
        let (mut receiver, sender) = io::pipe().unwrap();
        let hashes = || [before.hash_one("key"), RandomState::new().hash_one("key")].map(u64::to_le_bytes).concat();
        in_child(async || (&sender).write_all(&hashes()).unwrap()).await;
        let mut answer = [0; 16];
        receiver.read_exact(&mut answer).unwrap();
        check_eq("hashes", hashes(), answer.to_vec());
    }
);
