//! Filters by which the kernel refuses system calls of this process and its children: seccomp(2).

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::check_eq;

/// A condition on the low half of an argument of a system call. The first argument is argument 0.
enum Argument {
    Is(u32, u32),
    IsNot(u32, u32),
}
use Argument::{Is, IsNot};

/// Makes the kernel take `action` for each later system call `number` that meets all conditions.
fn filter_call(number: libc::c_long, conditions: &[Argument], action: u32) {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    /// The offset of the first argument in bytes. Each argument takes eight. The system call's number is at offset 0.
    const ARGUMENTS: u32 = 16;

    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = Vec::new();
    for (done, condition) in [&Is(0, number as u32)].into_iter().chain(conditions).enumerate() {
        // A jump to the last instruction skips the rest of the conditions and the action.
        let end = 2 * (conditions.len() - done) as u8 + 1;
        let (argument, value, jt, jf) = match *condition {
            Is(argument, value) => (argument, value, 0, end),
            IsNot(argument, value) => (argument, value, end, 0),
        };
        let offset = if done == 0 { 0 } else { ARGUMENTS + 8 * argument };
        program.extend([instruction(LOAD, 0, 0, offset), instruction(EQUALS, jt, jf, value)]);
    }
    program.extend([instruction(RETURN, 0, 0, action), instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW)]);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program.
    unsafe {
        check_eq("no new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        check_eq("the filter", libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

fn fail_with(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// Makes a system call fail.
pub fn deny_call(number: libc::c_long, errno: i32) {
    filter_call(number, &[], fail_with(errno));
}

/// Makes `readlinkat(2)` fail, so that this process cannot read the names of descriptors in `/proc`.
pub fn deny_proc() {
    deny_call(libc::SYS_readlinkat, libc::ENOENT);
}

/// Makes `socket(2)` fail for this family.
pub fn deny_sockets(family: i32) {
    filter_call(libc::SYS_socket, &[Is(0, family as u32)], fail_with(libc::EPERM));
}

/// Makes `pidfd_open(2)` fail if the caller passes flags, as on a kernel without that system call. tokio passes flags;
/// forkio does not.
pub fn deny_tokio_pidfds() {
    filter_call(libc::SYS_pidfd_open, &[IsNot(1, 0)], fail_with(libc::ENOSYS));
    // SAFETY: no memory is involved.
    let (with_flags, without) = unsafe {
        let own = libc::getpid();
        let with_flags = libc::syscall(libc::SYS_pidfd_open, own, libc::PIDFD_NONBLOCK);
        (with_flags, libc::syscall(libc::SYS_pidfd_open, own, 0))
    };
    assert!(with_flags == -1 && without >= 0, "the filter does not work: {with_flags}, {without}");
}

/// Makes the kernel refuse to register the next descriptor that this process opens, as if the user had no epoll watch
/// left. The filter compares descriptors, not files: it refuses each later file at that descriptor, even in children.
pub fn deny_next_registration() {
    let next = File::open("/dev/null").expect("a descriptor").as_raw_fd();
    let added = [Is(1, libc::EPOLL_CTL_ADD as u32), Is(2, next as u32)];
    filter_call(libc::SYS_epoll_ctl, &added, fail_with(libc::ENOSPC));
}

/// Makes `sendto(2)` with this many bytes fail, as if the kernel had no memory left for them.
pub fn deny_sends_of(length: u32) {
    filter_call(libc::SYS_sendto, &[Is(2, length)], fail_with(libc::ENOBUFS));
}

/// Makes the kernel kill this process, or a child, when it opens a pidfd of a process other than these two.
pub fn die_at_pidfd_of_others(known: [u32; 2]) {
    filter_call(libc::SYS_pidfd_open, &known.map(|pid| IsNot(0, pid)), libc::SECCOMP_RET_KILL_PROCESS);
}
