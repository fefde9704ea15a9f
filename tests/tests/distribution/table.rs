//! The program that measures the distributions.

use std::process::Command;
use std::sync::atomic::Ordering;

use forkio_tests::reactor::*;

use crate::{MAY_BE_EXCLUDED, unless_excluded};

fn measure() {
    // The program does not report how long connections wait, so any worker may have been excluded.
    MAY_BE_EXCLUDED.store(true, Ordering::Relaxed);
    let program = env!("CARGO_BIN_EXE_distribution-table");
    let output = Command::new(program).arg("--quick").output().expect("running the program");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}\n{stdout}", String::from_utf8_lossy(&output.stderr));
    let rows = stdout.lines().filter_map(|line| line.strip_prefix("| `Balanced` |"));
    let cells = rows.map(|row| row.trim_end_matches('|').split('|').map(str::trim).collect());
    let cells: Vec<Vec<&str>> = cells.collect();
    let [bursts, one_at_a_time, killed] = cells.as_slice() else { panic!("not three tables:\n{stdout}") };
    for cell in bursts.iter().chain(one_at_a_time) {
        let ratio: f64 = cell.split(' ').next().and_then(|ratio| ratio.parse().ok()).expect("a ratio");
        assert!((1.0..=1.25).contains(&ratio), "{stdout}");
    }
    assert_eq!(killed[2], "0", "connections that were lost in a queue:\n{stdout}");
}

scenarios!(
    /// A short run prints its three tables. `Balanced` stays within its limit, and loses no connection in a queue.
    #[limit(600)]
    fn measured() {
        unless_excluded(measure);
    }
);
