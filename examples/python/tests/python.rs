//! Runs `tests/forks.py` with the module that was just built.

use std::path::Path;
use std::process::Command;

#[test]
fn survives_forks() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module");
    std::fs::create_dir_all(&directory).expect("a directory for the module");
    // Cargo builds the module into the directory of the test.
    let built = std::env::current_exe().expect("the test's path");
    let built = built.with_file_name("libforkio_example.so");
    std::fs::copy(built, directory.join("forkio_example.abi3.so")).expect("the module");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forks.py");
    let output = Command::new("python3").arg(script).env("PYTHONPATH", &directory).output().expect("python3");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n", "{text}");
}
