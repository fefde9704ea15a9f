//! Runtimes that come to rest for a fork.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forkio_reactor::fork as reactor;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use crate::sys::{self, PerProcess};

/// How long a fork waits for workers to come out of what they are polling. One that takes longer is busy with something
/// else than the runtime's locks.
const PATIENCE: Duration = Duration::from_millis(50);

/// The multi-threaded runtimes of this process that are to rest.
static RUNTIMES: PerProcess<Mutex<Vec<Handle>>> = PerProcess::new();

/// The workers of `runtime` rest during forks from now on.
pub(crate) fn add(runtime: &Handle) {
    if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
        let _ = RUNTIMES.get_or_try_make::<()>(sys::process_key, || Ok(Mutex::new(Vec::new())));
        runtimes().into_iter().for_each(|mut runtimes| runtimes.push(runtime.clone()));
    }
}

/// The runtime is about to be shut down.
pub(crate) fn remove(id: Id) {
    runtimes().into_iter().for_each(|mut runtimes| runtimes.retain(|runtime| runtime.id() != id));
}

/// `None`: there has never been one in this process.
fn runtimes() -> Option<MutexGuard<'static, Vec<Handle>>> {
    let runtimes = RUNTIMES.get(sys::process_key())?;
    Some(runtimes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Workers that rest until this is dropped. In the child of a fork it is to be forgotten: they are not there.
pub(crate) struct Resting(Arc<Rest>);

#[derive(Default)]
struct Rest {
    state: Mutex<State>,
    has_come: Condvar,
    is_over: Condvar,
}

#[derive(Default)]
struct State {
    /// How many rest.
    workers: usize,
    over: bool,
}

impl Rest {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker rests: it holds no lock of the runtime, nor is it in a signal handler.
    fn rest(&self) {
        let _blocked = reactor::block_signals();
        let mut state = self.state();
        state.workers += 1;
        self.has_come.notify_one();
        drop(self.is_over.wait_while(state, |state| !state.over));
    }
}

impl Resting {
    /// Has the workers rest, as many as come in time.
    pub(crate) fn begin() -> Resting {
        let rest = Arc::new(Rest::default());
        let mut workers = 0;
        for runtime in runtimes().iter().flat_map(|runtimes| runtimes.iter()) {
            // As many tasks as there are workers, so that each has to take one.
            for _ in 0..runtime.metrics().num_workers() {
                let rest = Arc::clone(&rest);
                runtime.spawn(async move { rest.rest() });
                workers += 1;
            }
        }
        let waited = rest.has_come.wait_timeout_while(rest.state(), PATIENCE, |state| state.workers < workers);
        drop(waited);
        Resting(rest)
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.is_over.notify_all();
    }
}
