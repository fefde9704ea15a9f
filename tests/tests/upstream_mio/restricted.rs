//! Forks of runtimes on upstream mio in a container that allows neither kcmp(2) nor netlink sockets.

use std::time::Duration;

use forkio_tests::runtime::*;

/// Makes kcmp(2) and netlink sockets fail with `EPERM`.
fn deny_kcmp_and_netlink() {
    deny_call(libc::SYS_kcmp, libc::EPERM);
    deny_sockets(libc::AF_NETLINK);
    // SAFETY: no memory is involved.
    let (kcmp, netlink) = unsafe {
        let own = libc::getpid();
        let netlink = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
        (libc::syscall(libc::SYS_kcmp, own, own, 0, 0, 0), netlink)
    };
    check_eq("denied", (kcmp, netlink), (-1, -1));
}

scenarios!(
    /// A fork finds the two descriptors of an epoll instance, and the sending end of the signal pipe, by other means.
    async fn everything_works() {
        deny_kcmp_and_netlink();
        let mut signals = signal(SignalKind::user_defined1()).unwrap();
        let (stream, _peer) = connection().await;
        let (pair, _other) = UnixStream::pair().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = || sender.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
        let (go, end) = Turn::both_ways();
        let child = fork_child(async || {
            kill(own_pid(), libc::SIGUSR1);
            signals.recv().await.unwrap();
            check_eq("severed", stream.peek(&mut [0; 1]).await.unwrap(), 0);
            // If the kernel does not answer, the ends of a pair count as connections.
            pair.readable().await.unwrap();
            check_eq("the severed end of a pair", pair.try_read(&mut [0; 1]).unwrap(), 0);
            in_child(async || sleep(Duration::from_millis(1)).await).await;
            go.give();
            wait_for(&end).await;
            datagrams.recv(&mut [0; 8]).await.unwrap();
        })
        .await;
        wait_for(&go).await;
        let silence = timeout(Duration::from_millis(20), signals.recv()).await;
        assert!(silence.is_err(), "the parent has the child's signal");
        kill(own_pid(), libc::SIGUSR1);
        signals.recv().await.unwrap();
        end.give();
        send();
        reap(child).await;
    }
);
