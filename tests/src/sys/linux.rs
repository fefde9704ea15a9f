//! Linux: the contents of proc(5), and features that only Linux has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forkio::audit::SharedObject;

use super::{Process, TimerClock, by_id, status_field};
use crate::check_eq;

/// Lists all processes.
pub fn processes() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").expect("reading /proc").flatten();
    by_id(entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)))
}

/// Returns a process, or `None` if the process has ended and its parent has reaped it.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the name, which is in parentheses and may contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Process { pid, state, parent, group })
}

/// Returns the open descriptors of this process, except those of the kqueue model.
pub fn open_descriptors() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").expect("reading /proc/self/fd");
    let mut descriptors: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    descriptors.sort_unstable();
    // The descriptor that read the directory is closed by now, but still listed.
    descriptors.retain(|fd| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok());
    #[cfg(forkio_kqueue)]
    {
        let own = crate::model::own();
        descriptors.retain(|fd| !own.contains(fd));
    }
    descriptors
}

/// Closes every descriptor but the standard ones.
pub fn close_inherited_descriptors() {
    for fd in open_descriptors().into_iter().filter(|fd| *fd > 2) {
        // SAFETY: nothing in this process owns a descriptor yet.
        unsafe { libc::close(fd) };
    }
}

/// Returns the descriptors that a queue of this process watches, with their tokens, if the kernel lists them.
#[cfg(forkio_kqueue)]
pub fn watched_descriptors(queue: i32) -> Option<Vec<(i32, u64)>> {
    Some(crate::model::watched(queue))
}

/// Returns the descriptors that a queue of this process watches, with their tokens, if the kernel lists them.
#[cfg(not(forkio_kqueue))]
pub fn watched_descriptors(epoll: i32) -> Option<Vec<(i32, u64)>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).expect("reading fdinfo");
    let mut watched: Vec<_> = info
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("tfd:")?.split_whitespace();
            let fd = words.next()?.parse().ok()?;
            let data = words.skip_while(|word| *word != "data:").nth(1)?;
            Some((fd, u64::from_str_radix(data, 16).ok()?))
        })
        .collect();
    watched.sort_unstable();
    Some(watched)
}

/// Returns, for each queue of this process that watches the descriptor, whether the queue watches exclusively. `None`
/// if the kernel does not report that.
pub fn exclusive_in_kernel(fd: RawFd) -> Option<Vec<bool>> {
    let mut exclusive = Vec::new();
    for epoll in open_descriptors() {
        if name_of(&epoll) != "anon_inode:[eventpoll]" {
            continue;
        }
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).expect("reading fdinfo");
        for line in info.lines().filter_map(|line| line.strip_prefix("tfd:")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[0].parse() == Ok(fd) {
                let position = words.iter().position(|word| *word == "events:").expect("events");
                let events = u32::from_str_radix(words[position + 1], 16).expect("a hexadecimal number");
                exclusive.push(events & libc::EPOLLEXCLUSIVE.cast_unsigned() != 0);
            }
        }
    }
    Some(exclusive)
}

/// Whether a process sleeps in epoll_wait(2).
pub fn is_in_epoll_wait(pid: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse::<libc::c_long>().ok());
    // Only old architectures have a system call without the signal mask.
    #[cfg(target_arch = "x86_64")]
    let calls = [libc::SYS_epoll_pwait, libc::SYS_epoll_wait];
    #[cfg(not(target_arch = "x86_64"))]
    let calls = [libc::SYS_epoll_pwait];
    number.is_some_and(|number| calls.contains(&number))
}

/// Returns the name that an audit gives to a descriptor that has neither path nor address.
pub fn name_of(fd: &impl AsRawFd) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    link.to_string_lossy().into_owned()
}

/// Takes over a descriptor that the kernel has just returned.
#[track_caller]
fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the caller has just opened the descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Opens a descriptor of each kind that only this system has. Returns each with the object and the name that an audit
/// reports.
pub fn kernel_objects() -> Vec<(OwnedFd, SharedObject, String)> {
    let anonymous = |name: &str| format!("anon_inode:{name}");
    let namespace = File::open("/proc/self/ns/net").expect("a namespace");
    let name = name_of(&namespace);
    // SAFETY: no memory is involved.
    let (eventfd, epoll) = unsafe { (libc::eventfd(0, libc::EFD_CLOEXEC), libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    vec![
        (namespace.into(), SharedObject::Other, name),
        (owned(eventfd), SharedObject::Eventfd, anonymous("[eventfd]")),
        (
            Timerfd::new(TimerClock::Monotonic, true).expect("a timerfd").0,
            SharedObject::Timerfd,
            anonymous("[timerfd]"),
        ),
        (signalfd(libc::SIGUSR2).expect("a signalfd"), SharedObject::Signalfd, anonymous("[signalfd]")),
        (owned(epoll), SharedObject::Epoll, anonymous("[eventpoll]")),
        (inotify().expect("an inotify"), SharedObject::Watch, anonymous("inotify")),
    ]
}

/// Whether an audit can see that a file is locked.
pub const LOCKS_ARE_SEEN: bool = true;

/// Opens a descriptor without state that a child could share: `O_PATH`.
pub fn path_only() -> Option<File> {
    // The standard library drops the flag where the C library includes it in `O_ACCMODE`, as musl does.
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    Some(owned(fd).into())
}

/// Opens a descriptor that watches files. `None` if the system has no such descriptor.
pub fn inotify() -> Option<OwnedFd> {
    // SAFETY: no memory is involved.
    Some(owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }))
}

