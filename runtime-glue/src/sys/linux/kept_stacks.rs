//! In a child, keeps the memory of the parent's threads unchanged, under glibc on x86_64.
//!
//! In a child, glibc puts the stacks of the threads that only the parent has into its cache. A new thread gets one of
//! these stacks, or glibc unmaps some of them when the cache has more than 40 MiB. The end of a stack has the thread's
//! descriptor (`struct pthread`, whose address is the `pthread_t`) and thread-local memory. The descriptor also owns the
//! thread-local memory of libraries that were loaded later. Other memory may refer to all of this: `parking_lot` lists
//! the threads that wait, by addresses in their thread-local memory.
//!
//! glibc regards a stack of the cache as unused if the thread id in the descriptor is 0 (`nptl/descr.h`: "Thread ID - which is
//! also a 'is this thread descriptor (and therefore stack) used' flag"; `__nptl_stack_in_use`). The kernel sets the id to
//! 0 when the thread ends, and glibc sets it to 0 in a child (`reclaim_stacks`). So this module writes an id that
//! no thread has. glibc then neither reuses nor unmaps the stack, like the stack of a thread that is just ending.

use std::arch::asm;
use std::collections::HashSet;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forkio_reactor::fork::block_signals;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::param::page_size;
use rustix::thread::gettid;

use super::used_pages::{READS_AT_ONCE, read_each, used_page_ends};

/// The thread id of the stacks that this module keeps. It is larger than the id of any thread (`PID_MAX_LIMIT`).
const KEPT: u32 = i32::MAX as u32;

/// A thread sets this bit of `cancelhandling` after its thread-local destructors have run (`EXITING_BITMASK`).
const EXITING: u32 = 0x10;

/// A join sets this bit (`TERMINATED_BITMASK`).
const JOINED: u32 = 0x20;

/// Finds the layout of glibc's thread descriptors in advance, so that a child need not start threads to find it.
pub(crate) fn prepare_to_keep_stacks() -> io::Result<()> {
    Layout::get().map(|_| ())
}

/// Keeps the stacks of all threads that a parent had at its fork. Returns the addresses of their descriptors.
pub(super) fn keep() -> io::Result<HashSet<usize>> {
    let layout = Layout::get()?;
    let mut kept = HashSet::new();
    for descriptor in layout.descriptors()? {
        // A thread that has ended, in the parent or in the child, leaves nothing in its stack. Do not change its id: a
        // join of the thread waits until the id is 0.
        if descriptor.is_exiting {
            continue;
        }
        // SAFETY: the list has just been made, and glibc unmaps a stack only when a thread ends. `ProcessRuntime` requires
        // that this process has started no threads before. Otherwise, the stack of a thread that ends right now may be gone.
        let id =
            unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(descriptor.address + layout.thread_id)) };
        // Any other id belongs to a thread of this process.
        match id.compare_exchange(0, KEPT, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) | Err(KEPT) => _ = kept.insert(descriptor.address),
            Err(_) => {}
        }
    }
    Ok(kept)
}

/// Where glibc keeps a thread's descriptor and its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// The distance of the descriptor from the end of the stack.
    below_end: usize,
    /// The offset of the thread id, which is 0 if the stack is unused.
    thread_id: usize,
    /// The offset of the stack's address. The stack's size follows the address.
    stack: usize,
    /// The offset of `cancelhandling`.
    flags: usize,
}

struct Descriptor {
    address: usize,
    is_exiting: bool,
}

impl Layout {
    /// Finds the layout on first use, with two threads. This module maps the stacks of these threads, because stacks in
    /// glibc's cache must stay unchanged.
    fn get() -> io::Result<Layout> {
        /// The four fields in 16 bits each, or 0.
        static KNOWN: AtomicU64 = AtomicU64::new(0);

        let known = KNOWN.load(Ordering::Relaxed).to_ne_bytes();
        let [below_end, thread_id, stack, flags] =
            [0, 2, 4, 6].map(|at| usize::from(u16::from_ne_bytes([known[at], known[at + 1]])));
        if below_end != 0 {
            return Ok(Layout { below_end, thread_id, stack, flags });
        }
        // One sample is not enough, because two of its fields may be equal by chance.
        let (first, second) = (Sample::take()?, Sample::take()?);
        let layout = Layout::of(&first, &second).ok_or_else(|| unknown("forkio does not know this glibc"))?;
        let fields = [layout.below_end, layout.thread_id, layout.stack, layout.flags];
        let mut known = [0; 8];
        for (bytes, field) in known.chunks_mut(2).zip(fields) {
            bytes.copy_from_slice(&u16::try_from(field).map_err(io::Error::other)?.to_ne_bytes());
        }
        KNOWN.store(u64::from_ne_bytes(known), Ordering::Relaxed);
        Ok(layout)
    }

