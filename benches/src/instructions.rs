//! User-level instructions per operation, as callgrind counts them.
//!
//! Times are noisy, and a machine may not let a program read its processor's counters. Valgrind counts what it executes:
//! the same program gives the same number, whatever else the machine does. The kernel's instructions are not in it.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Contender, Operation};

/// Instructions of one operation.
///
/// `program` is run twice as `program --run CONTENDER TIMES OPERATION`; in the difference nothing is left of what comes
/// before and after the operations.
///
/// # Errors
///
/// If valgrind cannot be run, or the program fails in it.
pub fn count(program: &Path, contender: &Contender, operation: Operation) -> io::Result<f64> {
    let times = operation.times_to_count();
    let start = |times: u64| {
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["--run", contender.name, &times.to_string(), operation.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run valgrind, is it installed? {error}")))
    };
    let (few, many) = (start(times)?, start(3 * times)?);
    let (few, many) = (collected(few), collected(many));
    Ok((many? - few?) / (2 * times) as f64)
}

/// What callgrind says it has collected, at its end.
fn collected(valgrind: Child) -> io::Result<f64> {
    let output = valgrind.wait_with_output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    let count = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match count {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(io::Error::other(format!("valgrind ended with {}:\n{log}", output.status))),
    }
}
