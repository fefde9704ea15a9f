//! What a fork costs, beside libraries that repair their queue in the child.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use forked::Cost;

use crate::Plan;
use crate::data::{BARE_FORK_OF_SAME, Data, Measure};
use crate::process::Process;

/// Who takes part, with which program and arguments; `N` stands for the number of registrations.
type Contender = (&'static str, &'static str, &'static [&'static str]);

const MIXES: [(&str, &[Contender]); 3] = [
    (
        "all inherited",
        &[
            ("forkio", "release/fork-forkio", &["inherit", "N"]),
            (FORKIO_AHEAD, "release/fork-forkio", &["inherit-ahead", "N"]),
            (BARE_FORK_OF_SAME, "release/fork-forkio", &["bare", "N"]),
            ("bare fork", "peers/bare", &["N"]),
            ("raw epoll", "peers/raw-rebuild", &["N"]),
            ("libevent", "peers/libevent", &["N"]),
            ("libuv", "peers/libuv", &["N"]),
            ("libev", "peers/libev", &["N"]),
            ("fresh tokio runtime", "release/fork-fresh-runtime", &["N"]),
        ],
    ),
    ("one listener inherited, the rest no-fork", &[("forkio", "release/fork-forkio", &["no-fork", "N"])]),
    (
        "one listener inherited, the rest severed",
        &[("forkio", "release/fork-forkio", &["sever", "N"]), ("raw epoll", "peers/raw-sever", &["N"])],
    ),
];

/// With everything made before that can be.
pub(crate) const FORKIO_AHEAD: &str = "forkio, prepared ahead";

/// The whole of a runtime, forked as it is, and as a supervisor does.
pub(crate) const RUNTIME: &str = "forkio, a tokio runtime";
pub(crate) const RUNTIME_AHEAD: &str = "forkio, a tokio runtime, prepared ahead";

const RESPONSES: [Contender; 5] = [
    ("bare fork", "release/first-response", &["bare"]),
    ("forkio's reactor", "release/first-response", &["reactor"]),
    (RUNTIME, "forkio/release/first-response-forkio", &[]),
    (RUNTIME_AHEAD, "forkio/release/first-response-forkio", &["ahead"]),
    ("fresh tokio runtime", "release/first-response-fresh-runtime", &[]),
];

/// A case, as the tables name it.
pub(crate) fn case(registrations: usize, mix: &str) -> String {
    format!("{} registrations, {mix}", grouped(registrations))
}

/// The same for the first response.
pub(crate) fn response_case(mebibytes: usize) -> String {
    match mebibytes {
        0 => "a small process".to_owned(),
        _ => format!("{mebibytes} MiB resident"),
    }
}

pub(crate) fn measure(plan: &Plan, data: &mut Data) -> Result<(), Box<dyn Error>> {
    let limit = forked::raise_file_limit()?;
    for registrations in [10, 1_000, 10_000, 100_000] {
        if registrations as u64 + 100 > limit {
            data.note(format!(
                "{} registrations: not measured: the hard limit of open files (RLIMIT_NOFILE) is {limit}, and only a \
                 privileged process can raise it",
                grouped(registrations)
            ));
            continue;
        }
        if plan.quick && registrations > 10_000 {
            continue;
        }
        let rounds = if registrations > 1_000 { plan.rounds(31, 3) } else { plan.rounds(101, 7) };
        // All mixes take turns: the ratio between mixes counts too.
        let mut programs = Vec::new();
        for (mix, contenders) in MIXES {
            start(plan, data, &case(registrations, mix), contenders, registrations, 0, &mut programs);
        }
        take_turns(data, programs, rounds)?;
    }
    // The same with much memory, where fork(2) itself has more to copy.
    let (registrations, mebibytes) = (1_000, 1_024);
    let case = format!("{}, {mebibytes} MiB resident", case(registrations, MIXES[0].0));
    let mut programs = Vec::new();
    start(plan, data, &case, &MIXES[0].1[..5], registrations, mebibytes, &mut programs);
    take_turns(data, programs, plan.rounds(31, 2))?;

    for (mebibytes, rounds) in [(0, plan.rounds(101, 7)), (mebibytes, plan.rounds(31, 2))] {
        let mut programs = Vec::new();
        start(plan, data, &response_case(mebibytes), &RESPONSES, 0, mebibytes, &mut programs);
        take_turns(data, programs, rounds)?;
    }
    Ok(())
}

fn start(
    plan: &Plan,
    data: &mut Data,
    case: &str,
    contenders: &[Contender],
    registrations: usize,
    mebibytes: usize,
    programs: &mut Vec<(String, &'static str, Program)>,
) {
    for (name, path, args) in contenders {
        let number = registrations.to_string();
        let mut command = Command::new(plan.program(path));
        command.args(args.iter().map(|arg| if *arg == "N" { &number } else { *arg })).arg(mebibytes.to_string());
        match Program::start(command) {
            Ok(program) => programs.push((case.to_owned(), name, program)),
            Err(error) => data.note(format!("{case}, {name}: not measured: {path}: {error}")),
        }
    }
}

/// Round by round, each beginning with another one.
fn take_turns(data: &mut Data, mut programs: Vec<(String, &'static str, Program)>, rounds: usize) -> io::Result<()> {
    let mut results = vec![Vec::new(); programs.len()];
    for round in 0..=rounds {
        for turn in 0..programs.len() {
            let index = (round + turn) % programs.len();
            let (case, name, program) = &mut programs[index];
            let cost = program.fork().map_err(|error| io::Error::other(format!("{case}, {name}: {error}")))?;
            // In the first round everything is cold.
            if round != 0 {
                results[index].push(cost);
            }
        }
    }
    for ((case, name, _), costs) in programs.iter().zip(&results) {
        for cost in costs {
            let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
            if cost.response != 0 {
                data.add(Measure::Response, case, name, microseconds(cost.response));
                data.add(Measure::ResponseFaults, case, name, cost.faults as f64);
                continue;
            }
            data.add(Measure::Fork, case, name, microseconds(cost.fork));
            if cost.abort != 0 || *name == BARE_FORK_OF_SAME {
                let whole = cost.prepare + cost.fork + cost.commit + cost.abort;
                data.add(Measure::Replace, case, name, microseconds(whole));
            }
            if name.starts_with("bare fork") {
                continue;
            }
            if cost.abort != 0 {
                data.add(Measure::Prepare, case, name, microseconds(cost.prepare));
                data.add(Measure::Abort, case, name, microseconds(cost.abort));
            }
            data.add(Measure::Commit, case, name, microseconds(cost.commit));
            data.add(Measure::Repair, case, name, microseconds(cost.prepare + cost.commit));
            data.add(Measure::Faults, case, name, cost.faults as f64);
        }
    }
    Ok(())
}

/// A program that forks when it is told to; see the package `forked`.
struct Program {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(mut command: Command) -> io::Result<Program> {
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (stdin, stdout) = process.pipes()?;
        let mut program = Program { process, stdin, stdout: BufReader::new(stdout) };
        match program.line()?.as_str() {
            "ready" => Ok(program),
            other => Err(io::Error::other(format!("said {other:?} instead of being ready"))),
        }
    }

    fn fork(&mut self) -> io::Result<Cost> {
        self.stdin.write_all(b"go\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!("ended with {}", self.process.wait()?)));
        }
        Ok(line.trim().to_owned())
    }
}

/// 10000 as people read it.
pub(crate) fn grouped(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{} {:03}", number / 1_000, number % 1_000),
    }
}
