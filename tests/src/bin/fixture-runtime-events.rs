//! Scenarios of kernel timers, and of other programs that tokio has started, in a runtime that forks.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use forkio::{Clock, Fork, ForkPolicy, Forked, ProcessOwned, SourceKind, Timer};
use forkio_tests::runtime::{fork_child, reap, run, wait_for};
use forkio_tests::{Turn, check_eq, deny_tokio_pidfds, fixture_main, processes, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);
const MILLIS: Duration = Duration::from_millis(1);

fn main() {
    fixture_main(&[
        ("timer-once", || run(timer_once())),
        ("timer-waited-for", || run(timer_waited_for())),
        ("timer-untaken", || run(timer_untaken())),
        ("timer-cancelled", || run(timer_cancelled())),
        ("timer-policies", || run(timer_policies())),
        ("timer-in-grandchildren", || run(timer_in_grandchildren())),
        ("child-waited-for", || run(child_waited_for())),
        ("child-waited-for-by-signal", || {
            deny_tokio_pidfds();
            run(child_waited_for());
        }),
        ("child-signal-is-sent-once", || run(child_signal_is_sent_once())),
        ("child-pipes", || run(child_pipes())),
        ("child-pipes-by-signal", || {
            deny_tokio_pidfds();
            run(child_pipes());
        }),
        ("orphan", || run(orphan())),
        ("orphan-by-signal", || {
            deny_tokio_pidfds();
            run(orphan());
        }),
        ("kill-on-drop", || run(kill_on_drop())),
        ("process-owned", || run(process_owned())),
    ]);
}

async fn timer_once() {
    for clock in [Clock::Monotonic, Clock::Realtime] {
        let mut timer = Timer::new(clock).unwrap();
        check_eq("the clock", timer.clock(), clock);
        let deadline = clock.now() + 50 * MILLIS;
        timer.set_at(deadline, None).unwrap();
        let mut check = async || {
            assert!(timer.remaining().is_none_or(|left| left <= 50 * MILLIS));
            check_eq("expirations", timer.expired().await.unwrap(), 1);
            assert!(clock.now() >= deadline, "too early");
            assert!(timeout(SHORT, timer.expired()).await.is_err(), "it expired twice");
            check_eq("remaining", timer.remaining(), None);
        };
        let child = fork_child(&mut check).await;
        check().await;
        reap(child).await;
    }
}

