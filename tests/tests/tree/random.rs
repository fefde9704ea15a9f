//! Random cases.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use forkio_reactor::fork::atfork;
use forkio_tests::{arguments, rounds, scenarios};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::driver::{Driver, Root};
use crate::operation::{Operation, sequences};
use crate::process;

/// How many cases to run, unless the environment variable `PROPTEST_CASES` says otherwise.
const CASES: usize = 512;

/// Runs random cases. Panics with the shortest case that fails.
fn check(root: Root) {
    // `Config::default` reads proptest's other environment variables.
    let config = Config { failure_persistence: None, ..Config::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { rounds(CASES) as u32 };
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 4096, max_shrink_time: 60_000, ..config });
    let driver = RefCell::new(None);
    let has_failed = Cell::new(false);
    let result = runner.run(&sequences(), |operations| {
        // After a failure each case starts with a new tree, so that it does not depend on earlier cases.
        let mut tree: Driver = match driver.take() {
            Some(tree) if !has_failed.get() => tree,
            _ => Driver::start(root).map_err(TestCaseError::fail)?,
        };
        match tree.run(&operations) {
            Ok(()) => {
                driver.replace(Some(tree));
                Ok(())
            }
            Err(error) => {
                let error = format!("{error}\n{}", tree.kill());
                if !has_failed.replace(true) {
                    // Print the first case too, because the shortest case may fail for another reason.
                    let case = serde_json::to_string(&operations).expect("JSON");
                    eprintln!("the first case that fails:\n{case}\n{error}");
                }
                Err(TestCaseError::fail(error))
            }
        }
    });
    if let Some(tree) = driver.take() {
        let forks = tree.prepared_forks();
        tree.stop().expect("ending the tree");
        assert!(
            result.is_err() || (cases as usize) < CASES || forks > CASES / 10,
            "only {forks} forks were prepared in advance"
        );
    }
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, operations)) => {
            let case = serde_json::to_string(&operations).expect("JSON");
            panic!("{reason}\nthe case:\n{case}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// How many KiB a process's resident memory may grow after the first minute, because the allocator keeps memory.
const GROWTH_KIB: usize = 1024;
/// How many blocks of memory a process may gain after the first minute, because vectors have spare capacity.
const GROWTH_BLOCKS: usize = 64;

/// Runs random cases for a time, on each kind of tree in turn. Ends the process if a case fails, if memory grows, or if
/// descriptors change.
fn run_for(duration: Duration) {
    let mut runner = TestRunner::default();
    let sequences = sequences();
    let start = Instant::now();
    let mut trees = Root::ALL.map(|root| Driver::start(root).expect("starting a tree"));
    let mut cases = 0_u64;
    let mut first = None;
    let mut next_report = Duration::from_secs(60).min(duration);
    loop {
        let operations = sequences.new_tree(&mut runner).expect("a case").current();
        let tree = (cases % trees.len() as u64) as usize;
        if let Err(error) = trees[tree].run(&operations) {
            let case = serde_json::to_string(&operations).expect("JSON");
            eprintln!("case {cases} ({:?}):\n{case}\n{error}", Root::ALL[tree]);
            for tree in trees {
                eprintln!("{}", tree.kill());
            }
            std::process::exit(1);
        }
        cases += 1;
        if start.elapsed() < next_report {
            continue;
        }
        let now = trees.each_ref().map(|tree| tree.baseline().clone());
        println!(
            "{:>5} s  {cases:>8} cases  descriptors {:?}  resident KiB {:?}  blocks {:?}  bytes {:?}",
            start.elapsed().as_secs(),
            now.each_ref().map(|process| process.descriptors.len()),
            now.each_ref().map(|process| process.resident_kib),
            now.each_ref().map(|process| process.blocks),
            now.each_ref().map(|process| process.bytes),
        );
        let first = first.get_or_insert_with(|| now.clone());
        for (first, now) in first.iter().zip(&now) {
            let grown = now.resident_kib > first.resident_kib + GROWTH_KIB || now.blocks > first.blocks + GROWTH_BLOCKS;
            if grown || first.descriptors != now.descriptors {
                eprintln!("a process has grown, or has other descriptors: {first:?} at first, {now:?} now");
                std::process::exit(1);
            }
        }
        if start.elapsed() >= duration {
            break;
        }
        next_report = (next_report + Duration::from_secs(60)).min(duration);
    }
    for tree in trees {
        tree.stop().expect("ending a tree");
    }
    println!("{cases} cases in {duration:?}, none failed");
}

scenarios!(
    /// Runs random cases on a tree of processes with one thread. Up to half of the forks are unplanned.
    #[limit(1800)]
    fn one_thread() {
        check(Root::OneThread);
    }

    /// Runs random cases on a tree whose first process has a second thread.
    #[limit(1800)]
    fn two_threads() {
        check(Root::TwoThreads);
    }

    /// Runs random cases on a tree whose children of unplanned forks reconcile at once, not when they first use a selector.
    #[limit(1800)]
    fn reconciling_at_once() {
        check(Root::Handlers);
    }

    /// The first process of a tree. The arguments are the kind of tree, the directory of the driver's sockets, and the
    /// address of the driver's TCP listener.
    #[program]
    fn root() {
        let [kind, directory, address] = arguments().try_into().expect("three arguments");
        match kind.parse().expect("a kind of tree") {
            Root::OneThread => {}
            Root::TwoThreads => {
                // The thread holds no lock, and ends with the process.
                std::thread::spawn(|| {
                    loop {
                        std::thread::park();
                    }
                });
            }
            Root::Handlers => atfork::install().expect("installing handlers"),
        }
        process::run(Path::new(&directory), &address);
    }

    /// Runs the case on standard input again. The argument is the kind of tree, if it is not `one-thread`.
    #[program]
    fn replay() {
        let root = arguments().first().map_or(Ok(Root::OneThread), |kind| kind.parse()).expect("a kind of tree");
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).expect("reading the case");
        let operations: Vec<Operation> = serde_json::from_str(&text).expect("a case in JSON");
        let mut driver = Driver::start(root).expect("starting a tree");
        if let Err(error) = driver.run(&operations) {
            eprintln!("{error}\n{}", driver.kill());
            std::process::exit(1);
        }
        driver.stop().expect("ending the tree");
        println!("the case passes");
    }

    /// Runs random cases. The argument is the number of seconds.
    #[program]
    fn soak() {
        let [seconds] = arguments().try_into().expect("one argument");
        run_for(Duration::from_secs(seconds.parse().expect("a number of seconds")));
    }
);
