//! The system calls of the model.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::control::{Call, count_change};
use crate::kernel::Kernel;
use crate::linux::{self, is_open, syscall};
use crate::names::{EV_ERROR, EV_RECEIPT, KQUEUE_CLOEXEC, KQUEUE_CPONFORK, Kevent};
use crate::queue::Queue;
use crate::state::lock;

/// The longest wait between two looks at another process's signals.
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Creates a queue: kqueue(2).
///
/// # Errors
///
/// Those of Linux, and an error that [`inject`](crate::inject) sets.
pub fn kqueue() -> io::Result<RawFd> {
    create(0)
}

/// Creates a queue: kqueuex(2). Returns `None` if this kernel has no such function.
pub fn kqueuex(flags: u32) -> Option<io::Result<RawFd>> {
    let known = match Kernel::this() {
        Kernel::Dropping | Kernel::NoUserEvents => return None,
        Kernel::Einval => KQUEUE_CLOEXEC,
        Kernel::Copying | Kernel::AtLimit | Kernel::UnsafeTimers => KQUEUE_CLOEXEC | KQUEUE_CPONFORK,
    };
    Some(if flags & !known == 0 { create(flags) } else { Err(errno(libc::EINVAL)) })
}

fn create(flags: u32) -> io::Result<RawFd> {
    let mut model = lock();
    model.sweep_if_due();
    model.fail(Call::Create)?;
    let queue = Queue::new(flags & KQUEUE_CPONFORK != 0, flags & KQUEUE_CLOEXEC != 0)?;
    let fd = queue.fd;
    let id = model.next_id;
    model.next_id += 1;
    model.descriptors.insert(fd, id);
    model.queues.insert(id, queue);
    Ok(fd)
}

/// Closes a queue.
pub fn close(queue: RawFd) {
    linux::close(queue);
}

/// Makes changes and takes events: kevent(2).
///
/// # Errors
///
/// Those of FreeBSD's manual, and an error that [`inject`](crate::inject) sets. `EINVAL` for an open descriptor that is
/// not a queue, if the kernel is FreeBSD's.
///
/// # Safety
///
/// `changes` must point to `nchanges` changes, and `events` to room for `nevents` events.
pub unsafe fn kevent(
    queue: RawFd,
    changes: *const Kevent,
    nchanges: usize,
    events: *mut Kevent,
    nevents: usize,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let put = |at: usize, event: Kevent| {
        // SAFETY: there is room for `nevents` events, and `at` is below `nevents` in each call.
        unsafe { events.add(at).write(event) }
    };
    // `Some(None)`: the timeout is too long for an `Instant`, so the wait has no limit.
    let deadline = timeout.map(|timeout| Instant::now().checked_add(timeout));
    let mut model = lock();
    // The changes are copied, because the answers may go to the same list.
    let changes = match nchanges {
        0 => Vec::new(),
        // SAFETY: `changes` points to `nchanges` changes, as the caller promises.
        _ => unsafe { std::slice::from_raw_parts(changes, nchanges) }.to_vec(),
    };
    let id = model.id_of(queue).ok_or_else(|| no_queue(queue))?;
    let mut answers = 0;
    for change in changes {
        count_change();
        let result = model.change(id, &change);
        let code = result.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EINVAL), |()| 0);
        if code != 0 || change.flags & EV_RECEIPT != 0 {
            if answers < nevents {
                put(answers, Kevent { flags: EV_ERROR, data: code.into(), ..change });
                answers += 1;
            } else {
                result?;
                // FreeBSD's kevent(2): "If this flag is encountered and there is no remaining space in eventlist to hold
                // the EV_ERROR event, then subsequent changes will not get processed."
                break;
            }
        }
    }
    if answers > 0 || nevents == 0 {
        return Ok(answers);
    }
    loop {
        let known = model.queues.get_mut(&id).ok_or_else(|| errno(libc::EBADF))?;
        let taken = known.take(nevents);
        if !taken.is_empty() {
            let count = taken.len();
            taken.into_iter().enumerate().for_each(|(at, event)| put(at, event));
            return Ok(count);
        }
        let must_look = known.watches_another_process();
        drop(model);
        let left = deadline.flatten().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(0);
        }
        linux::wait_until_readable(
            queue,
            if must_look { Some(left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)) } else { left },
        )?;
        model = lock();
        if model.id_of(queue) != Some(id) {
            return Err(errno(libc::EBADF));
        }
    }
}

/// Returns the error for a descriptor that is not a queue, or not open. FreeBSD's manual says EBADF for both, but its
/// kernels return EINVAL for an open descriptor.
fn no_queue(fd: RawFd) -> io::Error {
    errno(if is_open(fd) && Kernel::this().is_freebsd() { libc::EINVAL } else { libc::EBADF })
}

/// Describes a descriptor: fstat(2). FreeBSD has no inode for a queue or an internet socket.
///
/// # Errors
///
/// Those of Linux.
pub fn fstat(fd: RawFd) -> io::Result<libc::stat> {
    let mut stat = linux::stat(fd)?;
    if Kernel::this().is_freebsd() {
        let is_queue = lock().id_of(fd).is_some();
        if is_queue {
            stat.st_mode = libc::S_IFIFO;
        }
        if is_queue || is_internet_socket(fd, &stat) {
            (stat.st_dev, stat.st_ino) = (0, 0);
        }
    }
    Ok(stat)
}

/// Returns the address of a socket's control block, which all duplicates of the socket share: `kf_sock_pcb` of
/// `F_KINFO` in FreeBSD's fcntl(2). `None` if the descriptor is not a socket, or if this kernel does not report it.
pub fn socket_pcb(fd: RawFd) -> Option<u64> {
    let stat = linux::stat(fd).ok()?;
    // Duplicates of a socket also share its inode on Linux, which replaces the address here.
    (Kernel::this().is_freebsd() && stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}

fn is_internet_socket(fd: RawFd, stat: &libc::stat) -> bool {
    if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return false;
    }
    let mut domain: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let asked = syscall!(getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &mut length));
    asked.is_ok() && matches!(domain, libc::AF_INET | libc::AF_INET6)
}
