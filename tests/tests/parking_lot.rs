//! A user whose tokio has the feature `full` is told why a process with threads cannot be forked. See `parking-lot/src`: a
//! workspace of its own, because features hold for a whole workspace.

use std::path::Path;
use std::process::Command;

#[test]
fn parking_lot_is_refused() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("parking-lot/Cargo.toml");
    // Its own, so that it does not wait for the lock of the build that runs this test.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parking-lot");
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let mut run = Command::new(cargo);
    run.args(["run", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    let output = run.arg("--target-dir").arg(target).output().expect("running cargo");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "refused\n", "{text}");
}