    /// Returns the only layout that fits both samples.
    fn of(first: &Sample, second: &Sample) -> Option<Layout> {
        let below_end = first.end - first.descriptor;
        // `candidates` expects each descriptor in the last page of its stack, with two pointers to itself near its beginning.
        if below_end > page_size() || second.end - second.descriptor != below_end {
            return None;
        }
        let only = |size: usize, matches: &dyn Fn(&Sample, usize) -> bool| {
            let offsets = (0..below_end - 16).step_by(size);
            let mut found = offsets.filter(|offset| matches(first, *offset) && matches(second, *offset));
            found.next().filter(|_| found.next().is_none())
        };
        for sample in [first, second] {
            if [0, 16].iter().any(|offset| word(&sample.running, *offset) != sample.descriptor) {
                return None;
            }
        }
        Some(Layout {
            below_end,
            // The id is 0 at the end of the thread, and negative after the join.
            thread_id: only(4, &|sample, offset| {
                half(&sample.running, offset) == sample.thread_id && half(&sample.ended, offset) as i32 <= 0
            })?,
            stack: only(8, &|sample, offset| {
                word(&sample.running, offset) == sample.stack
                    && word(&sample.running, offset + 8) == sample.end - sample.stack
            })?,
            flags: only(4, &|sample, offset| {
                half(&sample.running, offset) == 0 && [EXITING, EXITING | JOINED].contains(&half(&sample.ended, offset))
            })?,
        })
    }

    /// Returns the thread descriptors in all stacks of glibc, including unused stacks.
    fn descriptors(&self) -> io::Result<Vec<Descriptor>> {
        let mut descriptors = Vec::new();
        for address in self.candidates()? {
            let stacks = read_each::<[usize; 2]>(&[address + self.stack])?;
            let flags = read_each::<u32>(&[address + self.flags])?;
            let ([(_, [stack, size])], [(_, flags)]) = (stacks.as_slice(), flags.as_slice()) else { continue };
            if *stack < address && stack.checked_add(*size) == Some(address + self.below_end) {
                descriptors.push(Descriptor { address, is_exiting: flags & EXITING != 0 });
            }
        }
        Ok(descriptors)
    }

    /// Returns the addresses at which the memory looks like the beginning of a descriptor. Any page may be the last one
    /// of a stack, because adjacent stacks may be one mapping.
    fn candidates(&self) -> io::Result<Vec<usize>> {
        // Without other threads, no memory is unmapped meanwhile, so read it directly. Reads through the kernel would take ten
        // times as long.
        let may_look = super::is_single_threaded()?;
        let mut found = Vec::new();
        let mut unseen = Vec::new();
        for (end, is_present) in used_page_ends()? {
            let address = end - self.below_end;
            if !(is_present && may_look) {
                unseen.push(address);
                continue;
            }
            // SAFETY: the page is in memory, and readable.
            if is_head(address, [0, 8, 16].map(|offset| unsafe { read_word(address + offset) })) {
                found.push(address);
            }
        }
        for part in unseen.chunks(READS_AT_ONCE) {
            let heads = read_each::<[usize; 3]>(part)?.into_iter();
            found.extend(heads.filter(|(address, head)| is_head(*address, *head)).map(|(address, _)| address));
        }
        Ok(found)
    }
}

/// Returns whether `head` is the beginning of a descriptor at `address`: `tcb` and `self` of `tcbhead_t`.
fn is_head(address: usize, head: [usize; 3]) -> bool {
    head[0] == address && head[2] == address
}

/// The descriptor of a thread, while it was running and after it had ended.
struct Sample {
    stack: usize,
    end: usize,
    descriptor: usize,
    thread_id: u32,
    running: Vec<u8>,
    ended: Vec<u8>,
}

impl Sample {
    /// Starts a thread, and copies its descriptor while the thread runs and after it has ended.
    fn take() -> io::Result<Sample> {
        /// In bytes: enough for a thread that does almost nothing, and for the thread-local memory of most programs.
        const STACK_SIZE: usize = 1 << 20;

        // SAFETY: the kernel chooses an unused address for the new mapping, and no other code has it yet.
        let stack = unsafe {
            mmap_anonymous(ptr::null_mut(), STACK_SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        match Sample::take_on(stack, STACK_SIZE) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error), // The thread still has the stack.
            result => {
                // SAFETY: the thread has been joined, or was not made.
                let _ = unsafe { munmap(stack, STACK_SIZE) };
                result
            }
        }
    }

