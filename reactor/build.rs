//! Cargo requires a build script for the key `links` in the manifest. Nothing is linked. The key makes cargo refuse a program
//! with two versions of this crate: each would have its own tables of the process's selectors.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
