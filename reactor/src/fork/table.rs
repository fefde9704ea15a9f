use std::alloc::{self, Layout};
use std::os::fd::RawFd;
use std::ptr;

use super::entry::Entry;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};

/// A selector's registrations: an entry per descriptor. Descriptors are small dense integers, so this is an array. It grows by
/// chunks, each twice as large as the one before it: entries never move, and a lookup takes no lock.
#[derive(Default)]
pub(crate) struct Table {
    chunks: [AtomicPtr<Entry>; CHUNKS],
    /// A bit for each chunk: whether it has had a registration since the table was cleared.
    used: AtomicU32,
}

/// The number of entries in the first chunk, 1 KiB: a process with few descriptors touches one page.
const FIRST_CHUNK: usize = 64;
/// The number of chunks, enough for every descriptor that a kernel gives out: only the 64 largest positive numbers have no
/// place.
const CHUNKS: usize = 25;

fn layout(entries: usize) -> Layout {
    Layout::array::<Entry>(entries).expect("a chunk is smaller than the address space")
}

/// Allocates `entries` vacant entries. The memory comes from the kernel as zeros, so that unused entries take no memory.
fn vacant(entries: usize) -> *mut Entry {
    let layout = layout(entries);
    // SAFETY: the layout is not of size zero. An entry consists of atomics, for which zero is a valid value.
    let fresh = unsafe { alloc::alloc_zeroed(layout) };
    if fresh.is_null() {
        alloc::handle_alloc_error(layout);
    }
    fresh.cast()
}

/// Returns the chunk of a descriptor, and its place in the chunk; `None` if there is no place for it.
#[inline(always)]
fn place(fd: RawFd) -> Option<(usize, usize)> {
    // A negative descriptor becomes too large for any chunk.
    let number = (fd as u32 as usize) + FIRST_CHUNK;
    let chunk = (number.ilog2() - FIRST_CHUNK.ilog2()) as usize;
    (chunk < CHUNKS).then_some((chunk, number - (FIRST_CHUNK << chunk)))
}

impl Table {
    /// Returns the entry of `fd`; `None` if its chunk was never allocated, or if there is no place for `fd`.
    #[inline(always)]
    pub(crate) fn get(&self, fd: RawFd) -> Option<&Entry> {
        let (chunk, index) = place(fd)?;
        self.chunk(chunk)?.get(index)
    }

    /// Like [`get`](Table::get), for an entry that is about to get a registration.
    #[inline(always)]
    pub(crate) fn get_to_add(&self, fd: RawFd) -> Option<&Entry> {
        let (chunk, index) = place(fd)?;
        let entry = self.chunk(chunk)?.get(index)?;
        if self.used.load(Ordering::Relaxed) & (1 << chunk) == 0 {
            self.used.fetch_or(1 << chunk, Ordering::Relaxed);
        }
        Some(entry)
    }

    #[inline(always)]
    fn chunk(&self, chunk: usize) -> Option<&[Entry]> {
        let entries = self.chunks[chunk].load(Ordering::Acquire);
        // SAFETY: `entries` is null or a chunk of this length that `make_room` has published, and no chunk is ever freed.
        (!entries.is_null()).then(|| unsafe { std::slice::from_raw_parts(entries, FIRST_CHUNK << chunk) })
    }

