use std::fmt;
use std::num::NonZeroU8;
use std::ops::{BitOr, BitOrAssign};

/// Which readiness a source is registered for: a set with at least one member.
///
/// Readable and writable exist everywhere. The other constants exist only on the systems that have the readiness.
///
/// # Examples
///
/// ```
/// use forkio_reactor::Interest;
///
/// const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);
/// assert_eq!(BOTH, Interest::READABLE | Interest::WRITABLE);
/// assert_eq!(BOTH.remove(Interest::READABLE), Some(Interest::WRITABLE));
/// assert_eq!(format!("{BOTH:?}"), "READABLE | WRITABLE");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest(pub(crate) NonZeroU8);

const READABLE: u8 = 1 << 0;
const WRITABLE: u8 = 1 << 1;
// `sys/mod.rs` has the public constants of these bits, on the systems that have the readiness.
pub(crate) const AIO: u8 = 1 << 2;
pub(crate) const LIO: u8 = 1 << 3;
pub(crate) const PRIORITY: u8 = 1 << 4;
/// An event need not wake all processes that wait for the source: `fork::glue::set_exclusive`. This is not a readiness, and
/// never the only bit; users do not see it.
const EXCLUSIVE: u8 = 1 << 5;
/// The registration is in another library's queue, and it is muted, has a policy of its own, or is the waker's: see
/// `fork::adopting`. This is not a readiness; users do not see it.
const MARKED: u8 = 1 << 6;

impl Interest {
    /// The source can be read from or accepted on, or its peer will send no more.
    pub const READABLE: Interest = Interest::from_bits(READABLE).unwrap();

    /// The source can be written to, or its connection attempt has ended.
    pub const WRITABLE: Interest = Interest::from_bits(WRITABLE).unwrap();

    /// Returns the union of two interests, like the operator `|`, also in constants.
    #[must_use = "returns the union and leaves `self` as it is"]
    pub const fn add(self, other: Interest) -> Interest {
        match NonZeroU8::new(self.0.get() | other.0.get()) {
            Some(bits) => Interest(bits),
            // This is not reached: neither of the two is zero.
            None => self,
        }
    }

    /// Returns the members of `self` that are not in `other`; `None` if there are none.
    #[must_use = "returns the difference and leaves `self` as it is"]
    pub fn remove(self, other: Interest) -> Option<Interest> {
        NonZeroU8::new(self.0.get() & !other.0.get()).map(Interest)
    }

    /// Whether readable readiness is in the set.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.0.get() & READABLE != 0
    }

    /// Whether writable readiness is in the set.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0.get() & WRITABLE != 0
    }

    /// Whether the completion of an `aio(4)` request is in the set: FreeBSD, DragonFly and Apple systems.
    #[must_use]
    pub const fn is_aio(self) -> bool {
        self.0.get() & AIO != 0
    }

    /// Whether the completion of a `lio_listio(2)` request is in the set: FreeBSD.
    #[must_use]
    pub const fn is_lio(self) -> bool {
        self.0.get() & LIO != 0
    }

    /// Whether priority readiness, such as that of out-of-band data, is in the set: Linux and Android.
    #[must_use]
    pub const fn is_priority(self) -> bool {
        self.0.get() & PRIORITY != 0
    }

    /// Makes an interest of these bits; `None` for zero and for bits that have no meaning.
    pub(crate) const fn from_bits(bits: u8) -> Option<Interest> {
        match NonZeroU8::new(bits) {
            Some(bits) if bits.get() & !(READABLE | WRITABLE | AIO | LIO | PRIORITY) == 0 => Some(Interest(bits)),
            _ => None,
        }
    }
}

#[allow(dead_code, reason = "a build with a kqueue, or without `cponfork`, uses only some of these")]
impl Interest {
    pub(crate) const fn exclusive(self) -> Interest {
        self.add(Interest(NonZeroU8::new(EXCLUSIVE).unwrap()))
    }

    pub(crate) const fn is_exclusive(self) -> bool {
        self.0.get() & EXCLUSIVE != 0
    }

    /// The mark without a readiness: a muted registration in another library's queue.
    pub(crate) const MARK: Interest = Interest(NonZeroU8::new(MARKED).unwrap());

    pub(crate) const fn marked(self) -> Interest {
        self.add(Interest::MARK)
    }

    pub(crate) const fn is_marked(self) -> bool {
        self.0.get() & MARKED != 0
    }
}

impl BitOr for Interest {
    type Output = Interest;

    fn bitor(self, other: Interest) -> Interest {
        self.add(other)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Interest) {
        *self = self.add(other);
    }
}

/// Prints the members' names, as in `READABLE | WRITABLE`.
impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(u8, &str); 5] =
            [(READABLE, "READABLE"), (WRITABLE, "WRITABLE"), (AIO, "AIO"), (LIO, "LIO"), (PRIORITY, "PRIORITY")];
        let mut members = NAMES.iter().filter(|(bit, _)| self.0.get() & bit != 0).enumerate();
        members.try_for_each(|(index, (_, name))| {
            let separator = if index == 0 { "" } else { " | " };
            write!(f, "{separator}{name}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_set_of_bits_is_an_interest() {
        for bits in 0..=u8::MAX {
            let valid = (1..1 << 5).contains(&bits);
            assert_eq!(Interest::from_bits(bits).map(|interest| interest.0.get()), valid.then_some(bits));
        }
    }

    #[test]
    fn debug_names_every_member() {
        let all = Interest::from_bits(0b1_1111).unwrap();
        assert_eq!(format!("{all:?}"), "READABLE | WRITABLE | AIO | LIO | PRIORITY");
    }
}
