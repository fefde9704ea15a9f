//! `forkio::audit` lists the descriptors that a child would share by accident.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::process::Stdio;

use forkio_tests::runtime::*;
use tokio::process::Command;

/// Each kind of descriptor that no runtime watches, with the object and the name that an audit reports.
fn unregistered() -> Vec<(OwnedFd, SharedObject, String)> {
    let file = temporary_path("file");
    let path = file.to_string_lossy().into_owned();
    let open = |options: &mut OpenOptions| OwnedFd::from(options.create(true).open(&file).unwrap());
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
    let mut objects = vec![
        (open(OpenOptions::new().write(true)), SharedObject::File, path.clone()),
        (open(OpenOptions::new().append(true)), SharedObject::AppendedFile, path.clone()),
        (locked.into(), if LOCKS_ARE_SEEN { SharedObject::LockedFile } else { SharedObject::File }, path),
        (File::open("/").unwrap().into(), SharedObject::File, "/".to_owned()),
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
    if let Ok(terminal) = File::open("/dev/ptmx") {
        let name = name_of(&terminal);
        objects.push((terminal.into(), SharedObject::Device, name));
    }
    objects.extend(kernel_objects());
    objects
}

/// Descriptors that a runtime watches, or that have no state to share.
struct Registered {
    listener: TcpListener,
    muted: TcpListener,
    datagram: UdpSocket,
    tagged: UdpSocket,
    pair: (UnixStream, UnixStream),
    severed: (TcpStream, TcpStream),
    _signal: Signal,
    _stateless: Vec<File>,
    _child: tokio::process::Child,
}

async fn registered() -> Registered {
    let datagram = || async { UdpSocket::bind("127.0.0.1:0").await.unwrap() };
    let registered = Registered {
        listener: listener().await,
        muted: listener().await,
        datagram: datagram().await,
        tagged: datagram().await,
        pair: UnixStream::pair().unwrap(),
        severed: connection().await,
        _signal: signal(SignalKind::user_defined1()).unwrap(),
        _stateless: [File::open("/dev/null").ok(), File::open("/dev/urandom").ok(), path_only()]
            .into_iter()
            .flatten()
            .collect(),
        // The runtime watches a pidfd of the child, and the pipe to its standard input.
        _child: Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap(),
    };
    forkio::set_policy(&registered.tagged, ForkPolicy::NoFork).unwrap();
    glue::mute(&registered.muted).unwrap();
    registered
}

scenarios!(
    /// An audit lists each shared descriptor, with object, name and policy, until the program sets a policy or allows it.
    async fn findings() {
        let before = shared_descriptors().unwrap();
        assert!(before.is_clean() && before.found().is_empty(), "{before}");
        assert_eq!(before.to_string(), "no descriptor is shared by accident");

        let registered = registered().await;
        let unregistered = unregistered();
        let audit = shared_descriptors().unwrap();
        let (a, b) = &registered.pair;
        let by_default =
            [registered.listener.as_raw_fd(), registered.datagram.as_raw_fd(), a.as_raw_fd(), b.as_raw_fd()];
        let expected: BTreeSet<_> =
            by_default.into_iter().chain(unregistered.iter().map(|(fd, ..)| fd.as_raw_fd())).collect();
        let found: BTreeSet<_> = audit.found().iter().map(|shared| shared.fd).collect();
        assert_eq!(found, expected, "{audit}");
        for shared in audit.found() {
            let registered = by_default.contains(&shared.fd);
            check_eq("the policy", shared.policy, registered.then_some(ForkPolicy::Inherit));
            if let Some((_, object, name)) = unregistered.iter().find(|(fd, ..)| fd.as_raw_fd() == shared.fd) {
                check_eq("the object", (shared.object, &shared.name), (*object, name));
            }
            let line = format!("\n  {shared}\n");
            assert!(audit.to_string().contains(&line), "{line:?} in {audit}");
        }

        // Each decision removes a descriptor from the list.
        forkio::set_policy(&registered.datagram, ForkPolicy::Inherit).unwrap();
        forkio::set_policy(&registered.listener, ForkPolicy::Sever).unwrap();
        forkio::set_policy(a, ForkPolicy::Inherit).unwrap();
        let audit = shared_descriptors().unwrap();
        check_eq("the number of descriptors still listed", audit.found().len(), unregistered.len() + 1);
        let audit = unregistered.iter().fold(audit, |audit, (fd, ..)| audit.allow(fd));
        assert_eq!(audit.found().iter().map(|shared| shared.fd).collect::<Vec<_>>(), [b.as_raw_fd()], "{audit}");
        let audit = audit.allow(b);
        assert!(audit.is_clean(), "{audit}");

        // Renewing one end of a pair renews the other one too.
        forkio::set_policy(a, ForkPolicy::Renew).unwrap();
        let audit = shared_descriptors().unwrap();
        assert!(!audit.found().iter().any(|shared| shared.fd == b.as_raw_fd()), "{audit}");
        drop(unregistered);
        let audit = shared_descriptors().unwrap();
        assert!(audit.is_clean(), "{audit}");
    }

    /// An audit lists exactly the objects that parent and child share, except stateless objects and those that the
    /// program has decided about. The child's audit says the same.
    async fn agrees_with_the_kernel() {
        if is_shared(std::process::id(), 0).is_none() {
            // The kernel does not report which objects processes share.
            return;
        }
        let registered = registered().await;
        let unregistered = unregistered();
        let audit = shared_descriptors().unwrap();
        let listed: BTreeSet<_> = audit.found().iter().map(|shared| shared.fd).collect();
        assert!(listed.len() >= unregistered.len());
        let parent = std::process::id();
        let decided = [registered.muted.as_raw_fd(), registered.tagged.as_raw_fd()];
        let severed = [registered.severed.0.as_raw_fd(), registered.severed.1.as_raw_fd()];
        let stateless: Vec<_> = registered._stateless.iter().map(AsRawFd::as_raw_fd).collect();
        in_child(async || {
            let shared: BTreeSet<_> =
                open_descriptors().into_iter().filter(|fd| *fd > 2 && is_shared(parent, *fd) == Some(true)).collect();
            assert!(decided.iter().all(|fd| shared.contains(fd)) && !severed.iter().any(|fd| shared.contains(fd)));
            let rest = shared.iter().copied().filter(|fd| !decided.contains(fd) && !stateless.contains(fd));
            check_eq("the shared descriptors", rest.collect::<BTreeSet<_>>(), listed);
            // The listener that the parent has muted is not muted in the child.
            let own = shared_descriptors().unwrap().allow(&registered.muted);
            check_eq("the child's own audit", own, audit);
        })
        .await;
    }

    /// An audit finds nothing in a prefork server before the fork, or in its worker.
    async fn in_a_worker() {
        let listener = listener().await;
        // The audit lists the listener until the server sets a policy for it.
        let audit = shared_descriptors().unwrap();
        check_eq("the number of descriptors found", audit.found().len(), 1);
        check_eq(
            "the descriptor found",
            (audit.found()[0].fd, audit.found()[0].object),
            (listener.as_raw_fd(), SharedObject::Listener),
        );
        forkio::before_fork(|| {
            let audit = shared_descriptors().map_err(io::Error::other)?;
            if audit.is_clean() { Ok(()) } else { Err(io::Error::other(audit.to_string())) }
        });
        let work = |mut worker: Worker| async move {
            let audit = shared_descriptors().unwrap();
            assert!(audit.is_clean(), "{audit}");
            assert!(matches!(worker.take_listeners()[..], [Listener::Tcp(_)]));
            kill(parent_id().cast_signed(), libc::SIGTERM);
            worker.shutdown().await;
        };
        check_stopped(Prefork::new().listener(listener).workers(1).shutdown_timeout(limit()).run(work).await);
    }

    /// If a policy makes a fork impossible to prepare, an audit fails, too.
    async fn refused() {
        let (a, _b) = UnixStream::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        forkio::set_policy(&a, ForkPolicy::Inherit).unwrap();
        // `forkio::set_policy` refuses this.
        forkio_reactor::fork::set_policy(&socket, ForkPolicy::Renew).unwrap();
        assert!(matches!(shared_descriptors(), Err(ForkError::Prepare(_))));
        forkio::set_policy(&socket, ForkPolicy::Inherit).unwrap();
        check_eq("the number of descriptors found", shared_descriptors().unwrap().found().len(), 1);
    }

    /// An audit works without a runtime, and with one on another thread.
    fn outside_a_runtime() {
        let file = File::open("/proc").unwrap();
        let found = || shared_descriptors().unwrap().found().iter().map(|shared| shared.fd).collect::<Vec<_>>();
        check_eq("the descriptors found", found(), vec![file.as_raw_fd()]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        check_eq("the descriptors found", found(), vec![file.as_raw_fd()]);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        check_eq("the descriptors found", found(), vec![file.as_raw_fd(), listener.as_raw_fd()]);
    }
);
