//! Linux.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::os::unix::thread::JoinHandleExt;
use std::process::ExitStatus;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, getpid, getppid, kill_process,
    pidfd_open, pidfd_send_signal, set_parent_process_death_signal, waitid, waitpid,
};
use rustix::thread::gettid;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use forkio_reactor::fork::generation;
use forkio_reactor::unix::Timer;

use crate::Thread;

const TASKS: &str = "/proc/self/task";

/// Whether the calling thread is the only one.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // proc_pid_task(5) is a directory with one subdirectory per thread: two links and one each. One system call.
    let links = rustix::fs::stat(TASKS).map_err(|error| unreadable(error.into()))?.st_nlink;
    Ok(links <= 3)
}

/// The other threads of this process.
pub(crate) fn other_threads() -> io::Result<Vec<Thread>> {
    let own = gettid().as_raw_nonzero().get().cast_unsigned();
    let mut threads = Vec::new();
    for entry in fs::read_dir(TASKS).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()).filter(|id| *id != own) else {
            continue;
        };
        // A thread that has gone meanwhile has no name to read.
        if let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
            threads.push(Thread { id, name: name.trim_end().to_owned() });
        }
    }
    Ok(threads)
}

/// The process id, without a system call for each question: it is kept in a page that is zero in every child, whoever forks
/// it (`MADV_WIPEONFORK` of madvise(2), Linux 4.14).
pub(crate) fn process_id() -> u32 {
    /// Null as long as there is no such page.
    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

    // SAFETY: null, or a page that is never unmapped; an `AtomicU32` may have any value.
    let Some(kept) = (unsafe { PAGE.load(Ordering::Acquire).as_ref() }) else {
        if let Ok(page) = wiped_page()
            && PAGE.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            // SAFETY: a page that nobody else has seen.
            let _ = unsafe { munmap(page.cast(), rustix::param::page_size()) };
        }
        return std::process::id();
    };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Ordering::Relaxed);
            id
        }
        id => id,
    }
}

/// A page of zeros, and of zeros again in a child.
fn wiped_page() -> io::Result<*mut AtomicU32> {
    let size = rustix::param::page_size();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, wherever there is room for it, that nobody knows of yet.
    unsafe {
        let page = mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE)?;
        if let Err(error) = madvise(page, size, Advice::LinuxWipeOnFork) {
            munmap(page, size)?;
            return Err(error.into());
        }
        Ok(page.cast())
    }
}

/// Whether the child has to [`occupy_inherited_stacks`]: under glibc, if there may have been another thread.
pub(crate) fn may_inherit_stacks() -> bool {
    cfg!(target_env = "gnu") && !forkio_reactor::fork::is_single_threaded()
}

/// Keeps glibc from handing the identity of a thread that ended before the fork to a thread made after it.
///
/// In a child glibc takes the stacks of all other threads for free (`__reclaim_stacks`), those of ended threads that
/// nobody has joined included, and with a stack goes its `pthread_t`. Whoever joins the old thread would then join the
/// new one, or itself, and hang; tokio's blocking pool does: an idle thread that ends joins the one that ended before
/// it. So the stacks are occupied by threads that end at once and are not joined either: the state that the parent had
/// them in.
///
/// musl keeps no stacks.
pub(crate) fn occupy_inherited_stacks() -> io::Result<()> {
    /// glibc reuses a stack for a request of a quarter of its size or more (`get_cached_stack`), so these find all from
    /// 16 KiB to 1 GiB.
    const REQUESTS: [usize; 8] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];

    let mapped = mapped_ranges()?;
    let mut fresh = Vec::new();
    for stack_size in REQUESTS {
        loop {
            let thread = thread::Builder::new().stack_size(stack_size).spawn(|| {})?;
            // Inside its stack.
            let identity = thread.as_pthread_t() as usize;
            if !mapped.iter().any(|range| range.contains(&identity)) {
                // A new stack: there was none left of this size.
                fresh.push(thread);
                break;
            }
            // Neither joined nor detached.
            std::mem::forget(thread);
        }
    }
    // Not before all are occupied: a stack that is given back makes glibc unmap others that it takes for free.
    for thread in fresh {
        let _ = thread.join();
    }
    Ok(())
}

/// Waits until threads that have ended, but that nobody joins, are gone.
pub(crate) fn wait_until_single_threaded() -> io::Result<()> {
    while !is_single_threaded()? {
        thread::yield_now();
    }
    Ok(())
}

/// The address ranges of `/proc/self/maps`.
fn mapped_ranges() -> io::Result<Vec<Range<usize>>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let parse = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    Ok(maps.lines().filter_map(parse).collect())
}

fn unreadable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("reading {TASKS}: {error}; is /proc mounted?"))
}

