//! Tests of the module `table`, apart from it because the loom models compile that with types of their own.

use std::os::fd::RawFd;

use super::policy::{ForkPolicy, SourceKind};
use super::table::{About, Entry, PolicyTag, Table};
use crate::source_kind::SourceTag;
use crate::{Interest, Token};

#[test]
fn an_entry_gives_back_what_it_was_given() {
    let table = Table::new();
    let grow = |fd| {
        // SAFETY: the table is this thread's, which keeps no references.
        unsafe { table.grow(fd) };
        table.get(fd)
    };
    assert!(table.get(3).is_none() && table.get(-1).is_none() && grow(-1).is_none());
    let interest = Interest::READABLE | Interest::WRITABLE;
    for (fd, kind) in [(3, 1), (255, 2), (256, 7), (1_000_000, 12), (5_000, 3)] {
        let kind = SourceKind::from_bits(kind).unwrap();
        let about = About::new(interest, SourceTag::of(kind), PolicyTag::of(ForkPolicy::Sever));
        grow(fd).unwrap().set(Token(usize::MAX - kind as usize), about);
        let (token, read) = table.get(fd).unwrap().get().unwrap();
        assert_eq!((token, read), (Token(usize::MAX - kind as usize), about));
        assert_eq!((read.interest(), read.kind(), read.policy()), (interest, Some(kind), ForkPolicy::Sever));
    }
    let present = |(fd, entry): (RawFd, &Entry)| entry.get().map(|_| fd);
    assert_eq!(table.iter().filter_map(present).collect::<Vec<_>>(), [3, 255, 256, 5_000, 1_000_000]);
    table.get(255).unwrap().clear();
    assert!(table.get(255).unwrap().get().is_none());
}

#[test]
fn what_is_said_about_a_registration_stays_apart() {
    let about = About::new(Interest::WRITABLE, SourceTag::BARE, PolicyTag::DEFAULT);
    assert!(about.is_bare() && !about.is_muted() && !about.is_dropped(0) && about.kind().is_none());
    assert_eq!(about.policy(), ForkPolicy::Inherit);
    let changed = about
        .with_interest(Interest::READABLE)
        .with_kind(SourceKind::Other)
        .with_policy(ForkPolicy::NoFork)
        .with_muted(true)
        .with_exclusive(true)
        .with_dropped_in(Some(2));
    assert_eq!((changed.interest(), changed.kind()), (Interest::READABLE, Some(SourceKind::Other)));
    assert_eq!(changed.policy(), ForkPolicy::NoFork);
    assert!(changed.is_bare() && changed.is_muted() && changed.is_exclusive());
    assert_eq!(changed.kernel_interest(), Interest::READABLE.exclusive());
    assert!(!changed.is_dropped(1) && changed.is_dropped(2) && changed.is_dropped(3));
    let back = changed.with_muted(false).with_exclusive(false).with_dropped_in(None).with_interest(Interest::WRITABLE);
    assert_eq!(back, about.with_kind(SourceKind::Other).with_policy(ForkPolicy::NoFork));
}
