//! Threads that wake a selector at the same time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::{STORM, STORM_THREADS};

/// [`STORM_THREADS`] threads that wait for their turn, and end when it is dropped.
pub(crate) struct Storm {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// They meet here before a turn and after it.
    barrier: Barrier,
    ended: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Storm {
    pub(crate) fn new(wake: impl Fn() -> io::Result<()> + Clone + Send + 'static) -> io::Result<Storm> {
        let shared = Shared {
            barrier: Barrier::new(STORM_THREADS + 1),
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let shared = Arc::new(shared);
        let threads = (0..STORM_THREADS).map(|_| {
            let (wake, shared) = (wake.clone(), Arc::clone(&shared));
            thread::Builder::new().spawn(move || shared.take_turns(wake))
        });
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        Ok(Storm { shared, threads })
    }

    /// Lets each thread wake [`STORM`] times.
    pub(crate) fn turn(&self) -> io::Result<()> {
        self.shared.barrier.wait();
        self.shared.barrier.wait();
        match self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn take_turns(&self, wake: impl Fn() -> io::Result<()>) {
        loop {
            self.barrier.wait();
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let woken = (0..STORM).try_for_each(|_| wake());
            if let Err(error) = woken {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            self.barrier.wait();
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.barrier.wait();
        for thread in self.threads.drain(..) {
            // It cannot have panicked, and there is nobody to tell.
            let _ended = thread.join();
        }
    }
}
