//! Policies in a tokio runtime.

use std::time::Duration;

use forkio_tests::runtime::*;

scenarios!(
    /// Connections are severed in the child. Pairs and datagram sockets are inherited.
    async fn defaults() {
        let (mut stream, mut peer) = connection().await;
        let (mut pair, mut other_end) = UnixStream::pair().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.write_all(b"for the parent").await.unwrap();
        // This task waits in both processes.
        let reader = tokio::spawn(async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.map(|_| bytes)
        });
        let child = fork_child(async || {
            check_eq("a stream is severed", reader.await.unwrap().unwrap(), b"".to_vec());
            other_end.write_all(b"to the parent").await.unwrap();
            let mut buffer = [0; 8];
            let (read, _) = datagrams.recv_from(&mut buffer).await.unwrap();
            check_eq("datagrams are inherited", &buffer[..read], b"x");
        })
        .await;
        sender.send_to(b"x", datagrams.local_addr().unwrap()).await.unwrap();
        let mut buffer = [0; 13];
        pair.read_exact(&mut buffer).await.unwrap();
        check_eq("a pair is inherited", &buffer, b"to the parent");
        reap(child).await;
    }

    /// A source follows a policy other than its default, and a default can be changed.
    async fn set_policy() {
        let (stream, mut peer) = connection().await;
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        forkio::set_policy(&stream, ForkPolicy::Inherit).unwrap();
        forkio::set_policy(&datagrams, ForkPolicy::NoFork).unwrap();
        // The datagram has arrived before the fork, and the runtime has not seen it yet. An inherited registration would give
        // an event.
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
        let child = fork_child(async || {
            let mut buffer = [0; 8];
            stream.readable().await.unwrap();
            check_eq("inherited", stream.try_read(&mut buffer).unwrap(), 5);
            let silence = timeout(Duration::from_millis(50), datagrams.readable()).await;
            assert!(silence.is_err(), "an event of a no-fork registration");
        })
        .await;
        peer.write_all(b"hello").await.unwrap();
        timeout(limit(), datagrams.readable()).await.expect("the parent's event").unwrap();
        reap(child).await;
        check_eq("before", forkio::set_default_policy(SourceKind::Stream, ForkPolicy::Inherit), ForkPolicy::Sever);
        check_eq("after", default_policy(SourceKind::Stream), ForkPolicy::Inherit);
    }

    /// A policy that could never be carried out is refused when it is set. The previous policy stays, and the fork works.
    async fn renew_refused_at_the_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (stream, _peer) = connection().await;
        let (datagram_pair, _other) = tokio::net::UnixDatagram::pair().unwrap();
        // Installs the defaults.
        Lineage::current();
        let refused = |error: std::io::Error| {
            check_eq("the kind", error.kind(), std::io::ErrorKind::Unsupported);
            assert!(error.to_string().contains("another policy"), "{error}");
        };
        forkio::set_policy(&listener, ForkPolicy::NoFork).unwrap();
        refused(forkio::set_policy(&listener, ForkPolicy::Renew).unwrap_err());
        refused(forkio::set_policy(&datagrams, ForkPolicy::Renew).unwrap_err());
        refused(forkio::set_policy(&stream, ForkPolicy::Renew).unwrap_err());
        refused(forkio::set_policy(&datagram_pair, ForkPolicy::Renew).unwrap_err());
        check_eq("the listener", forkio_reactor::fork::policy(&listener), Some(ForkPolicy::NoFork));
        check_eq("the stream", forkio_reactor::fork::policy(&stream), Some(ForkPolicy::Sever));
        let unregistered = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = forkio::set_policy(&unregistered, ForkPolicy::Renew).unwrap_err();
        check_eq("not registered", error.kind(), std::io::ErrorKind::NotFound);
        assert!(error.to_string().contains("AsyncFd"), "{error}");

        let (pair, _end) = UnixStream::pair().unwrap();
        forkio::set_policy(&pair, ForkPolicy::Renew).unwrap();
        forkio::set_policy(&Timer::new(Clock::Monotonic).unwrap(), ForkPolicy::Renew).unwrap();
        reap(fork_child(async || ()).await).await;
    }

    /// A default policy that could never be carried out is refused with a panic, and nothing changes.
    fn renew_refused_as_a_default() {
        // The panic names the file of the caller.
        let (location, panicked) = std::sync::mpsc::channel();
        std::panic::set_hook(Box::new(move |panic| {
            location.send(panic.location().unwrap().file().to_owned()).unwrap()
        }));
        for kind in
            [SourceKind::Listener, SourceKind::Datagram, SourceKind::Stream, SourceKind::Pair, SourceKind::Other]
        {
            let before = default_policy(kind);
            std::panic::catch_unwind(|| forkio::set_default_policy(kind, ForkPolicy::Renew)).unwrap_err();
            check_eq("the default", default_policy(kind), before);
            check_eq("the file", panicked.recv().unwrap().as_str(), file!());
        }
        check_eq("timers", forkio::set_default_policy(SourceKind::Timer, ForkPolicy::Renew), ForkPolicy::Renew);
    }
);