    /// Returns the entry of `fd`, and allocates its chunk first if needed. `None` if there is no place for `fd`.
    #[cold]
    pub(crate) fn make_room(&self, fd: RawFd) -> Option<&Entry> {
        let (chunk, _) = place(fd)?;
        if self.chunk(chunk).is_none() {
            let fresh = vacant(FIRST_CHUNK << chunk);
            let published =
                self.chunks[chunk].compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire);
            if published.is_err() {
                // Another thread was faster.
                // SAFETY: `fresh` comes from `vacant`, which has used the same layout, and no other thread knows it.
                unsafe { alloc::dealloc(fresh.cast(), layout(FIRST_CHUNK << chunk)) };
            }
        }
        self.get_to_add(fd)
    }

    /// Lists every entry that may have a registration, with its descriptor.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RawFd, &Entry)> {
        let used = self.used.load(Ordering::Relaxed);
        let used = (0..CHUNKS).filter(move |chunk| used & (1 << chunk) != 0);
        used.filter_map(|chunk| Some((chunk, self.chunk(chunk)?))).flat_map(|(chunk, entries)| {
            let first = (FIRST_CHUNK << chunk) - FIRST_CHUNK;
            (first..).zip(entries).map(|(number, entry)| (number as RawFd, entry))
        })
    }

    /// Forgets all registrations, for the next selector that uses the table.
    pub(crate) fn clear(&self) {
        if self.used.load(Ordering::Relaxed) != 0 {
            self.iter().filter(|(_, entry)| !entry.info().is_vacant()).for_each(|(_, entry)| entry.vacate());
            self.used.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::EntryInfo;
    use super::super::policy::{ForkPolicy, SourceKind};
    use super::*;
    use crate::{Interest, Token};

    #[test]
    fn an_entry_returns_what_it_was_given() {
        let table = Table::default();
        assert!(table.get(3).is_none() && table.get(-1).is_none() && table.make_room(-1).is_none());
        assert!(table.get(RawFd::MIN).is_none());
        let interest = Interest::READABLE | Interest::WRITABLE;
        for (fd, kind) in [(3, 1), (63, 2), (64, 7), (1_000_000, 12), (5_000, 3)] {
            let kind = SourceKind::from_bits(kind).unwrap();
            let info = EntryInfo::new(interest, Some(kind), Some(ForkPolicy::Sever));
            let entry = table.make_room(fd).unwrap();
            entry.set_token(Token(usize::MAX - kind as usize));
            entry.set_info(info);
            assert_eq!(table.get(fd).unwrap().get().unwrap(), (Token(usize::MAX - kind as usize), info));
            assert_eq!((info.interest(), info.kind(), info.policy(kind)), (interest, Some(kind), ForkPolicy::Sever));
        }
        let present = |(fd, entry): (RawFd, &Entry)| entry.get().map(|_| fd);
        assert_eq!(table.iter().filter_map(present).collect::<Vec<_>>(), [3, 63, 64, 5_000, 1_000_000]);
        table.get(63).unwrap().vacate();
        assert!(table.get(63).unwrap().get().is_none());
        table.clear();
        assert_eq!(table.iter().filter_map(present).count(), 0);
        assert_eq!(
            (place(RawFd::MAX), place(RawFd::MAX - 64)),
            (None, Some((CHUNKS - 1, (FIRST_CHUNK << (CHUNKS - 1)) - 1)))
        );
    }

    #[test]
    fn the_parts_of_an_entry_do_not_mix() {
        let info = EntryInfo::new(Interest::WRITABLE, None, None);
        assert!(info.is_bare() && info.is_plain() && !info.is_muted() && !info.is_absent(0) && info.kind().is_none());
        assert_eq!(info.policy(SourceKind::Other), ForkPolicy::Inherit);
        let changed = info
            .with_interest(Interest::READABLE)
            .with_policy(ForkPolicy::NoFork)
            .with_muted(true)
            .with_exclusive(true)
            .absent_from(Some(2));
        assert_eq!(changed.interest(), Interest::READABLE);
        assert_eq!(changed.policy(SourceKind::Other), ForkPolicy::NoFork);
        assert!(changed.is_bare() && changed.is_muted() && changed.is_exclusive() && !changed.is_plain());
        assert_eq!(changed.kernel_interest(), Interest::READABLE.exclusive());
        assert!(!changed.is_absent(1) && changed.is_absent(2) && changed.is_absent(3));
        let back = changed.with_muted(false).with_exclusive(false).absent_from(None).with_interest(Interest::WRITABLE);
        assert_eq!(back, info.with_policy(ForkPolicy::NoFork));
    }
}
