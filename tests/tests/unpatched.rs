//! What cannot be forked because of how it was built is refused with an error that says what to do. Each program is a
//! workspace of its own, because patches and features hold for a whole workspace.

use std::path::Path;
use std::process::Command;

#[track_caller]
fn is_refused(workspace: &str) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(workspace).join("Cargo.toml");
    // Its own, so that it does not wait for the lock of the build that runs this test.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(workspace);
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .output()
        .expect("running cargo");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "refused\n", "{text}");
}

/// A user who forgot the patch.
#[test]
fn a_foreign_selector_is_refused() {
    is_refused("unpatched");
}

/// A user whose tokio has the feature `full`, in a process with threads.
#[test]
fn parking_lot_is_refused() {
    is_refused("parking-lot");
}
