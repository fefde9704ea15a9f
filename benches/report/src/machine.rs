//! The machine that the figures were measured on.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Measures for a second how much other programs use the processors, from 0 to 1. (The load average would include the build of
/// the benchmarks.)
pub(crate) fn load() -> f64 {
    let before = processor_times();
    thread::sleep(Duration::from_secs(1));
    let after = processor_times();
    let (idle, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
}

/// Returns the idle time and the whole time of the processors, from the first line of `/proc/stat`.
fn processor_times() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<u64> = line.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
    // The fourth field counts idle time, the fifth idle time with a disk request under way.
    (times.iter().skip(3).take(2).sum(), times.iter().take(8).sum())
}

pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processors = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("unknown");
    let large_pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    vec![
        ("processors", format!("{processors} x {}", model.trim_start_matches([' ', '\t', ':']))),
        ("memory", memory.trim().to_owned()),
        ("kernel", kernel()),
        ("C library", said_by("getconf", &["GNU_LIBC_VERSION"])),
        ("compiler", said_by("rustc", &["--version"])),
        ("transparent huge pages", large_pages.trim().to_owned()),
        ("open files", file_limit()),
        ("nginx", said_by("nginx", &["-v"]).trim_start_matches("nginx version: ").to_owned()),
        ("wrk", said_by("wrk", &["-v"])),
        ("valgrind", said_by("valgrind", &["--version"])),
        ("strace", said_by("strace", &["-V"])),
    ]
}

/// Returns the system and its version, such as "Linux 6.1.0", without the distributor's suffix.
fn kernel() -> String {
    let release = said_by("uname", &["-sr"]);
    release.split_once('-').map_or(release.as_str(), |(version, _)| version).to_owned()
}

fn file_limit() -> String {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    limit.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

/// Runs a program, and returns the first line that it prints.
fn said_by(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return "not installed".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned()
}
