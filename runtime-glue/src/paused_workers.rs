//! [`PausedWorkers`]: runtimes whose worker threads pause during a fork.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forkio_reactor::fork as reactor;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use crate::sys::{self, PerProcess};

/// How long a fork waits for workers to finish the current poll of a task. A worker that takes longer is in the
/// application's code, and holds none of the runtime's locks.
const TIME_TO_PAUSE: Duration = Duration::from_millis(50);

/// How long workers pause at most. Without a limit, the fork could wait forever: after `atfork::pause_workers`, the
/// caller may wait for a task of these workers before it forks. So may a thread that holds the lock of standard output,
/// which `fork_with_threads` needs.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The runtimes of this process that its children do not continue.
static RUNTIMES: PerProcess<Mutex<Vec<Handle>>> = PerProcess::new();

/// Makes the workers of `runtime` pause during forks from now on.
pub(crate) fn add(runtime: &Handle) {
    let _ = RUNTIMES.get_or_try_make::<()>(sys::process_key, || Ok(Mutex::new(Vec::new())));
    runtimes().into_iter().for_each(|mut runtimes| runtimes.push(runtime.clone()));
}

/// Whether a runtime has been [added](add), and not [removed](remove).
pub(crate) fn contains(id: Id) -> bool {
    runtimes().is_some_and(|runtimes| runtimes.iter().any(|runtime| runtime.id() == id))
}

/// Undoes [`add`], before the runtime is shut down.
pub(crate) fn remove(id: Id) {
    runtimes().into_iter().for_each(|mut runtimes| runtimes.retain(|runtime| runtime.id() != id));
}

/// Returns the runtimes of this process. `None` if no runtime has been [added](add) in it.
fn runtimes() -> Option<MutexGuard<'static, Vec<Handle>>> {
    let runtimes = RUNTIMES.get(sys::process_key())?;
    Some(runtimes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Workers that pause until this value is dropped. The child must `mem::forget` it, because the workers stay in the parent.
pub(crate) struct PausedWorkers(Arc<Pause>);

#[derive(Default)]
struct Pause {
    state: Mutex<State>,
    worker_has_paused: Condvar,
    is_over: Condvar,
}

#[derive(Default)]
struct State {
    paused: usize,
    is_over: bool,
}

impl Pause {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses the calling worker. While the worker runs a task, it holds no lock of the runtime. Signals are blocked,
    /// so it runs no signal handler.
    fn pause_worker(&self) {
        let _blocked = reactor::block_signals();
        let mut state = self.state();
        state.paused += 1;
        self.worker_has_paused.notify_one();
        drop(self.is_over.wait_timeout_while(state, LONGEST_PAUSE, |state| !state.is_over));
    }
}

impl PausedWorkers {
    /// Pauses the workers, except those that are not free within [`TIME_TO_PAUSE`].
    pub(crate) fn pause() -> PausedWorkers {
        let pause = Arc::new(Pause::default());
        let mut workers = 0;
        let has_workers = |runtime: &&Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
        for runtime in runtimes().iter().flat_map(|runtimes| runtimes.iter().filter(has_workers)) {
            // Spawn one task per worker, so that each worker has to take one.
            for _ in 0..runtime.metrics().num_workers() {
                let pause = Arc::clone(&pause);
                runtime.spawn(async move { pause.pause_worker() });
                workers += 1;
            }
        }
        let waited =
            pause.worker_has_paused.wait_timeout_while(pause.state(), TIME_TO_PAUSE, |state| state.paused < workers);
        drop(waited);
        PausedWorkers(pause)
    }
}

impl Drop for PausedWorkers {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.is_over.notify_all();
    }
}
