//! forkio works together with tokio's pull request 8204, which puts a fresh signal pipe behind the inherited descriptors in a
//! child.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;

use forkio_tests::runtime::*;
use futures_util::FutureExt;

use crate::{RUNTIME, block_on, use_everything, wait};

/// The descriptors of the ends of tokio's signal pipe.
struct SignalPipe {
    receiver: RawFd,
    sender: RawFd,
}

/// The inode of each open socket.
fn sockets() -> BTreeMap<RawFd, u64> {
    (0..1024)
        .filter_map(|fd| Some((fd, fs::metadata(format!("/dev/fd/{fd}")).ok()?)))
        .filter(|(_, file)| file.file_type().is_socket())
        .map(|(fd, file)| (fd, file.ino()))
        .collect()
}

impl SignalPipe {
    /// Starts the first runtime of this process, and looks for the pipe among the sockets that it opens.
    fn of_the_first_runtime() -> SignalPipe {
        let before = sockets();
        RUNTIME.get().expect("a runtime");
        let mut opened: BTreeMap<u64, Vec<RawFd>> = BTreeMap::new();
        for (fd, inode) in sockets().into_iter().filter(|(fd, _)| !before.contains_key(fd)) {
            opened.entry(inode).or_default().push(fd);
        }
        // Each runtime has a duplicate of the receiver. The first descriptor is the one of tokio's global state.
        let ends: Vec<_> = opened.into_values().collect();
        let (receivers, senders): (Vec<_>, Vec<_>) = ends.iter().partition(|fds| fds.len() > 1);
        let ([receiver], [sender]) = (&*receivers, &*senders) else { panic!("not the ends of one pipe: {ends:?}") };
        SignalPipe { receiver: receiver[0], sender: sender[0] }
    }

    /// Renews the pipe, as the pull request does in a child before it makes a fresh runtime.
    fn renew(&self) {
        let (receiver, sender) = UnixStream::pair().expect("a pair");
        for (fresh, onto) in [(receiver, self.receiver), (sender, self.sender)] {
            fresh.set_nonblocking(true).expect("making the pipe non-blocking");
            // SAFETY: tokio owns the descriptor, and has no runtime in this process that uses it.
            check_eq("dup2", unsafe { libc::dup2(fresh.as_raw_fd(), onto) }, onto);
        }
    }
}

scenarios!(
    /// A fresh runtime works in the child and in the grandchild of planned forks. The parent's runtime continues.
    fn planned_forks() {
        let pipe = SignalPipe::of_the_first_runtime();
        use_everything();
        let child = fork_with_threads(|| {
            pipe.renew();
            use_everything();
            let grandchild = fork_with_threads(|| {
                pipe.renew();
                use_everything();
            });
            wait(grandchild);
            use_everything();
        });
        use_everything();
        wait(child);
        use_everything();
    }

    /// A fresh runtime works in the child of an unplanned fork. The parent's runtime continues.
    fn unplanned_forks() {
        let pipe = SignalPipe::of_the_first_runtime();
        use_everything();
        let child = unplanned::fork_child(|| {
            pipe.renew();
            use_everything();
        });
        use_everything();
        forkio_tests::reap(child);
        use_everything();
    }

    /// A signal reaches only the process that it was sent to.
    fn private_signals() {
        let pipe = SignalPipe::of_the_first_runtime();
        let mut own = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        let (ready, sent) = (Turn::new(), Turn::new());
        let child = fork_with_threads(|| {
            pipe.renew();
            let mut stream = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
            ready.give();
            sent.wait();
            // The parent has received its signal.
            let mut other = block_on(async { signal(SignalKind::user_defined2()) }).unwrap();
            kill(own_pid(), libc::SIGUSR2);
            block_on(other.recv()).unwrap();
            assert!(stream.recv().now_or_never().is_none(), "the parent's signal in the child");
            kill(own_pid(), libc::SIGUSR1);
            block_on(stream.recv()).unwrap();
        });
        ready.wait();
        kill(own_pid(), libc::SIGUSR1);
        block_on(own.recv()).unwrap();
        sent.give();
        wait(child);
        assert!(own.recv().now_or_never().is_none(), "the child's signal in the parent");
    }
);
