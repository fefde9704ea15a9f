//! System calls of the supervisor and its workers.

mod huge_pages;
mod identity;
mod spawn;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions};
use socket2::SockRef;

pub(crate) use self::huge_pages::use_huge_pages;
pub(crate) use self::identity::{Identity, assume_identity, look_up_identity, may_signal};
pub(crate) use self::spawn::{spawn_with_descriptors, take_socket};

/// Makes the kernel drop each SYN that asks for a new connection to a listener. Connections in its queue can still be accepted.
///
/// A TCP client sends the SYN again after a second, and is refused once the listener is closed. So the client loses no
/// request, as it would if the kernel made the connection and then reset it.
pub(crate) fn refuse_new_connections(listener: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if socket.local_addr()?.is_unix() {
        // shutdown(2) would refuse connections, but make the listener readable forever: a task that accepts would spin.
        return Err(io::Error::new(io::ErrorKind::Unsupported, "a Unix socket has no filter for connections"));
    }
    drop_syns(&socket)
}

/// Attaches a filter that drops packets with SYN and without ACK: [tcp_filter() in the kernel] runs it with the TCP header
/// at the start of the data.
///
/// [tcp_filter() in the kernel]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/net/ipv4/tcp_ipv4.c
#[cfg(target_os = "linux")]
fn drop_syns(socket: &SockRef<'_>) -> io::Result<()> {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const FLAGS: u32 = 13;
    let step = |code: u32, jt, jf, k| socket2::SockFilter::new(code as u16, jt, jf, k);
    socket.attach_filter(&[
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn drop_syns(_socket: &SockRef<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes the kernel kill this process `limit` after the first SIGTERM or SIGINT, even if the process is stuck.
///
/// A signal handler arms a timer of timer_create(2) that sends SIGKILL. This affects no signal, handler or timer of the
/// application, and processes that this one forks do not have the timer.
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd"))]
pub(crate) fn kill_after_stop_signal(limit: Duration) -> io::Result<()> {
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicBool, Ordering};

    use forkio_reactor::fork::generation;

    static ARMED: AtomicBool = AtomicBool::new(false);

    let mut timer = MaybeUninit::<libc::timer_t>::uninit();
    // SAFETY: both structures are plain data, for which zero is a value; the kernel fills `timer`.
    let timer = unsafe {
        let mut event = MaybeUninit::<libc::sigevent>::zeroed().assume_init();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, timer.as_mut_ptr()) == -1 {
            return Err(io::Error::last_os_error());
        }
        timer.assume_init()
    };
    // A closure with a pointer is not `Send`. The signal handler casts the id back.
    let timer = timer as usize;
    // SAFETY: the structure is plain data, for which zero is a value.
    let mut setting = unsafe { MaybeUninit::<libc::itimerspec>::zeroed().assume_init() };
    setting.it_value.tv_sec = limit.as_secs().try_into().unwrap_or(i32::MAX.into());
    // A value of zero would disarm the timer.
    setting.it_value.tv_nsec = limit.subsec_nanos().max(1).into();
    let worker = generation();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let arm = move || {
            if generation() == worker && !ARMED.swap(true, Ordering::Relaxed) {
                // SAFETY: timer_settime(2) is async-signal-safe and reads `setting`; the timer is never deleted.
                unsafe { libc::timer_settime(timer as libc::timer_t, 0, &setting, std::ptr::null_mut()) };
            }
        };
        // SAFETY: the handler touches two atomics and makes one async-signal-safe system call.
        unsafe { signal_hook_registry::register(signal, arm) }?;
    }
    Ok(())
}

/// Does nothing: the system has no such timer.
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd")))]
pub(crate) fn kill_after_stop_signal(_limit: Duration) -> io::Result<()> {
    Ok(())
}

/// Whether this process is in the foreground of a terminal, which then sends it SIGINT for Ctrl-C, and SIGWINCH.
pub(crate) fn is_in_foreground() -> bool {
    // A process without a terminal cannot open it.
    let terminal = std::fs::File::open("/dev/tty");
    // SAFETY: tcgetpgrp(3) and getpgrp(2) read no memory of this process.
    terminal.is_ok_and(|terminal| unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() })
}

/// Sets `PR_SET_NO_NEW_PRIVS`: programs that this process starts gain nothing by set-user-id bits.
#[cfg(target_os = "linux")]
pub(crate) fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn set_no_new_privs() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "forkio can set no_new_privs only on Linux"))
}

pub(crate) fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask as rustix::fs::RawMode));
}

/// Calls `act` with another umask. Files that other threads create meanwhile get that umask too.
#[cfg(feature = "http")]
pub(crate) fn with_umask<T>(mask: u32, act: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask as rustix::fs::RawMode));
    let result = act();
    rustix::process::umask(before);
    result
}

pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// Makes orphaned descendants of this process its children: `PR_SET_CHILD_SUBREAPER` of prctl(2), `PROC_REAP_ACQUIRE` of
/// procctl(2).
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: the command takes no argument. The id 0 means this process.
    match unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_REAP_ACQUIRE, std::ptr::null_mut()) } {
        0 => Ok(()),
        // This process adopts orphans already.
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system has no subreapers, so load the application before `run`",
    ))
}

/// Returns the time of the monotonic clock, which all processes share.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither seconds nor nanoseconds are negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Ends this process without running exit handlers, which belong to the process that it was forked from.
pub(crate) fn exit_at_once(status: i32) -> ! {
    // SAFETY: the call does not return, and runs no code of this program.
    unsafe { libc::_exit(status) }
}

/// Reaps a child process if it has ended. Returns `None` if it runs, or if it is not a child of this process.
pub(crate) fn reap(pid: u32) -> Option<()> {
    let pid = Pid::from_raw(pid as i32)?;
    rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).ok()?.map(drop)
}

/// Makes SIGABRT print the stack of the thread that it interrupts, and then end this process, as it does by default.
pub(crate) fn print_stack_on_abort() -> io::Result<()> {
    let print = || {
        let stack = std::backtrace::Backtrace::force_capture();
        eprintln!("process {} was aborted here:\n{stack}", std::process::id());
        // SAFETY: a default action runs no code of this program; raising a signal touches no memory.
        unsafe {
            libc::signal(libc::SIGABRT, libc::SIG_DFL);
            libc::raise(libc::SIGABRT);
        }
    };
    // SAFETY: the handler is not async-signal-safe, but it ends the process. If it hangs, the supervisor kills the process.
    unsafe { signal_hook_registry::register(libc::SIGABRT, print) }?;
    Ok(())
}
