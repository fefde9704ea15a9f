//! The measurement of the distributions runs, and finds what they promise.

use std::process::Command;

#[test]
fn balanced_is_balanced() {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.ancestors().nth(2).expect("target/PROFILE").join("examples/distribution");
    let output = Command::new(&program).arg("--quick").output().expect("running the program");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}\n{stdout}", String::from_utf8_lossy(&output.stderr));
    let rows = stdout.lines().filter_map(|line| line.strip_prefix("| `Balanced` |"));
    let cells: Vec<Vec<&str>> = rows.map(|row| row.trim_end_matches('|').split('|').map(str::trim).collect()).collect();
    let [bursts, one_at_a_time, killed] = cells.as_slice() else { panic!("three tables, not:\n{stdout}") };
    for cell in bursts.iter().chain(one_at_a_time) {
        let ratio: f64 = cell.split(' ').next().and_then(|ratio| ratio.parse().ok()).expect("a ratio");
        assert!((1.0..=1.25).contains(&ratio), "{stdout}");
    }
    assert_eq!(killed[2], "0", "lost in a queue:\n{stdout}");
}
