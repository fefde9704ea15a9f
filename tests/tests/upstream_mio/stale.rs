//! Registrations whose descriptor was closed without deregistering, and refers to another file now.

use std::net::UdpSocket as StdUdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use forkio_tests::runtime::*;
use tokio::io::unix::AsyncFd;

use crate::{eventfd, signal_eventfd, watch};

/// A descriptor that does not own its file.
#[derive(Debug)]
struct Bare(RawFd);

impl AsRawFd for Bare {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Watches `file`, and then puts `other` at its descriptor without telling the runtime. The returned duplicate keeps the old
/// file, so the kernel keeps the registration.
fn replace_registered(file: OwnedFd, other: &impl AsRawFd) -> (OwnedFd, OwnedFd) {
    // SAFETY: the registration is leaked, so the runtime never uses the descriptor again.
    std::mem::forget(unsafe { AsyncFd::register(Bare(file.as_raw_fd())) }.unwrap());
    let kept = file.try_clone().unwrap();
    // SAFETY: no memory is involved. `file` owns the descriptor, which then refers to the other file.
    check_eq("dup2", unsafe { libc::dup2(other.as_raw_fd(), file.as_raw_fd()) }, file.as_raw_fd());
    (file, kept)
}

fn pipe() -> [OwnedFd; 2] {
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two descriptors, and nothing else owns them.
    unsafe {
        check_eq("pipe", libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC), 0);
        ends.map(|end| OwnedFd::from_raw_fd(end))
    }
}

scenarios!(
    /// The child leaves the other file alone: the fork does not sever that file in place of the registered stream.
    async fn a_reused_descriptor() {
        let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        let (reused, _kept) = replace_registered(stream.into(), &socket);
        let child = fork_child(async || {
            let socket = StdUdpSocket::from(reused);
            socket.send_to(b"child", socket.local_addr().unwrap()).unwrap();
        })
        .await;
        reap(child).await;
        let mut text = [0; 8];
        check_eq("from the child", socket.recv(&mut text).unwrap(), 5);
    }

    /// The child leaves the other file alone even if both files have the same inode: the ends of a pipe, and eventfds.
    async fn reused_descriptor_of_an_anonymous_inode() {
        let [reader, writer] = pipe();
        let (reused, _kept) = replace_registered(reader, &writer);
        let (eventfd, _kept_eventfd) = replace_registered(eventfd(), &eventfd());
        let parent = std::process::id();
        in_child(async || {
            check_eq("the pipe", is_shared(parent, reused.as_raw_fd()), Some(true));
            check_eq("the eventfd", is_shared(parent, eventfd.as_raw_fd()), Some(true));
        })
        .await;
    }

    /// A descriptor that is registered again has the policy of the new registration.
    async fn registered_again() {
        let (first, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (second, mut far) = connection().await;
        let (fd, _kept) = replace_registered(first.into(), &second);
        // SAFETY: `fd` stays open for longer than the registration.
        let watched = unsafe { AsyncFd::register(Bare(fd.as_raw_fd())) }.unwrap();
        // The kernel now lists both registrations.
        let child = fork_child(async || {
            // The stream is severed.
            timeout(limit(), watched.readable()).await.expect("the end").unwrap().clear_ready();
            let mut byte = [0];
            // SAFETY: the kernel writes a byte.
            check_eq("end of file", unsafe { libc::read(fd.as_raw_fd(), byte.as_mut_ptr().cast(), 1) }, 0);
        })
        .await;
        reap(child).await;
        far.write_all(b"x").await.unwrap();
        timeout(limit(), watched.readable()).await.expect("an event").unwrap().clear_ready();
    }

    /// If the kernel's list does not show which of two files is open, a fork is refused with a reason. Forks work again once
    /// one of the files is closed.
    async fn ambiguous_registration() {
        let (fd, kept) = replace_registered(eventfd(), &eventfd());
        // SAFETY: `fd` stays open for longer than the registration.
        let watched = unsafe { AsyncFd::register(Bare(fd.as_raw_fd())) }.unwrap();
        let refused = forkio::fork().await;
        let Err(ForkError::Prepare(error)) = refused else { panic!("{refused:?}") };
        let text = error.to_string();
        assert!(text.contains(&format!("descriptor {} is registered 2 times", fd.as_raw_fd())), "{text}");
        drop(kept);
        in_child(async || ()).await;
        drop(watched);
    }

    /// A policy ends with the registration, even if the next one has the same descriptor and kind of file.
    async fn policies_end() {
        let tagged = watch(eventfd());
        let descriptor = tagged.as_raw_fd();
        forkio::set_policy(tagged.get_ref(), ForkPolicy::NoFork).unwrap();
        signal_eventfd(tagged.get_ref());
        in_child(async || {
            let silence = timeout(Duration::from_millis(20), tagged.readable()).await;
            assert!(silence.is_err(), "an event of a no-fork registration");
        })
        .await;
        drop(tagged);
        let next = watch(eventfd());
        check_eq("the descriptor", next.as_raw_fd(), descriptor);
        signal_eventfd(next.get_ref());
        in_child(async || drop(timeout(limit(), next.readable()).await.expect("an event"))).await;
        check_eq("the policy", forkio_reactor::fork::policy(&next), Some(ForkPolicy::Inherit));
    }

    /// A policy holds in children of children.
    async fn policies_are_inherited() {
        let (stream, mut peer) = connection().await;
        forkio::set_policy(&stream, ForkPolicy::Inherit).unwrap();
        let (kept, _other) = connection().await;
        forkio::set_policy(&kept, ForkPolicy::NoFork).unwrap();
        let child = fork_child(async || {
            check_eq("the policy", forkio_reactor::fork::policy(&stream), Some(ForkPolicy::Inherit));
            in_child(async || {
                stream.readable().await.unwrap();
                check_eq("inherited", stream.try_read(&mut [0; 8]).unwrap(), 5);
            })
            .await;
        })
        .await;
        peer.write_all(b"hello").await.unwrap();
        reap(child).await;
    }
);
