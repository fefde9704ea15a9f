//! The machine, in a few lines.

use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::thread;

/// How many threads wanted a processor lately, for each processor that there is.
pub(crate) fn load() -> f64 {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    load / processors as f64
}

/// What the figures depend on: each a name and what it is here.
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
    ]
}

/// "Linux 6.1.0": without what a distributor appends to it.
fn kernel() -> String {
    let release = said_by("uname", &["-sr"]);
    release.split_once('-').map_or(release.as_str(), |(version, _)| version).to_owned()
}

fn file_limit() -> String {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    limit.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

/// The first line that a program prints.
fn said_by(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return "not installed".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned()
}
