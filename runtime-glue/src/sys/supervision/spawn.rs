//! Starting another program with descriptors of this one.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Starts a program with descriptors from 3 on, as systemd does (`LISTEN_FDS`, `LISTEN_PID`), and with `channel`. The
/// environment variable `variable` has the descriptor of the channel, a space and `word`. Returns the process id.
pub(crate) fn spawn_with_descriptors(
    path: &Path,
    arguments: &[OsString],
    descriptors: &[RawFd],
    channel: RawFd,
    (variable, word): (&str, &str),
) -> io::Result<u32> {
    const FIRST: RawFd = 3;

    let variable = CString::new(variable)?;
    let word = word.to_owned();
    let descriptors = descriptors.to_vec();
    let end = FIRST + descriptors.len() as RawFd;
    // Occupies the descriptors below `end`, so that the standard library's own pipe to the child gets a higher one.
    let mut occupied = vec![std::fs::File::open("/dev/null")?];
    while occupied.last().is_some_and(|file| file.as_raw_fd() < end) {
        occupied.push(std::fs::File::open("/dev/null")?);
    }
    let own_id = std::process::id().to_string();
    let is_watched = std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid == own_id);
    let set_up = move || {
        let check = |result: libc::c_int| if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) };
        // SAFETY: the descriptors and strings are this process's. The supervisor has one thread, so its child may allocate
        // and change the environment.
        unsafe {
            // Move all descriptors above the targets first, so that no dup2(2) overwrites a descriptor that must still be
            // moved.
            let mut moved = Vec::new();
            for fd in &descriptors {
                moved.push(check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, end))?);
            }
            let channel = check(libc::fcntl(channel, libc::F_DUPFD, end))?;
            for (target, fd) in (FIRST..).zip(moved) {
                check(libc::dup2(fd, target))?;
            }
            let set = |name: &std::ffi::CStr, value: String| {
                let value = CString::new(value)?;
                check(libc::setenv(name.as_ptr(), value.as_ptr(), 1)).map(drop)
            };
            set(c"LISTEN_FDS", descriptors.len().to_string())?;
            set(c"LISTEN_PID", std::process::id().to_string())?;
            if is_watched {
                set(c"WATCHDOG_PID", std::process::id().to_string())?;
            }
            set(&variable, format!("{channel} {word}"))?;
            check(libc::unsetenv(c"LISTEN_FDNAMES".as_ptr()))?;
        }
        Ok(())
    };
    let mut command = Command::new(path);
    // SAFETY: see `set_up`.
    let child = unsafe { command.args(arguments).pre_exec(set_up) }.spawn()?;
    Ok(child.id())
}

/// Takes over the socket that an environment variable names, and removes the variable. Returns `None` if it is not open.
pub(crate) fn take_socket(number: RawFd, variable: &str) -> Option<std::os::unix::net::UnixStream> {
    // SAFETY: this is called once, by a supervisor, which has one thread; the descriptor was made for this process.
    let fd = unsafe {
        std::env::remove_var(variable);
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == -1 {
            return None;
        }
        OwnedFd::from_raw_fd(number)
    };
    Some(fd.into())
}
