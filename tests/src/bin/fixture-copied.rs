//! What a fork copies beside the runtime: scenarios of [`forkio::audit`], [`forkio::before_fork`] and of what is to be done
//! in [`forkio::on_child`].

use std::collections::BTreeSet;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use forkio::{ForkError, ForkPolicy, Listener, Prefork, SharedObject, Worker};
use forkio_tests::runtime::{fork_child, reap, run};
use forkio_tests::{check_eq, fixture_main, is_shared, kernel_objects, name_of, open_descriptors, path_only};
use rand::RngExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    // Whoever started this may have left something open, which an audit would find.
    for fd in open_descriptors().into_iter().filter(|fd| *fd > 2) {
        // SAFETY: nothing in this process owns a descriptor yet.
        unsafe { libc::close(fd) };
    }
    fixture_main(&[
        ("audit", || run(audit())),
        ("audit-is-what-the-kernel-says", || run(audit_is_what_the_kernel_says())),
        ("audit-in-a-worker", || run(audit_in_a_worker())),
        ("audit-refuses", || run(audit_refuses())),
        ("audit-outside-a-runtime", audit_outside_a_runtime),
        ("before-fork", || run(before_fork())),
        ("before-fork-refuses", || run(before_fork_refuses())),
        ("before-fork-threads", || run(before_fork_threads())),
        ("before-fork-panics", || run(before_fork_panics())),
        ("stdio", || run(stdio())),
        ("buffered-file", || run(buffered_file())),
        ("same-numbers", || run(same_numbers())),
        ("reseeded", || run(reseeded())),
    ]);
}

/// A file of this process's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("forkio-{name}-{}", std::process::id())))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A child that exits drops nothing, so this is the process that made it.
        let _ = fs::remove_file(&self.0);
    }
}

