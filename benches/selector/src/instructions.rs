//! User-level instructions per operation, as callgrind counts them.
//!
//! Times are noisy, and a machine may not let a program read its processor's counters. Valgrind counts the instructions that
//! it executes: the same program gives the same number each time. The count does not include the kernel's instructions.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Contender, Operation};

/// Instructions of one operation by the source file that they come from: "fork/table.rs" for a file of the reactor,
/// "mio: poll.rs" for a file of another crate, "core" and "std" for the standard library, "C library".
pub type Parts = BTreeMap<String, f64>;

/// Counts the instructions of one operation.
///
/// Valgrind runs `program --run CONTENDER TIMES OPERATION` twice, with a different number of repetitions. The difference
/// excludes the instructions before and after the operations.
///
/// # Errors
///
/// If valgrind cannot be run, the program fails in it, or the profile is empty.
pub fn parts(program: &Path, contender: &Contender, operation: Operation) -> io::Result<Parts> {
    let times = operation.times_to_count();
    let start = |times: u64| {
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/stdout"])
            .arg(program)
            .args(["--run", contender.name, &times.to_string(), &operation.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run valgrind: {error}; is it installed?")))
    };
    let (few, many) = (start(times)?, start(3 * times)?);
    let (few, mut parts) = (collected(few)?, collected(many)?);
    for (part, count) in few {
        *parts.entry(part).or_default() -= count;
    }
    parts.retain(|_, count| {
        *count /= (2 * times) as f64;
        count.abs() >= 0.005
    });
    Ok(parts)
}

/// Reads the profile that callgrind has collected.
fn collected(valgrind: Child) -> io::Result<Parts> {
    let output = valgrind.wait_with_output()?;
    let parts = read_profile(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || parts.is_empty() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("valgrind ended with {}:\n{log}", output.status)));
    }
    Ok(parts)
}

/// Sums up a profile by source file. Valgrind's manual describes the format: "Callgrind Format Specification".
fn read_profile(profile: &str) -> Parts {
    let mut parts = Parts::new();
    // A name is written out once, with a number that replaces it in later lines.
    let mut names = HashMap::new();
    let mut part = String::new();
    let mut is_cost_of_callee = false;
    for line in profile.lines() {
        let line = line.trim();
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fl" | "fi" | "fe" | "cfi" | "cfl" => {
                    let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                    if !name.is_empty() {
                        names.insert(number.to_owned(), part_of(name));
                    }
                    if !key.starts_with('c') {
                        part = names.get(number).cloned().unwrap_or_default();
                    }
                }
                // The next line has the cost of the called function. The lines of that function count it already.
                "calls" => is_cost_of_callee = true,
                _ => {}
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first))
            && !std::mem::take(&mut is_cost_of_callee)
            && let Some(cost) = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<f64>().ok())
        {
            *parts.entry(part.clone()).or_default() += cost;
        }
    }
    parts
}

/// Returns the part that a source file belongs to.
fn part_of(path: &str) -> String {
    if let Some((_, in_reactor)) = path.rsplit_once("reactor/src/") {
        return in_reactor.to_owned();
    }
    if let Some((_, in_library)) = path.split_once("/library/") {
        return in_library.split('/').next().unwrap_or_default().to_owned();
    }
    // The directory of a crate from the registry has a name such as `mio-1.2.5`.
    if let Some((before, file)) = path.rsplit_once("/src/") {
        let package = before.rsplit('/').next().unwrap_or_default();
        let name = package.rsplit_once('-').map_or(package, |(name, _version)| name);
        return match name {
            "selector" => "the benchmark".to_owned(),
            _ => format!("{name}: {file}"),
        };
    }
    // The paths of glibc are relative; code that the linker makes has no path.
    "C library".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_summed_up_by_files() {
        let profile = "\
events: Ir
fl=(1) /somewhere/reactor/src/registry.rs
fn=(1) register
12 3
+1 2
fi=(2) /somewhere/reactor/src/fork/table.rs
7 4
fe=(1)
cfi=(3) ./malloc/malloc.c
cfn=(2) malloc
calls=1 30
14 100
* 1

fl=(3)
fn=(2)
30 100
fl=(4) /registry/mio-1.2.2/src/sys/unix/epoll.rs
5 6
fl=(5) /rustc/59807616/library/core/src/cell.rs
1 7
";
        let expected = [("C library", 100.0), ("core", 7.0), ("fork/table.rs", 4.0), ("registry.rs", 6.0)];
        let mut expected: Parts = expected.map(|(part, count)| (part.to_owned(), count)).into();
        expected.insert("mio: sys/unix/epoll.rs".to_owned(), 6.0);
        assert_eq!(read_profile(profile), expected);
    }
}
