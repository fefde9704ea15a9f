//! The processes, and two ways to drive them by hand.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forkio_reactor::fork::atfork;
use forkio_tests::tree::driver::{Driver, Root};
use forkio_tests::tree::operation::{Operation, sequences};
use forkio_tests::tree::process::{BLOCKS, BYTES, obey};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// Counts what is in use.
struct Counting;

// SAFETY: passes on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        BYTES.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub(super) fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["root", directory, peers] => obey(Path::new(directory), peers),
        ["root-with-thread", directory, peers] => {
            // It holds nothing, and ends with the process.
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
            obey(Path::new(directory), peers);
        }
        ["root-with-handlers", directory, peers] => {
            atfork::install().expect("installing handlers");
            obey(Path::new(directory), peers);
        }
        ["replay"] => replay(Root::Alone),
        ["replay", "--thread"] => replay(Root::WithThread),
        ["replay", "--handlers"] => replay(Root::WithHandlers),
        ["soak", seconds] => soak(Duration::from_secs(seconds.parse().expect("a number of seconds"))),
        _ => {
            eprintln!("usage: fixture-tree replay [--thread|--handlers] < case.json\n       fixture-tree soak SECONDS");
            std::process::exit(2);
        }
    }
}

fn start(root: Root) -> Driver {
    let program = std::env::current_exe().expect("this program's path");
    Driver::start(&program, root).expect("starting a tree")
}

/// Runs the case on standard input.
fn replay(root: Root) {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("reading the case");
    let operations: Vec<Operation> = serde_json::from_str(&text).expect("a case in JSON");
    let mut driver = start(root);
    if let Err(error) = driver.run(&operations) {
        eprintln!("{error}\n{}", driver.wreck());
        std::process::exit(1);
    }
    driver.stop().expect("ending the tree");
    println!("all is as it must be");
}

/// How much more memory the root may use at rest than after the first minute: room for what the allocator keeps.
const GROWTH_KIB: usize = 1024;
/// Blocks of memory in use at rest vary with the room that vectors have kept.
const GROWTH_BLOCKS: usize = 64;

fn soak(duration: Duration) {
    let mut runner = TestRunner::default();
    let sequences = sequences();
    let start_time = Instant::now();
    let mut trees = Root::ALL.map(start);
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
                eprintln!("{}", tree.wreck());
            }
            std::process::exit(1);
        }
        cases += 1;
        if start_time.elapsed() < next_report {
            continue;
        }
        let now = trees.each_ref().map(|tree| tree.at_rest().clone());
        println!(
            "{:>5} s  {cases:>8} cases  descriptors {:?}  resident KiB {:?}  blocks {:?}  bytes {:?}",
            start_time.elapsed().as_secs(),
            now.each_ref().map(|rest| rest.descriptors.len()),
            now.each_ref().map(|rest| rest.resident_kib),
            now.each_ref().map(|rest| rest.blocks),
            now.each_ref().map(|rest| rest.bytes),
        );
        let first = first.get_or_insert_with(|| now.clone());
        for (first, now) in first.iter().zip(&now) {
            let grown = now.resident_kib > first.resident_kib + GROWTH_KIB || now.blocks > first.blocks + GROWTH_BLOCKS;
            if grown || first.descriptors != now.descriptors {
                eprintln!("it grows: {first:?} after the first minute, {now:?} now");
                std::process::exit(1);
            }
        }
        if start_time.elapsed() >= duration {
            break;
        }
        next_report = (next_report + Duration::from_secs(60)).min(duration);
    }
    for tree in trees {
        tree.stop().expect("ending a tree");
    }
    println!("{cases} cases in {duration:?}, and nothing found");
}