/// A descriptor that is never ready, unless somebody [rings](ring).
pub(crate) fn idle_descriptor() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes each watcher of an [`idle_descriptor`] find it readable once more.
pub(crate) fn ring(bell: &impl AsFd) -> io::Result<()> {
    // eventfd(2): nobody reads it, and counting every nanosecond its 64 bits last for centuries.
    rustix::io::write(bell, &1_u64.to_ne_bytes())?;
    Ok(())
}

/// Whether something could be read, or accepted, now.
pub(crate) fn is_readable(io: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(io, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Registers a descriptor, for its becoming readable, with the current runtime.
///
/// # Panics
///
/// tokio panics if the runtime has no I/O driver.
pub(crate) fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(AsyncFdRegisterError::into_parts)
}

/// Registers a timer with the current runtime.
///
/// # Panics
///
/// As [`watch`].
pub(crate) fn watch_timer(timer: Timer) -> io::Result<AsyncFd<Timer>> {
    // SAFETY: a timer owns its descriptor and gives the same one for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

/// A descriptor that becomes readable each time `period` has passed: the runtime may have no timers.
pub(crate) fn ticker(period: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let period = Timespec::try_from(period).map_err(io::Error::other)?;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
    Ok(timer)
}

/// Takes the expirations of a [`ticker`].
pub(crate) fn take_ticks(ticker: &impl AsFd) -> io::Result<()> {
    let mut count = [0; 8];
    rustix::io::read(ticker, &mut count)?;
    Ok(())
}

/// A descriptor for a process: a child that nobody has waited for, the parent, or this one.
pub(crate) fn watch_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
    // No `PIDFD_NONBLOCK`, which would ask for Linux 5.10.
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills and reaps a child that cannot be watched.
pub(crate) fn destroy_process(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It is a child of ours and not reaped, so the number is its own; failure means that it is gone.
        let _ = kill_process(pid, Signal::KILL);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
    }
}

/// Reaps the process if it has ended.
pub(crate) fn try_wait(pidfd: &impl AsFd) -> io::Result<Option<ExitStatus>> {
    match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => Ok(status.map(|status| exit_status(&status))),
        Err(error) => Err(error.into()),
    }
}

/// In the encoding of wait(2), which is the one that the standard library takes.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let core_flag = if status.dumped() { 0x80 } else { 0 };
    ExitStatus::from_raw(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | core_flag,
        (None, None) => 0,
    })
}

pub(crate) fn send_signal(pidfd: &impl AsFd, signal: i32) -> io::Result<()> {
    let signal = NonZero::new(signal).filter(|number| (1..=libc::SIGRTMAX()).contains(&number.get()));
    let signal = signal.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "not the number of a signal: those are 1 to SIGRTMAX")
    })?;
    // SAFETY: what makes other numbers unsafe is to handle or block them; this sends one to another process.
    let signal = unsafe { Signal::from_raw_nonzero_unchecked(signal) };
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// Has this process sent SIGTERM when its parent ends (`PR_SET_PDEATHSIG`). `false`: it has ended already.
pub(crate) fn terminate_with_parent(parent: u32) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent))
}

/// Has the kernel end this process `seconds` after it is first told to stop, however stuck it is.
///
/// The means is alarm(2) with SIGALRM's default action, set in a signal handler. It is armed once, and not in processes
/// that this one forks.
pub(crate) fn end_after_stop_signal(seconds: u32) -> io::Result<()> {
    static ARMED: AtomicBool = AtomicBool::new(false);

    // SAFETY: `set` is filled before it is read; a default action runs no code of anybody's.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGALRM);
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
    let worker = generation();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let arm = move || {
            if generation() == worker && !ARMED.swap(true, Ordering::Relaxed) {
                // SAFETY: alarm(2) has no memory to touch.
                unsafe { libc::alarm(seconds) };
            }
        };
        // SAFETY: the handler touches two atomics and makes one async-signal-safe system call.
        unsafe { signal_hook_registry::register(signal, arm) }?;
    }
    Ok(())
}

/// Writes what C's stdio has buffered, of all streams.
pub(crate) fn flush_stdio() {
    // SAFETY: without a stream it means all of them; it takes each stream's lock.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// In a child: sends this process SIGCHLD if it is handled.
///
/// Where tokio has no pidfd of a process (none left, or an old kernel), tasks wait for this signal and then look. In the
/// child it would not come: the process is the parent's. Having looked they know.
pub(crate) fn raise_child_signal() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the kernel fills `action`; it cannot fail for this signal.
    let handler = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        let _ = kill_process(getpid(), Signal::CHILD);
    }
}

/// Sends a signal to this process.
pub(crate) fn raise_terminate() {
    let _ = kill_process(getpid(), Signal::TERM);
}
