//! Starts another program with descriptors of this process.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The descriptors before this one are standard input, output and error.
const FIRST: RawFd = 3;

/// Starts a program with named descriptors from 3 on, as systemd does (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`),
/// and with `sockets`. Sets the environment variable of each socket to its descriptor, a space and a word. Returns the
/// process id.
pub(crate) fn spawn_with_descriptors(
    path: &Path,
    arguments: &[OsString],
    descriptors: &[(RawFd, String)],
    sockets: &[(RawFd, &str, &str)],
) -> io::Result<u32> {
    let to_owned = |(fd, variable, word): &(RawFd, &str, &str)| Ok((*fd, CString::new(*variable)?, (*word).to_owned()));
    let sockets: Vec<_> = sockets.iter().map(to_owned).collect::<io::Result<_>>()?;
    let words = [path.as_os_str()].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let words: Vec<_> = words.map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?;
    let (descriptors, names): (Vec<RawFd>, Vec<String>) = descriptors.iter().cloned().unzip();
    let end = FIRST + descriptors.len() as RawFd;
    // Occupy the descriptors below `end`, so that the standard library's own pipe to the child gets higher ones.
    let mut occupied = vec![std::fs::File::open("/dev/null")?];
    while occupied.last().is_some_and(|file| file.as_raw_fd() < end) {
        occupied.push(std::fs::File::open("/dev/null")?);
    }
    let own_id = std::process::id().to_string();
    let is_watched = std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid == own_id);
    let start = move || {
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
            let mut variables = Vec::new();
            for (socket, variable, word) in &sockets {
                let socket = check(libc::fcntl(*socket, libc::F_DUPFD, end))?;
                variables.push((variable, format!("{socket} {word}")));
            }
            for (target, fd) in (FIRST..).zip(moved) {
                check(libc::dup2(fd, target))?;
            }
            let set = |name: &std::ffi::CStr, value: String| {
                let value = CString::new(value)?;
                check(libc::setenv(name.as_ptr(), value.as_ptr(), 1)).map(drop)
            };
            set(c"LISTEN_FDS", descriptors.len().to_string())?;
            set(c"LISTEN_PID", std::process::id().to_string())?;
            // sd_watchdog_enabled(3) ignores the watchdog if the variable names another process.
            if is_watched {
                set(c"WATCHDOG_PID", std::process::id().to_string())?;
            }
            for (variable, value) in variables {
                set(variable, value)?;
            }
            set(c"LISTEN_FDNAMES", names.join(":"))?;
            // The standard library would call execvp(3), which runs a file of an unknown format as a shell script.
            let arguments: Vec<_> = words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
            check(libc::execv(arguments[0], arguments.as_ptr())).map(drop)
        }
    };
    // SAFETY: see `start`.
    let child = unsafe { Command::new(path).pre_exec(start).spawn() }?;
    Ok(child.id())
}

/// Takes over the socket that an environment variable names, and removes the variable. Returns `None` if this process
/// was not started with that socket: the variable may come from another process.
pub(crate) fn take_socket(fd: RawFd, variable: &str) -> Option<OwnedFd> {
    // SAFETY: this is called once per variable, by a supervisor, which has one thread; the descriptor was made for this process.
    unsafe {
        std::env::remove_var(variable);
        // This process has opened each close-on-exec descriptor itself, so such a descriptor is not that socket.
        if fd < FIRST || libc::fcntl(fd, libc::F_GETFD) != 0 {
            return None;
        }
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        Some(OwnedFd::from_raw_fd(fd))
    }
}
