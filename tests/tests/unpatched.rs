//! What a user has without the patch: an error that names it, and the symptoms of a plain `fork(2)` that `forkio::guide`
//! describes. See `unpatched/src`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use forkio_tests::{Fixture, run_fixture};

/// Builds the programs that run on upstream mio, and gives the path of one.
#[track_caller]
fn program(name: &str) -> String {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("unpatched/Cargo.toml");
        // Its own, so that it does not wait for the lock of the build that runs this test.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpatched");
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
        let output = build.arg("--target-dir").arg(&target).output().expect("running cargo");
        assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        target.join("debug")
    });
    directory.join(name).to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn a_foreign_selector_is_refused() {
    let (status, output) = Fixture::start(&program("forkio-unpatched"), &[]).finish();
    assert!(status.success(), "{status}\n{output}");
    assert_eq!(output, "refused\n");
}

macro_rules! symptoms {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(&program("symptoms"), $scenario);
        }
    )*};
}

symptoms! {
    threads_that_are_not_there: "threads-that-are-not-there",
    blocking_pool: "blocking-pool",
    parent_goes_deaf: "parent-goes-deaf",
    registered_twice: "registered-twice",
    stolen_wake: "stolen-wake",
    stolen_signal: "stolen-signal",
    stolen_signal_fresh_runtime: "stolen-signal-fresh-runtime",
    one_queue: "one-queue",
    connection_stays_open: "connection-stays-open",
    lock_in_pre_exec: "lock-in-pre-exec",
    audit: "audit",
}