/// One of everything that no runtime watches, with what an audit is to say.
fn unregistered(scratch: &Scratch) -> Vec<(OwnedFd, SharedObject, String)> {
    let path = scratch.0.to_string_lossy().into_owned();
    let open = |options: &mut OpenOptions| OwnedFd::from(options.create(true).open(&scratch.0).unwrap());
    let locked: File = open(OpenOptions::new().write(true)).into();
    locked.lock().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let accepted = listener.accept().unwrap().0;
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let between =
        |stream: &std::net::TcpStream| format!("{} to {}", stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let terminal = File::open("/dev/ptmx").unwrap();
    let terminal_name = name_of(&terminal);
    let mut objects = vec![
        (open(OpenOptions::new().write(true)), SharedObject::File, path.clone()),
        (open(OpenOptions::new().append(true)), SharedObject::AppendedFile, path.clone()),
        (locked.into(), if forkio_tests::LOCKS_ARE_SEEN { SharedObject::LockedFile } else { SharedObject::File }, path),
        (File::open("/").unwrap().into(), SharedObject::File, "/".to_owned()),
        (terminal.into(), SharedObject::Device, terminal_name),
        (OwnedFd::from(stream.try_clone().unwrap()), SharedObject::Stream, between(&stream)),
        (stream.into(), SharedObject::Stream, format!("{} to {address}", accepted.peer_addr().unwrap())),
        (OwnedFd::from(accepted.try_clone().unwrap()), SharedObject::Stream, between(&accepted)),
        (listener.into(), SharedObject::Listener, address.to_string()),
        (
            OwnedFd::from(datagram.try_clone().unwrap()),
            SharedObject::Datagram,
            datagram.local_addr().unwrap().to_string(),
        ),
        (OwnedFd::from(reader.try_clone().unwrap()), SharedObject::Pipe, name_of(&reader)),
        (OwnedFd::from(writer.try_clone().unwrap()), SharedObject::Pipe, name_of(&writer)),
    ];
    objects.extend(kernel_objects());
    objects
}

/// What a runtime watches, or has nothing in it to share; by and by decided on.
struct Registered {
    listener: TcpListener,
    muted: TcpListener,
    datagram: UdpSocket,
    tagged: UdpSocket,
    pair: (UnixStream, UnixStream),
    severed: (TcpStream, TcpStream),
    _signal: tokio::signal::unix::Signal,
    _stateless: Vec<File>,
    _child: tokio::process::Child,
}

async fn registered() -> Registered {
    let bind = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let datagram = || async { UdpSocket::bind("127.0.0.1:0").await.unwrap() };
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let registered = Registered {
        listener,
        muted: bind().await,
        datagram: datagram().await,
        tagged: datagram().await,
        pair: UnixStream::pair().unwrap(),
        severed: (connected.unwrap(), accepted.unwrap().0),
        _signal: signal(SignalKind::user_defined1()).unwrap(),
        _stateless: [File::open("/dev/null").ok(), File::open("/dev/urandom").ok(), path_only()]
            .into_iter()
            .flatten()
            .collect(),
        // Its pidfd, and a pipe that it reads.
        _child: tokio::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    };
    forkio::mute(&registered.muted).unwrap();
    forkio::set_policy(&registered.tagged, ForkPolicy::NoFork).unwrap();
    registered
}

async fn audit() {
    let before = forkio::audit().unwrap();
    assert!(before.is_clean() && before.found().is_empty(), "{before}");
    assert_eq!(before.to_string(), "no descriptor is shared by accident");

    let scratch = Scratch::new("audit");
    let registered = registered().await;
    let unregistered = unregistered(&scratch);
    let audit = forkio::audit().unwrap();
    let (a, b) = &registered.pair;
    let by_default = [registered.listener.as_raw_fd(), registered.datagram.as_raw_fd(), a.as_raw_fd(), b.as_raw_fd()];
    let expected: BTreeSet<_> =
        by_default.into_iter().chain(unregistered.iter().map(|(fd, ..)| fd.as_raw_fd())).collect();
    let found: BTreeSet<_> = audit.found().iter().map(|untagged| untagged.fd).collect();
    assert_eq!(found, expected, "{audit}");
    for untagged in audit.found() {
        let registered = by_default.contains(&untagged.fd);
        check_eq("the policy", untagged.policy, registered.then_some(ForkPolicy::Inherit));
        if let Some((_, object, name)) = unregistered.iter().find(|(fd, ..)| fd.as_raw_fd() == untagged.fd) {
            check_eq("the object", (untagged.object, &untagged.name), (*object, name));
        }
        let line = format!("\n  {untagged}\n");
        assert!(audit.to_string().contains(&line), "{line:?} in {audit}");
    }

    // Decided on, one by one.
    forkio::set_policy(&registered.datagram, ForkPolicy::Inherit).unwrap();
    forkio::set_policy(&registered.listener, ForkPolicy::Sever).unwrap();
    forkio::set_policy(a, ForkPolicy::Inherit).unwrap();
    let audit = forkio::audit().unwrap();
    check_eq("left", audit.found().len(), unregistered.len() + 1);
    let audit = unregistered.iter().fold(audit, |audit, (fd, ..)| audit.allow(fd));
    assert_eq!(audit.found().iter().map(|untagged| untagged.fd).collect::<Vec<_>>(), [b.as_raw_fd()], "{audit}");
    let audit = audit.allow(b);
    assert!(audit.is_clean(), "{audit}");

    // Renewed in the child: both ends, whatever the other one's policy.
    forkio::set_policy(a, ForkPolicy::Renew).unwrap();
    let audit = forkio::audit().unwrap();
    assert!(!audit.found().iter().any(|untagged| untagged.fd == b.as_raw_fd()), "{audit}");
    drop(unregistered);
    let audit = forkio::audit().unwrap();
    assert!(audit.is_clean(), "{audit}");
}

/// What the parent's audit lists is what its child shares with it, but for what is decided on or has nothing in it to
/// share; and the child's audit says the same.
async fn audit_is_what_the_kernel_says() {
    if is_shared(std::process::id(), 0).is_none() {
        // There is nothing to compare it with.
        return;
    }
    let scratch = Scratch::new("kernel");
    let registered = registered().await;
    let unregistered = unregistered(&scratch);
    let audit = forkio::audit().unwrap();
    let listed: BTreeSet<_> = audit.found().iter().map(|untagged| untagged.fd).collect();
    assert!(listed.len() >= unregistered.len());
    let parent = std::process::id();
    let decided = [registered.muted.as_raw_fd(), registered.tagged.as_raw_fd()];
    let severed = [registered.severed.0.as_raw_fd(), registered.severed.1.as_raw_fd()];
    let stateless: Vec<_> = registered._stateless.iter().map(AsRawFd::as_raw_fd).collect();
    let child = fork_child(async || {
        let shared: BTreeSet<_> =
            open_descriptors().into_iter().filter(|fd| *fd > 2 && is_shared(parent, *fd) == Some(true)).collect();
        assert!(decided.iter().all(|fd| shared.contains(fd)) && !severed.iter().any(|fd| shared.contains(fd)));
        let rest = shared.iter().copied().filter(|fd| !decided.contains(fd) && !stateless.contains(fd));
        check_eq("what is shared", rest.collect::<BTreeSet<_>>(), listed);
        // In the child the listener that the parent had muted is one that follows its kind's default.
        let own = forkio::audit().unwrap().allow(&registered.muted);
        check_eq("the child's own audit", own, audit);
    })
    .await;
    reap(child).await;
}

async fn audit_in_a_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // What would be reported without a decision.
    let audit = forkio::audit().unwrap();
    check_eq("a listener", audit.found().len(), 1);
    check_eq(
        "a listener",
        (audit.found()[0].fd, audit.found()[0].object),
        (listener.as_raw_fd(), SharedObject::Listener),
    );
    forkio::before_fork(|| {
        let audit = forkio::audit().map_err(io::Error::other)?;
        if audit.is_clean() { Ok(()) } else { Err(io::Error::other(audit.to_string())) }
    });
    let work = |mut worker: Worker| async move {
        let audit = forkio::audit().unwrap();
        assert!(audit.is_clean(), "{audit}");
        assert!(matches!(worker.take_listeners()[..], [Listener::Tcp(_)]));
        // SAFETY: no memory is involved.
        unsafe { libc::kill(libc::getppid(), libc::SIGTERM) };
        worker.shutdown().await;
    };
    let stopped = Prefork::new().listener(listener).workers(1).run(work).await.unwrap();
    check_eq("the workers", stopped.exit_code(), 0);
}

