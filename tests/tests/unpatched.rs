//! A user who forgot the patch gets an error that names it, and no process.

use std::path::Path;
use std::process::Command;

#[test]
fn a_foreign_selector_is_refused() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("unpatched/Cargo.toml");
    // Its own, so that it does not wait for the lock of the build that runs this test.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpatched");
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