    fn take_on(stack: *mut c_void, size: usize) -> io::Result<Sample> {
        /// How long to wait for the thread, which takes microseconds, unless it needs a lock that another thread held
        /// at the fork: `RuntimeError::InheritedLock`.
        const LIMIT: Duration = Duration::from_secs(10);

        #[derive(Default)]
        struct Shared {
            sample: std::cell::UnsafeCell<(usize, u32, Vec<u8>)>,
            end: usize,
            is_taken: AtomicBool,
        }

        extern "C" fn run(shared: *mut c_void) -> *mut c_void {
            // SAFETY: the creator keeps the value until `is_taken`. If the creator stops waiting before that, it leaks the value.
            let shared = unsafe { &*shared.cast::<Shared>() };
            // SAFETY: no other thread uses the sample before `is_taken`.
            let (descriptor, thread_id, running) = unsafe { &mut *shared.sample.get() };
            // SAFETY: the call takes no arguments.
            *descriptor = unsafe { libc::pthread_self() } as usize;
            *thread_id = gettid().as_raw_nonzero().get() as u32;
            // This copies without allocating, because an allocation may change thread-local memory.
            copy(*descriptor, shared.end, running);
            shared.is_taken.store(true, Ordering::Release);
            ptr::null_mut()
        }

        let end = stack as usize + size;
        let shared = Shared { sample: (0, 0, vec![0; 2 * page_size()]).into(), end, is_taken: AtomicBool::new(false) };
        let shared = Box::into_raw(Box::new(shared));
        let mut attributes = MaybeUninit::uninit();
        let mut thread = MaybeUninit::uninit();
        let mut start = || {
            // The thread must not run the program's signal handlers.
            let _blocked = block_signals();
            // SAFETY: the attributes are initialised first, and the stack has `size` bytes.
            unsafe {
                check(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
                check(libc::pthread_attr_setstack(attributes.as_mut_ptr(), stack, size))?;
                check(libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, shared.cast()))
            }
        };
        if let Err(error) = start() {
            // SAFETY: the pointer is from `Box::into_raw`, and there is no thread.
            drop(unsafe { Box::from_raw(shared) });
            return Err(error);
        }
        // SAFETY: `pthread_create` has written it.
        let thread = unsafe { thread.assume_init() };
        let start = Instant::now();
        // SAFETY: the pointer is from `Box::into_raw`.
        while !unsafe { &*shared }.is_taken.load(Ordering::Acquire) {
            if start.elapsed() > LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::yield_now();
        }
        // SAFETY: the thread has ended, or will end without waiting for anything.
        check(unsafe { libc::pthread_join(thread, ptr::null_mut()) })?;
        // SAFETY: the pointer is from `Box::into_raw`, and the thread has ended.
        let (descriptor, thread_id, mut running) = unsafe { Box::from_raw(shared) }.sample.into_inner();
        if !(stack as usize..end).contains(&descriptor) || end - descriptor > running.len() {
            return Err(unknown("forkio does not know this glibc"));
        }
        running.truncate(end - descriptor);
        let mut ended = vec![0; running.len()];
        copy(descriptor, end, &mut ended);
        Ok(Sample { stack: stack as usize, end, descriptor, thread_id, running, ended })
    }
}

fn word(bytes: &[u8], offset: usize) -> usize {
    let bytes = bytes[offset..].first_chunk().expect("an offset inside of the descriptor");
    usize::from_ne_bytes(*bytes)
}

fn half(bytes: &[u8], offset: usize) -> u32 {
    let bytes = bytes[offset..].first_chunk().expect("an offset inside of the descriptor");
    u32::from_ne_bytes(*bytes)
}

/// Copies the memory between two addresses of a stack, as much as fits, in whole words.
fn copy(from: usize, end: usize, to: &mut [u8]) {
    for (address, bytes) in (from..end).step_by(8).zip(to.chunks_exact_mut(8)) {
        // SAFETY: the word is at the end of a stack, which is mapped.
        bytes.copy_from_slice(&unsafe { read_word(address) }.to_ne_bytes());
    }
}

/// Reads a word that may belong to no object of this program, or that other code may write at the same time. Uses
/// assembly, because Rust's memory model and AddressSanitizer do not allow such a read.
///
/// # Safety
///
/// The memory must be readable.
unsafe fn read_word(address: usize) -> usize {
    let word;
    // SAFETY: the instruction reads a word that the caller knows to be readable, and changes nothing.
    unsafe {
        asm!("mov {word}, [{address}]", address = in(reg) address, word = lateout(reg) word, options(nostack, preserves_flags, readonly));
    }
    word
}

fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn unknown(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}