/// What could not be forked cannot be audited either, and for the same reason.
async fn audit_refuses() {
    let (a, _b) = UnixStream::pair().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    forkio::set_policy(&a, ForkPolicy::Inherit).unwrap();
    forkio::set_policy(&socket, ForkPolicy::Renew).unwrap();
    assert!(matches!(forkio::audit(), Err(ForkError::Prepare(_))));
    forkio::set_policy(&socket, ForkPolicy::Inherit).unwrap();
    check_eq("found", forkio::audit().unwrap().found().len(), 1);
}

/// Not a runtime in sight, and then one on a thread of its own.
fn audit_outside_a_runtime() {
    let file = File::open("/proc").unwrap();
    let found = || forkio::audit().unwrap().found().iter().map(|untagged| untagged.fd).collect::<Vec<_>>();
    check_eq("found", found(), vec![file.as_raw_fd()]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    check_eq("found", found(), vec![file.as_raw_fd()]);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    check_eq("found", found(), vec![file.as_raw_fd(), listener.as_raw_fd()]);
}

async fn before_fork() {
    static CALLS: Mutex<Vec<(u32, &str)>> = Mutex::new(Vec::new());
    let note = |name| move || CALLS.lock().unwrap().push((std::process::id(), name));
    let take = || std::mem::take(&mut *CALLS.lock().unwrap());
    let hook = move |name| {
        let note = note(name);
        move || {
            note();
            io::Result::Ok(())
        }
    };
    forkio::before_fork(hook("first"));
    forkio::before_fork(move || {
        hook("second")()?;
        // For the forks after this one.
        if CALLS.lock().unwrap().len() == 1 {
            forkio::before_fork(hook("third"));
        }
        Ok(())
    });
    forkio::on_child(move |_| note("child")());
    let parent = std::process::id();
    let child = fork_child(async || {
        let own = std::process::id();
        check_eq("calls in the child", take(), vec![(parent, "second"), (parent, "first"), (own, "child")]);
        let grandchild = fork_child(async || {}).await;
        check_eq("calls of a child that forks", take(), vec![(own, "third"), (own, "second"), (own, "first")]);
        reap(grandchild).await;
    })
    .await;
    check_eq("calls in the parent", take(), vec![(parent, "second"), (parent, "first")]);
    reap(child).await;
}

async fn before_fork_refuses() {
    static CALLS: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    static REFUSES: Mutex<bool> = Mutex::new(true);
    forkio::before_fork(|| {
        CALLS.lock().unwrap().push("first");
        Ok(())
    });
    forkio::before_fork(|| {
        CALLS.lock().unwrap().push("second");
        if *REFUSES.lock().unwrap() { Err(io::Error::other("a transaction is open")) } else { Ok(()) }
    });
    let open = open_descriptors();
    let error = forkio::fork().await.unwrap_err();
    assert!(matches!(error, ForkError::Hook(_)), "{error:?}");
    check_eq("in words", error.to_string().ends_with("refused this one: a transaction is open"), true);
    check_eq("calls", std::mem::take(&mut *CALLS.lock().unwrap()), vec!["second"]);
    check_eq("descriptors", open_descriptors(), open);
    // Nothing has changed, so the next one goes through.
    *REFUSES.lock().unwrap() = false;
    reap(fork_child(async || {}).await).await;
    check_eq("calls", CALLS.lock().unwrap().clone(), vec!["second", "first"]);
}

async fn before_fork_threads() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let threads: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>> = Arc::default();
    let mut receiver = Some(receiver);
    let started = Arc::clone(&threads);
    forkio::before_fork(move || {
        if let Some(receiver) = receiver.take() {
            // A thread gives itself its name.
            let (named, is_named) = std::sync::mpsc::channel();
            let wait = move || {
                named.send(()).unwrap();
                receiver.recv().unwrap();
            };
            started.lock().unwrap().push(std::thread::Builder::new().name("from-a-hook".to_owned()).spawn(wait)?);
            is_named.recv().unwrap();
        }
        Ok(())
    });
    match forkio::fork().await.unwrap_err() {
        ForkError::Threads(threads) => check_eq("the thread", threads[0].name.as_str(), "from-a-hook"),
        error => panic!("{error:?}"),
    }
    sender.send(()).unwrap();
    threads.lock().unwrap().pop().unwrap().join().unwrap();
    reap(fork_child(async || {}).await).await;
}

