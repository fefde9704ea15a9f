//! Forks of runtimes on upstream mio.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::time::Duration;

use forkio_tests::runtime::*;
use tokio::sync::oneshot;

use crate::{eventfd, signal_eventfd, watch};

/// Checks that tokio runs on upstream mio: forkio then has no selector.
#[track_caller]
fn check_that_the_patch_is_missing() {
    check_eq("selectors of forkio", glue::selector_count(), 0);
}

/// The descriptors whose name in `/proc/self/fd` is `name`.
fn named(name: &str) -> Vec<RawFd> {
    open_descriptors().into_iter().filter(|fd| name_of(fd) == name).collect()
}

fn epoll_instances() -> Vec<RawFd> {
    named("anon_inode:[eventpoll]")
}

scenarios!(
    /// Parent and child continue with listener, timer, tasks, signals and the blocking pool.
    async fn everything_continues() {
        check_that_the_patch_is_missing();
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let mut ticks = interval(Duration::from_millis(1));
        let mut signals = signal(SignalKind::user_defined1()).unwrap();
        let waiting = tokio::spawn(sleep(Duration::from_millis(20)));
        let (go, end) = Turn::both_ways();
        let child = fork_child(async || {
            waiting.await.unwrap();
            ticks.tick().await;
            check_eq("a blocking task", tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
            kill(own_pid(), libc::SIGUSR1);
            signals.recv().await.unwrap();
            // The parent does not accept before the child has accepted.
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_u32(std::process::id()).await.unwrap();
            go.give();
            wait_for(&end).await;
        })
        .await;
        check_eq("a child's answer", TcpStream::connect(address).await.unwrap().read_u32().await.unwrap(), child.id());
        wait_for(&go).await;
        let silence = timeout(Duration::from_millis(20), signals.recv()).await;
        assert!(silence.is_err(), "the parent has the child's signal");
        let (accepted, client) = tokio::join!(listener.accept(), TcpStream::connect(address));
        accepted.unwrap().0.write_u32(std::process::id()).await.unwrap();
        check_eq("the parent's answer", client.unwrap().read_u32().await.unwrap(), std::process::id());
        ticks.tick().await;
        check_eq("a blocking task", tokio::task::spawn_blocking(|| 8).await.unwrap(), 8);
        end.give();
        reap(child).await;
    }

    /// The child has its own epoll instance behind both descriptors of the parent's instance, its own eventfd, and its own
    /// signal pipe. The same holds for the child's children.
    async fn kernel_objects_are_private() {
        fn check_private(parent: u32, descriptors: &[RawFd]) {
            for fd in descriptors {
                check_eq("shared", is_shared(parent, *fd), Some(false));
            }
        }
        let _signal = signal(SignalKind::user_defined1()).unwrap();
        let pipe = signal_pipe();
        check_eq("tokio's own ends, and the runtime's", pipe.len(), 3);
        let private: Vec<_> = [epoll_instances(), named("anon_inode:[eventfd]"), pipe].concat();
        check_eq("descriptors", private.len(), 2 + 1 + 3);
        let parent = std::process::id();
        in_child(async || {
            check_private(parent, &private);
            // The two descriptors are still one instance.
            let instances = epoll_instances();
            check_eq("registrations", watched_descriptors(instances[0]), watched_descriptors(instances[1]));
            let child = std::process::id();
            in_child(async || {
                check_private(parent, &private);
                check_private(child, &private);
            })
            .await;
        })
        .await;
    }

    /// A wake that was pending at the fork is not lost in either process.
    async fn pending_wakes() {
        let (sender, mut receiver) = oneshot::channel();
        let task = tokio::spawn(async move {
            let received = (&mut receiver).await;
            received.unwrap()
        });
        tokio::task::yield_now().await;
        // The thread wakes the runtime, which forks before it polls its epoll instance.
        std::thread::spawn(move || sender.send(5).unwrap()).join().unwrap();
        let child = fork().await;
        check_eq("the value", timeout(limit(), task).await.expect("a lost wake").unwrap(), 5);
        let Some(child) = child else { std::process::exit(0) };
        reap(child).await;
    }

    /// A wake from another thread reaches only the process in which it is made.
    async fn wakes_are_private() {
        let (go, end) = Turn::both_ways();
        let eventfd = named("anon_inode:[eventfd]")[0];
        let count = move || {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{eventfd}")).unwrap();
            info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap().trim().to_owned()
        };
        async fn wake_from_a_thread() {
            let (sender, receiver) = oneshot::channel();
            let thread = std::thread::spawn(move || sender.send(()).unwrap());
            receiver.await.unwrap();
            thread.join().unwrap();
        }
        let child = fork_child(async || {
            wait_for(&go).await;
            let before = count();
            end.give();
            wait_for(&go).await;
            check_eq("the child's counter", count(), before);
            wake_from_a_thread().await;
            end.give();
        })
        .await;
        go.give();
        wait_for(&end).await;
        for _ in 0..10 {
            wake_from_a_thread().await;
        }
        let before = count();
        go.give();
        wait_for(&end).await;
        check_eq("the parent's counter", count(), before);
        reap(child).await;
    }

    /// An epoll instance that the program uses itself is shared, as after any fork.
    async fn other_epoll_instances() {
        let own = new_epoll();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        // The registration is one-shot and level-triggered, and has the token of tokio's signal pipe.
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLONESHOT) as u32, u64: 1 };
        // SAFETY: the kernel reads the event.
        check_eq(
            "epoll_ctl",
            unsafe { libc::epoll_ctl(own.as_raw_fd(), libc::EPOLL_CTL_ADD, a.as_raw_fd(), &mut event) },
            0,
        );
        let parent = std::process::id();
        in_child(async || check_eq("shared", is_shared(parent, own.as_raw_fd()), Some(true))).await;
        drop(b);
    }

    /// All runtimes of the thread get their own instances in the child. Two were made after the first fork, and one of
    /// these was dropped while a handle of it remains.
    fn several_runtimes() {
        let first = current_thread();
        first.block_on(in_child(async || ()));
        let second = current_thread();
        let third = current_thread();
        let handle = third.handle().clone();
        let (mut reader, mut writer) = second.block_on(async { UnixStream::pair().unwrap() });
        drop(third);
        let parent = std::process::id();
        let instances = epoll_instances();
        check_eq("instances of three runtimes, one of them gone", instances.len(), 2 + 2 + 1);
        let child = first.block_on(fork());
        let is_child = child.is_none();
        if is_child {
            instances.iter().for_each(|fd| check_eq("shared", is_shared(parent, *fd), Some(false)));
        }
        second.block_on(async {
            if is_child {
                writer.write_all(b"x").await.unwrap();
                std::process::exit(0);
            }
            check_eq("the byte that the child has written", reader.read_u8().await.unwrap(), b'x');
        });
        drop(handle);
        // The fourth runtime reuses the descriptors of the third.
        let fourth = current_thread();
        fourth.block_on(in_child(async || sleep(Duration::from_millis(1)).await));
        first.block_on(reap(child.unwrap()));
    }

    /// A pipe with both ends in this process is inherited, and a pipe to another process is severed.
    async fn pipes() {
        let (mut sender, mut receiver) = tokio::net::unix::pipe::pipe().unwrap();
        let mut program = tokio::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let child = fork_child(async || {
            sender.write_all(b"child").await.unwrap();
            let mut output = Vec::new();
            program.stdout.take().unwrap().read_to_end(&mut output).await.unwrap();
            check_eq("severed", output.len(), 0);
            assert!(program.wait().await.is_err(), "waiting for the parent's process");
        })
        .await;
        let mut text = [0; 5];
        receiver.read_exact(&mut text).await.unwrap();
        check_eq("inherited", &text, b"child");
        reap(child).await;
        program.stdin.take().unwrap().write_all(b"to the end").await.unwrap();
        check_eq("cat", program.wait_with_output().await.unwrap().stdout, b"to the end".to_vec());
    }

    /// A muted listener gives no event in the parent, and is armed in the child. After an unmute, the parent accepts again.
    async fn muted() {
        // `Prefork` mutes its listeners. Here `set_policy` makes forkio adopt the runtime, so that `mute` finds the listener.
        let listener = listener().await;
        forkio::set_policy(&listener, ForkPolicy::Inherit).unwrap();
        {
            let mut accepting = pin!(listener.accept());
            // The task waits for an event from now on.
            assert!(timeout(Duration::ZERO, accepting.as_mut()).await.is_err(), "no client has come");
            glue::mute(&listener).unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap());
            let silence = timeout(Duration::from_millis(20), accepting.as_mut()).await;
            assert!(silence.is_err(), "a muted listener gives no event");
            in_child(async || drop(listener.accept().await.unwrap())).await;
            let _second = std::net::TcpStream::connect(listener.local_addr().unwrap());
            glue::unmute(&listener).unwrap();
            drop(accepting.await.unwrap());
        }
        // tokio can deregister the listener, because a muted registration stays in the epoll instance.
        glue::mute(&listener).unwrap();
        listener.into_std().unwrap();
    }

    /// The child of an unplanned fork has its parent's epoll instance, so its runtime cannot fork. A new runtime can.
    fn after_an_unplanned_fork() {
        let runtime = current_thread();
        runtime.block_on(in_child(async || ()));
        unplanned::in_child(|| {
            let refused = runtime.block_on(forkio::fork());
            let Err(ForkError::Prepare(error)) = refused else { panic!("{refused:?}") };
            assert!(error.to_string().contains("forkio did not make"), "{error}");
            std::mem::forget(runtime);
            current_thread().block_on(in_child(async || sleep(Duration::from_millis(1)).await));
        });
    }

    /// A watched eventfd is inherited, and a watched timerfd is renewed.
    async fn other_descriptors() {
        let eventfd = eventfd();
        let watched = watch(eventfd.as_fd().try_clone_to_owned().unwrap());
        let timer = Timerfd::new(TimerClock::Monotonic, false).unwrap();
        timer.set(Duration::from_millis(10), Duration::ZERO);
        let timer = watch(timer);
        let child = fork_child(async || {
            watched.readable().await.unwrap().clear_ready();
            timer.readable().await.unwrap().clear_ready();
            check_eq("expirations", timer.get_ref().take(), 1);
        })
        .await;
        signal_eventfd(&eventfd);
        watched.readable().await.unwrap().clear_ready();
        timer.readable().await.unwrap().clear_ready();
        check_eq("expirations", timer.get_ref().take(), 1);
        reap(child).await;
    }
);

fn new_epoll() -> OwnedFd {
    // SAFETY: no memory is involved, and nothing else owns the descriptor.
    unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }
}

/// The descriptors of tokio's signal pipe: the only sockets of a fresh process.
fn signal_pipe() -> Vec<RawFd> {
    open_descriptors().into_iter().filter(|fd| name_of(fd).starts_with("socket:")).collect()
}