/// Opens a descriptor to read signals from. `None` if the system has no such descriptor.
pub fn signalfd(signal: i32) -> Option<OwnedFd> {
    // SAFETY: the set is filled before it is read.
    Some(owned(unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    }))
}

/// Whether this process and another one have the same open file description at `fd`: kcmp(2). `None` if the kernel does
/// not report it.
pub fn is_shared(other: u32, fd: RawFd) -> Option<bool> {
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: no memory is involved.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, own, other, KCMP_FILE, fd, fd) };
    match order {
        0 => Some(true),
        1..=3 => Some(false),
        // The other process does not have the descriptor.
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) => Some(false),
        _ => panic!("kcmp: {}", io::Error::last_os_error()),
    }
}

/// Forks without the C library, so that no `pthread_atfork` handler runs. Returns 0 in the child, and `None` if the
/// system has no way to do it.
///
/// # Safety
///
/// The child must do only what signal-safety(7) allows, and end with `_exit`.
pub unsafe fn fork_behind_libc() -> Option<i32> {
    // SAFETY: the caller keeps the contract, which is the same.
    Some(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as i32)
}

/// Whether [`shutdown`] waits.
static DELAYS_SHUTDOWNS: AtomicBool = AtomicBool::new(false);

/// Delays each later shutdown(2) of this process and its children, so that other processes act before the shutdown.
pub fn delay_shutdowns() {
    DELAYS_SHUTDOWNS.store(true, Ordering::Relaxed);
}

/// Replaces the C library's function.
// SAFETY: the function has the signature and the effect of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn shutdown(socket: libc::c_int, how: libc::c_int) -> libc::c_int {
    if DELAYS_SHUTDOWNS.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(300));
    }
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_shutdown, socket, how) as libc::c_int }
}

/// Returns the CPUs that this process may use. `None` if the kernel does not steer connections by CPU.
pub fn allowed_cpus() -> Option<Vec<usize>> {
    let list = status_field(crate::own_pid(), "Cpus_allowed_list");
    let ranges = list.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    Some(ranges.flat_map(|(first, last)| first.parse().unwrap()..=last.parse::<usize>().unwrap()).collect())
}

/// Pins this thread to a CPU.
pub fn stay_on(cpu: usize) {
    // SAFETY: zero is a valid set, and the kernel reads it.
    unsafe {
        let mut only: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut only);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&only), &only), 0);
    }
}

/// Returns the CPU whose connections a listener prefers: `SO_INCOMING_CPU`.
pub fn cpu_of(listener: &impl AsFd) -> usize {
    socket2::SockRef::from(listener).cpu_affinity().expect("SO_INCOMING_CPU")
}

/// A timerfd that the scenario has opened itself, so that the reactor knows only its descriptor.
#[derive(Debug)]
pub struct Timerfd(OwnedFd);

impl Timerfd {
    /// Opens a timer. `None` if the system has no such timer.
    pub fn new(clock: TimerClock, blocks: bool) -> Option<Timerfd> {
        let clock = match clock {
            TimerClock::Monotonic => libc::CLOCK_MONOTONIC,
            TimerClock::Realtime => libc::CLOCK_REALTIME,
            TimerClock::Boottime => libc::CLOCK_BOOTTIME,
        };
        let flags = if blocks { 0 } else { libc::TFD_NONBLOCK };
        // SAFETY: no memory is involved.
        Some(Timerfd(owned(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC | flags) })))
    }

    /// Sets the timer to expire after `first`, and then after each `period` unless it is zero.
    pub fn set(&self, first: Duration, period: Duration) {
        self.set_with(0, first, period);
    }

    /// Sets the timer to expire when the clock shows `first`, and then after each `period` unless it is zero.
    pub fn set_at(&self, first: Duration, period: Duration) {
        self.set_with(libc::TFD_TIMER_ABSTIME, first, period);
    }

    /// Sets the timer to expire when the clock shows `first`, or when the clock is set.
    pub fn set_until_clock_is_set(&self, first: Duration) {
        self.set_with(UNTIL_CLOCK_IS_SET, first, Duration::ZERO);
    }

    /// Whether the kernel still has the timer as [`set_until_clock_is_set`](Timerfd::set_until_clock_is_set) left it.
    pub fn is_until_clock_is_set(&self) -> bool {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.as_raw_fd())).expect("reading fdinfo");
        let found = info.lines().find_map(|line| line.strip_prefix("settime flags: ")).expect("the flags of a timerfd");
        i32::from_str_radix(found.trim(), 8) == Ok(UNTIL_CLOCK_IS_SET)
    }

    fn set_with(&self, flags: libc::c_int, first: Duration, period: Duration) {
        let spec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap(),
            tv_nsec: time.subsec_nanos() as libc::c_long,
        };
        let value = libc::itimerspec { it_value: spec(first), it_interval: spec(period) };
        // SAFETY: the kernel reads `value`.
        let result = unsafe { libc::timerfd_settime(self.as_raw_fd(), flags, &value, std::ptr::null_mut()) };
        check_eq("timerfd_settime", result, 0);
    }

    /// Reads the expirations of a non-blocking timer: 0 if there are none.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        // SAFETY: the kernel writes at most 8 bytes.
        match unsafe { libc::read(self.as_raw_fd(), count.as_mut_ptr().cast(), 8) } {
            8 => u64::from_ne_bytes(count),
            _ => {
                check_eq("reading", io::Error::last_os_error().kind(), ErrorKind::WouldBlock);
                0
            }
        }
    }

    /// Whether a read blocks.
    pub fn blocks(&self) -> bool {
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(self.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK == 0 }
    }
}

const UNTIL_CLOCK_IS_SET: libc::c_int = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;

impl AsRawFd for Timerfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
