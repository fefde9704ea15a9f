//! Forks of runtimes on upstream mio in a container that allows neither kcmp(2) nor netlink sockets.

use std::time::Duration;

use forkio_tests::runtime::*;

/// Makes kcmp(2) and netlink sockets fail with `EPERM`.
fn deny_kcmp_and_netlink() {
    let filter = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The offsets of the system call's number and of the low half of its first argument.
    let (number, family) = (0, 16);
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        filter(load, 0, 0, number),
        filter(equals, 3, 0, libc::SYS_kcmp as u32),
        filter(equals, 0, 3, libc::SYS_socket as u32),
        filter(load, 0, 0, family),
        filter(equals, 0, 1, libc::AF_NETLINK as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program. No other memory is involved.
    let (kcmp, netlink) = unsafe {
        check_eq("no new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        check_eq("the filter", libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
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
