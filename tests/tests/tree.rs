//! Random operations over a tree of processes; see [`forkio_tests::tree`].
// Readiness is modelled as epoll reports it.
#![cfg(epoll)]

use std::cell::RefCell;
use std::path::Path;

use forkio_tests::tree::driver::{Driver, Root};
use forkio_tests::tree::operation::sequences;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

const CASES: u32 = 2048;

fn nothing_is_found(root: Root) {
    let program = Path::new(env!("CARGO_BIN_EXE_fixture-tree"));
    let driver = RefCell::new(None);
    let has_failed = RefCell::new(false);
    // PROPTEST_CASES and the like hold too.
    let config = Config { failure_persistence: None, ..Config::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { CASES };
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 4096, max_shrink_time: 60_000, ..config });
    let result = runner.run(&sequences(), |operations| {
        let mut driver = driver.borrow_mut();
        // Once something was found: each from the beginning, so that it does not depend on those before.
        let mut tree = match driver.take() {
            Some(tree) if !*has_failed.borrow() => tree,
            _ => Driver::start(program, root).map_err(TestCaseError::fail)?,
        };
        match tree.run(&operations) {
            Ok(()) => {
                *driver = Some(tree);
                Ok(())
            }
            Err(error) => {
                has_failed.replace(true);
                let output = tree.wreck();
                Err(TestCaseError::fail(format!("{error}\n{output}")))
            }
        }
    });
    if let Some(tree) = driver.take() {
        let forks_ahead = tree.forks_ahead();
        tree.stop().expect("ending the tree");
        assert!(cases < CASES || forks_ahead > CASES as usize / 10, "{forks_ahead} forks as prepared ahead");
    }
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, operations)) => {
            let case = serde_json::to_string(&operations).expect("JSON");
            panic!("{reason}\nthe case, for `fixture-tree replay`:\n{case}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn tree() {
    nothing_is_found(Root::Alone);
}

/// The first process has a second thread, which makes registrations count themselves at the gate.
#[test]
fn tree_with_a_thread() {
    nothing_is_found(Root::WithThread);
}

/// Half of the forks are by others, and the handlers do what they can to be as good.
#[test]
fn tree_with_forks_by_others() {
    nothing_is_found(Root::WithHandlers);
}
