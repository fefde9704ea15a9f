//! Cargo requires a build script for the key `links` in the manifest. Nothing is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
