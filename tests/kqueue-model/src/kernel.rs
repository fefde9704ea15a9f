//! The kernels that the model can follow.

use std::sync::LazyLock;

/// A kernel that has kqueue(2). The environment variable `FORKIO_KQUEUE_MODEL` selects the one that the model follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `copying`, the default: FreeBSD 15.1, which has `KQUEUE_CPONFORK`.
    Copying,
    /// `at-limit`: like `copying`, but every fork reaches `RLIMIT_KQUEUES`, so the child has no queue. Unlike on
    /// FreeBSD, it can create one.
    AtLimit,
    /// `unsafe-timers`: FreeBSD 15.1 without the fix for CVE-2026-58083. A timer that expires while its queue is copied
    /// panics that kernel. The model aborts every child of a process that has a timer in a queue with `KQUEUE_CPONFORK`.
    UnsafeTimers,
    /// `einval`: FreeBSD 14, which has kqueuex(2) and refuses `KQUEUE_CPONFORK`.
    Einval,
    /// `dropping`: a kernel without kqueuex(2), such as that of macOS or DragonFly.
    Dropping,
    /// `no-user-events`: like `dropping`, but without `EVFILT_USER`, such as that of OpenBSD or of NetBSD before 10.
    NoUserEvents,
}

impl Kernel {
    /// All kernels, with their names in `FORKIO_KQUEUE_MODEL`.
    pub const ALL: [(&str, Kernel); 6] = [
        ("copying", Kernel::Copying),
        ("at-limit", Kernel::AtLimit),
        ("unsafe-timers", Kernel::UnsafeTimers),
        ("einval", Kernel::Einval),
        ("dropping", Kernel::Dropping),
        ("no-user-events", Kernel::NoUserEvents),
    ];

    /// Returns the kernel that the environment selects.
    ///
    /// # Panics
    ///
    /// If the variable names no known kernel.
    pub fn this() -> Kernel {
        static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
            let name = std::env::var("FORKIO_KQUEUE_MODEL").unwrap_or_default();
            if name.is_empty() {
                return Kernel::Copying;
            }
            let found = Kernel::ALL.iter().find(|(known, _)| *known == name);
            found.unwrap_or_else(|| panic!("FORKIO_KQUEUE_MODEL={name}: there is no such kernel")).1
        });
        *KERNEL
    }

    /// Whether the kernel has `KQUEUE_CPONFORK`.
    pub fn is_copying(self) -> bool {
        matches!(self, Kernel::Copying | Kernel::AtLimit | Kernel::UnsafeTimers)
    }

    /// Whether the kernel is FreeBSD's.
    pub fn is_freebsd(self) -> bool {
        self.is_copying() || self == Kernel::Einval
    }
}
