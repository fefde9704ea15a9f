//! Checks the assumptions of the kqueue backend: on Linux against each kernel of the model, on other systems against the
//! kernel. The program forks, so it runs without the test harness.
//!
//! The sentences are from FreeBSD's manual of July 27, 2026 (`lib/libsys/kqueue.2` at commit 0e3a044e4c4b). Words in
//! parentheses are not from the manual. The section `15.1` has our own sentences about the behaviour of FreeBSD
//! 15.1-RELEASE-p1 that its manual does not describe.
//!
//! The exit status is 0 if the kernel fulfils every sentence about the features that it has.

mod forks;
#[allow(dead_code, unused_imports, reason = "the backend uses more of this module, partly on some systems only")]
#[path = "../../../../reactor/src/sys/kqueue/kernel.rs"]
mod kernel;
mod nested;
mod sentences;
mod signals;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether a sentence holds, or `None` if the kernel does not have the feature that the sentence is about.
type Check = fn() -> Option<bool>;

/// The section of the sentence, the sentence, and a check of it.
type Sentence = (&'static str, &'static str, Check);

fn main() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("FORKIO_KQUEUE_MODEL").is_none() {
        check_all_kernels();
        return;
    }
    let lists = [sentences::SENTENCES, signals::SENTENCES, forks::SENTENCES, nested::SENTENCES];
    let (mut held, mut failed) = (0, 0);
    for (section, sentence, check) in lists.into_iter().flatten() {
        let verdict = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Some(true)) => "holds",
            Ok(None) => "not here",
            Ok(Some(false)) | Err(_) => "FAILS",
        };
        held += u32::from(verdict == "holds");
        failed += u32::from(verdict == "FAILS");
        println!("{verdict:8} {section}: {sentence}");
    }
    // Print the result in the format of the test harness: `tests/freebsd/run` adds up the results of all programs.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {held} passed; {failed} failed");
    std::process::exit(i32::from(failed > 0));
}

#[cfg(target_os = "linux")]
fn check_all_kernels() {
    let program = std::env::current_exe().expect("the path of this program");
    let mut failed = Vec::new();
    for (name, _) in forkio_kqueue_model::Kernel::ALL {
        println!("{name}");
        let status = std::process::Command::new(&program).env("FORKIO_KQUEUE_MODEL", name).status();
        if !status.expect("starting this program").success() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "sentences fail with {failed:?}");
}
