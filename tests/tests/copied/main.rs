//! The state that a fork copies beside the runtime: audits, hooks before a fork, buffers and random numbers.

mod audit;
mod before_fork;
mod buffers;

use std::fs;
use std::path::PathBuf;

forkio_tests::main!(audit, before_fork, buffers);

/// A file of this process, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("forkio-{name}-{}", std::process::id())))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A child exits without dropping its `Scratch`, so only this process removes the file.
        let _ = fs::remove_file(&self.0);
    }
}