/// The panic comes out of `fork().await`, and leaves hooks and signals as they were.
async fn before_fork_panics() {
    static CALLS: Mutex<u32> = Mutex::new(0);
    forkio::before_fork(|| {
        let calls = {
            let mut calls = CALLS.lock().unwrap();
            *calls += 1;
            *calls
        };
        if calls == 1 {
            panic!("on purpose");
        }
        Ok(())
    });
    tokio::spawn(async { drop(forkio::fork().await) }).await.unwrap_err();
    // SAFETY: `blocked` is filled before it is read.
    unsafe {
        let mut blocked = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut blocked);
        check_eq("SIGTERM is blocked", libc::sigismember(&blocked, libc::SIGTERM), 0);
    }
    reap(fork_child(async || {}).await).await;
    check_eq("calls", *CALLS.lock().unwrap(), 2);
}

/// What C code has printed into a buffer comes out once.
async fn stdio() {
    // SAFETY: the format has no arguments.
    unsafe { libc::printf(c"half a line\n".as_ptr()) };
    // Exiting flushes, in both processes.
    reap(fork_child(async || {}).await).await;
}

/// What Rust code has buffered, twice or once.
async fn buffered_file() {
    let scratch = Scratch::new("buffered");
    let append = || BufWriter::new(OpenOptions::new().create(true).append(true).open(&scratch.0).unwrap());
    let file = Arc::new(Mutex::new(append()));
    file.lock().unwrap().write_all(b"a line\n").unwrap();
    let flushed = Arc::clone(&file);
    reap(fork_child(async || file.lock().unwrap().flush().unwrap()).await).await;
    file.lock().unwrap().flush().unwrap();
    check_eq("without a hook", scratch.text().as_str(), "a line\na line\n");

    forkio::before_fork(move || flushed.lock().unwrap().flush());
    file.lock().unwrap().write_all(b"another\n").unwrap();
    reap(fork_child(async || file.lock().unwrap().flush().unwrap()).await).await;
    file.lock().unwrap().flush().unwrap();
    check_eq("with a hook", scratch.text().as_str(), "a line\na line\nanother\n");
}

/// Numbers that three processes draw: the parent first.
async fn draw() -> Vec<u128> {
    let (mut reader, writer) = io::pipe().unwrap();
    // The generator exists, and has some of its block left, as in a program that has used it.
    let _warm: u64 = rand::rng().random();
    for _ in 0..2 {
        reap(fork_child(async || (&writer).write_all(&rand::rng().random::<u128>().to_le_bytes()).unwrap()).await)
            .await;
    }
    let mut numbers = vec![rand::rng().random()];
    for _ in 0..2 {
        let mut number = [0; 16];
        io::Read::read_exact(&mut reader, &mut number).unwrap();
        numbers.push(u128::from_le_bytes(number));
    }
    numbers
}

/// What makes [`reseeded`] necessary.
async fn same_numbers() {
    let numbers = draw().await;
    assert!(numbers[0] == numbers[1] && numbers[0] == numbers[2], "{numbers:?}");
}

async fn reseeded() {
    forkio::on_child(|_| rand::rng().reseed().expect("random numbers from the system"));
    let numbers: BTreeSet<_> = draw().await.into_iter().collect();
    check_eq("different numbers", numbers.len(), 3);
}
