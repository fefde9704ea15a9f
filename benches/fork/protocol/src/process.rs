//! Processes: forks, clocks and limits.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Returns the time of `CLOCK_MONOTONIC` in nanoseconds. The clock is the same in all processes.
pub fn now() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Returns the processor time that this thread has used, in nanoseconds. Other threads and processes do not change it.
pub fn spent() -> u64 {
    nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to `time`. With these clocks the call cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Returns the processor time of this process and of the children that it has waited for, in nanoseconds.
pub fn spent_with_children() -> u64 {
    let usage = usage(libc::RUSAGE_CHILDREN);
    let microseconds = [usage.ru_utime, usage.ru_stime].map(|time| time.tv_sec * 1_000_000 + time.tv_usec);
    nanoseconds(libc::CLOCK_PROCESS_CPUTIME_ID) + microseconds.iter().sum::<i64>().cast_unsigned() * 1_000
}

/// Returns how many page faults without disk access this process has had.
pub fn faults() -> u64 {
    usage(libc::RUSAGE_SELF).ru_minflt.cast_unsigned()
}

/// Returns the page faults of [`faults`] and those of the children that this process has waited for.
pub fn faults_with_children() -> u64 {
    faults() + usage(libc::RUSAGE_CHILDREN).ru_minflt.cast_unsigned()
}

fn usage(processes: i32) -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills `usage`. With these arguments the call cannot fail.
    unsafe {
        libc::getrusage(processes, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// Calls fork(2); returns 0 in the child.
///
/// # Errors
///
/// Those of fork(2).
///
/// # Safety
///
/// The process must have one thread.
pub unsafe fn fork() -> io::Result<i32> {
    // SAFETY: the process has one thread, as the caller promises.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Ends this process in a minute, so that a forked child does not wait forever for an event that never comes.
pub fn end_in_time() {
    // SAFETY: alarm(2) takes no pointer; the default action of its signal ends the process.
    unsafe { libc::alarm(60) };
}

/// Ends a forked child without running destructors, which would act on objects that the parent shares.
pub fn exit(succeeded: bool) -> ! {
    // SAFETY: _exit(2) takes no pointer and runs nothing of this program.
    unsafe { libc::_exit(if succeeded { 0 } else { 1 }) }
}

/// Waits for a child to end.
///
/// # Errors
///
/// Those of waitpid(2), and an error if the child failed.
pub fn wait(child: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the kernel writes `status`.
    match unsafe { libc::waitpid(child, &mut status, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ if status != 0 => Err(io::Error::other(format!("the child failed, with status {status:#x}"))),
        _ => Ok(()),
    }
}

/// Raises the soft limit of open files to the hard limit; returns the hard limit.
pub fn raise_file_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Makes the process of `command` end when this process ends, even if this process is killed.
pub fn end_with_this_process(command: &mut Command) -> &mut Command {
    // SAFETY: prctl(2) is async-signal-safe, and this call of it takes no pointer.
    let ask = || match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: `ask` makes one system call and nothing else.
    unsafe { command.pre_exec(ask) }
}
