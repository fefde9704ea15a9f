//! Processor time.

use std::io;
use std::time::Duration;

/// Runs a closure; returns the processor time that all threads of this process used meanwhile.
pub(crate) fn process_time(run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    used(libc::CLOCK_PROCESS_CPUTIME_ID, run)
}

/// Runs a closure; returns the processor time that this thread used for it.
pub(crate) fn thread_time(run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    used(libc::CLOCK_THREAD_CPUTIME_ID, run)
}

fn used(clock: libc::clockid_t, run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = now(clock)?;
    run()?;
    Ok(now(clock)?.saturating_sub(start))
}

fn now(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes, and the kernel writes one `timespec` to it.
    if unsafe { libc::clock_gettime(clock, &mut time) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}