/// The task that waits at the fork goes on waiting in both, and no period is counted twice or not at all.
async fn timer_waited_for() {
    const PERIOD: Duration = Duration::from_millis(7);
    let first = Clock::Monotonic.now() + PERIOD;
    let expired = move || (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
    let waiting = tokio::spawn(async move {
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        timer.set_at(first, Some(PERIOD)).unwrap();
        let mut taken = 0;
        while taken < 12 {
            taken += u128::from(timer.expired().await.unwrap());
            assert!(taken <= expired(), "{taken} of {}", expired());
        }
        // What comes with the next one completes what had passed by now.
        let least = expired();
        while taken < least {
            taken += u128::from(timer.expired().await.unwrap());
        }
        assert!(taken <= expired(), "{taken} of {}", expired());
    });
    tokio::task::yield_now().await;
    match forkio::fork().await.unwrap() {
        Fork::Parent(child) => {
            waiting.await.unwrap();
            reap(child).await;
        }
        Fork::Child(_) => {
            waiting.await.unwrap();
            std::process::exit(0);
        }
    }
}

async fn timer_untaken() {
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    // A system that was just booted has no hour behind it.
    let period = HOUR.min(Clock::Monotonic.now() / 12);
    timer.set_at(Clock::Monotonic.now() - 10 * period - period / 2, Some(period)).unwrap();
    // The runtime has seen the event.
    tokio::time::sleep(MILLIS).await;
    let mut check = async || check_eq("expirations", timer.expired().await.unwrap(), 11);
    for _ in 0..2 {
        reap(fork_child(&mut check).await).await;
    }
    check().await;
}

async fn timer_cancelled() {
    const PERIOD: Duration = Duration::from_millis(3);
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    let first = Clock::Monotonic.now();
    timer.set_at(first, Some(PERIOD)).unwrap();
    let (mut taken, mut cancelled) = (0, 0);
    let mut count = async || {
        while taken < 20 || cancelled < 20 {
            tokio::select! {
                count = timer.expired() => taken += u128::from(count.unwrap()),
                () = tokio::time::sleep(MILLIS) => cancelled += 1,
            }
        }
        let least = (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
        while taken < least {
            taken += u128::from(timer.expired().await.unwrap());
        }
        let most = (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
        assert!(taken <= most, "{taken} of {most}");
    };
    let child = fork_child(&mut count).await;
    count().await;
    reap(child).await;
}

async fn timer_policies() {
    check_eq("the default", forkio::default_policy(SourceKind::Timer), ForkPolicy::Renew);
    let timer = |policy| {
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        timer.set_after(HOUR, None).unwrap();
        forkio::set_policy(&timer, policy).unwrap();
        timer
    };
    let mut left_out = timer(ForkPolicy::NoFork);
    let mut severed = timer(ForkPolicy::Sever);
    // It waits at the fork.
    let waiting = tokio::spawn(async move { severed.expired().await });
    tokio::task::yield_now().await;
    match forkio::fork().await.unwrap() {
        Fork::Child(_) => {
            left_out.set_after(Duration::ZERO, None).unwrap();
            assert!(timeout(SHORT, left_out.expired()).await.is_err(), "it gives no events here");
            let error = timeout(LONG, waiting).await.expect("no hang").unwrap().unwrap_err();
            check_eq("severed", error.kind(), ErrorKind::UnexpectedEof);
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            reap(child).await;
            assert!(left_out.remaining().unwrap() > HOUR / 2);
            left_out.set_after(Duration::ZERO, None).unwrap();
            check_eq("the parent's", left_out.expired().await.unwrap(), 1);
            assert!(!waiting.is_finished());
        }
    }
}

async fn timer_in_grandchildren() {
    let deadline = Clock::Realtime.now() + 100 * MILLIS;
    let mut timer = Timer::new(Clock::Realtime).unwrap();
    timer.set_at(deadline, None).unwrap();
    let mut child = None;
    for _ in 0..4 {
        match forkio::fork().await.unwrap() {
            Fork::Child(_) => {}
            Fork::Parent(handle) => {
                child = Some(handle);
                break;
            }
        }
    }
    check_eq("expirations", timer.expired().await.unwrap(), 1);
    assert!(Clock::Realtime.now() >= deadline, "too early");
    assert!(timeout(SHORT, timer.expired()).await.is_err(), "it expired twice");
    if let Some(child) = child {
        reap(child).await;
    }
}

/// A program that runs until its input ends.
fn cat() -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Who waits at the fork for a program, and who begins to afterwards, is told at once in the child that it is not the child's;
/// the parent goes on waiting, and reaps.
async fn child_waited_for() {
    let (mut first, mut second) = (cat().spawn().unwrap(), cat().spawn().unwrap());
    let (first_input, second_input) = (first.stdin.take(), second.stdin.take());
    let waiting = tokio::spawn(async move { first.wait().await });
    tokio::task::yield_now().await;
    match forkio::fork().await.unwrap() {
        Fork::Child(_) => {
            let error = timeout(LONG, waiting).await.expect("no hang").unwrap().unwrap_err();
            check_eq("waiting at the fork", error.raw_os_error(), Some(libc::ECHILD));
            let error = timeout(LONG, second.wait()).await.expect("no hang").unwrap_err();
            check_eq("waiting afterwards", error.raw_os_error(), Some(libc::ECHILD));
            check_eq("looking", second.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            // Programs of its own it can wait for.
            let mut own = Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
            check_eq("its own", own.wait().await.unwrap().code(), Some(5));
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            reap(child).await;
            assert!(!waiting.is_finished());
            drop((first_input, second_input));
            assert!(waiting.await.unwrap().unwrap().success());
            assert!(second.wait().await.unwrap().success());
        }
    }
}

/// The child of a process that handles SIGCHLD is sent one; its own children give it others; the parent gets none of it.
async fn child_signal_is_sent_once() {
    let mut stream = signal(SignalKind::child()).unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(async || {
        timeout(LONG, stream.recv()).await.expect("told to look");
        assert!(timeout(SHORT, stream.recv()).await.is_err(), "once");
        reap(fork_child(async || {}).await).await;
        timeout(LONG, stream.recv()).await.expect("its own child has ended");
        to_parent.give();
        wait_for(&to_child).await;
    })
    .await;
    wait_for(&to_parent).await;
    assert!(timeout(SHORT, stream.recv()).await.is_err(), "it was the child's");
    to_child.give();
    reap(child).await;
    timeout(LONG, stream.recv()).await.expect("the child has ended");
}

/// The pipes to a program are the parent's: what the child does with its copies does not reach the program, and that it has
/// them open holds nothing up. Nor does it matter that the child drops the handle.
async fn child_pipes() {
    let mut program = cat().spawn().unwrap();
    let mut input = program.stdin.take().unwrap();
    let mut output = program.stdout.take().unwrap();
    let mut program = Some(program);
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(async || {
        let error = input.write_all(b"child").await.unwrap_err();
        check_eq("writing", error.kind(), ErrorKind::BrokenPipe);
        check_eq("reading", output.read(&mut [0; 8]).await.unwrap(), 0);
        drop(program.take());
        // The runtime looks after what was dropped, and goes on.
        tokio::time::sleep(MILLIS).await;
        assert!(cat().stdin(Stdio::null()).status().await.unwrap().success());
        to_parent.give();
        // It lives, with its descriptors open, until the parent is done with the program.
        wait_for(&to_child).await;
    })
    .await;
    wait_for(&to_parent).await;
    input.write_all(b"parent").await.unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    check_eq("the parent's pipes", text.as_str(), "parent");
    assert!(program.take().unwrap().wait().await.unwrap().success());
    to_child.give();
    reap(child).await;
}

/// A handle that was dropped while the program ran: the parent's runtime reaps it, and the child's is not troubled.
async fn orphan() {
    let mut program = cat().spawn().unwrap();
    let pid = program.id().unwrap().cast_signed();
    let input = program.stdin.take();
    drop(program);
    let child = fork_child(async || {
        tokio::time::sleep(MILLIS).await;
        reap(fork_child(async || {}).await).await;
        assert!(processes().contains_key(&pid), "the program runs");
    })
    .await;
    reap(child).await;
    drop(input);
    timeout(LONG, async {
        while processes().contains_key(&pid) {
            tokio::time::sleep(MILLIS).await;
        }
    })
    .await
    .expect("the program is reaped");
}

/// As documented: tokio ends the program wherever the handle is dropped, and nothing can be done about it from outside.
async fn kill_on_drop() {
    let mut program = cat().kill_on_drop(true).spawn().unwrap();
    let _input = program.stdin.take();
    match forkio::fork().await.unwrap() {
        Fork::Child(_) => {
            drop(program);
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            reap(child).await;
            check_eq("killed", program.wait().await.unwrap().code(), None);
        }
    }
}

/// What belongs to one process is neither used nor dropped in another.
async fn process_owned() {
    let mut program = cat().kill_on_drop(true).spawn().unwrap();
    let pid = program.id().unwrap().cast_signed();
    let _input = program.stdin.take();
    let mut program = ProcessOwned::new(program);
    program.get_mut().unwrap().try_wait().unwrap();
    match forkio::fork().await.unwrap() {
        Fork::Child(_) => {
            check_eq("using it", program.get().err(), Some(Forked));
            check_eq("using it", program.get_mut().err(), Some(Forked));
            drop(program);
            check_eq("its own", ProcessOwned::new(7).into_inner(), Ok(7));
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            reap(child).await;
            check_eq("it runs", program.get_mut().unwrap().try_wait().unwrap(), None);
            // Here dropping it does what it always does.
            drop(program);
            wait_until("the program is killed", || processes().get(&pid).is_none_or(|stat| stat.state == 'Z'));
        }
    }
}
