//! tokio with the feature `full` uses the crate `parking_lot`, which lists waiting threads by addresses in their stacks.
//! A child has the list without the threads. The scenarios run in the program that `tests/projects/parking-lot` builds
//! from these files. The project also builds the topic `threads` with that feature.

use forkio_tests::runtime::*;

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod lost_threads;
#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
mod refused;

forkio_tests::main!(
    project = "parking-lot",
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    lost_threads,
    #[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
    refused
);

static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);

/// Uses tasks and timers of this process's runtime, and threads of its blocking pool.
fn use_runtime() {
    let used = RUNTIME.block_on(async {
        let work = tokio::spawn(async {
            sleep(std::time::Duration::from_millis(1)).await;
            tokio::task::spawn_blocking(|| 7).await.unwrap()
        });
        timeout(limit(), work).await.expect("the runtime hangs").unwrap()
    });
    check_eq("the result", used.expect("a runtime"), 7);
}

/// Forks while the process has one thread. Both processes use their runtime.
fn fork_without_threads() {
    let runtime = current_thread();
    let child = runtime.block_on(fork());
    use_runtime();
    let Some(child) = child else { std::process::exit(0) };
    runtime.block_on(reap(child));
}
