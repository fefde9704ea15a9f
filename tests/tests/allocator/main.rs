//! Forks under an allocator that ends the process, or sends it a signal, when code allocates or frees memory.

mod planned;
mod unplanned;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use forkio_tests::is_in_kernel;
use forkio_tests::reactor::*;

forkio_tests::main!(planned, unplanned);

/// Whether code may allocate and free memory. If not, doing so ends the process.
static MAY_ALLOCATE: AtomicBool = AtomicBool::new(true);
/// The next call that allocates or frees memory raises this signal. 0 stands for no signal.
static SIGNAL_AT_ALLOCATION: AtomicI32 = AtomicI32::new(0);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

struct Watched;

// SAFETY: each method passes its call to the system's allocator, or ends the process.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        notice();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn notice() {
    if !MAY_ALLOCATE.load(Ordering::Relaxed) && !is_in_kernel() {
        std::process::abort();
    }
    let signal = SIGNAL_AT_ALLOCATION.swap(0, Ordering::Relaxed);
    if signal != 0 {
        raise(signal);
    }
}
