//! Programs that fork on demand, and print the costs: see the package `fork-protocol`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use fork_protocol::Cost;

use crate::data::Data;
use crate::plan::Plan;
use crate::process::Process;

/// A name, a program and its arguments. The argument `N` stands for the number of registrations.
pub(crate) type Contender = (&'static str, &'static str, &'static [&'static str]);

/// Programs that take turns.
#[derive(Debug, Default)]
pub(crate) struct Programs(Vec<Program>);

#[derive(Debug)]
struct Program {
    case: String,
    name: &'static str,
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    costs: Vec<Cost>,
}

impl Programs {
    /// Starts the contenders of a case. Leaves out contenders that cannot be started, with a note.
    pub(crate) fn start(
        &mut self,
        plan: &Plan,
        data: &mut Data,
        case: &str,
        contenders: &[Contender],
        registrations: usize,
        more: &[String],
    ) {
        for (name, path, args) in contenders {
            let number = registrations.to_string();
            let mut command = Command::new(plan.program(path));
            command.args(args.iter().map(|arg| if *arg == "N" { &number } else { *arg })).args(more);
            match Program::start(case, name, command) {
                Ok(program) => self.0.push(program),
                Err(error) => data.note(format!("{case}, {name}: not measured: {path}: {error}")),
            }
        }
    }

    /// Lets the programs fork in turn. Each round begins with the next program. Notes programs that fail, and leaves
    /// them out.
    pub(crate) fn take_turns(
        mut self,
        data: &mut Data,
        rounds: usize,
        add: impl Fn(&mut Data, &str, &str, Cost),
    ) -> io::Result<()> {
        for round in 0..=rounds {
            let number = self.0.len();
            let mut failed = BTreeMap::new();
            for turn in 0..number {
                let index = (round + turn) % number;
                match self.0[index].fork() {
                    // The first round is not counted: caches are cold.
                    Ok(_) if round == 0 => {}
                    Ok(cost) => self.0[index].costs.push(cost),
                    Err(error) => drop(failed.insert(index, error)),
                }
            }
            // Removing a program changes the indices of those after it.
            while let Some((index, error)) = failed.pop_last() {
                let Program { case, name, .. } = self.0.remove(index);
                data.note(format!("{case}, {name}: not measured: {error}"));
            }
        }
        for Program { case, name, costs, .. } in &self.0 {
            costs.iter().for_each(|cost| add(data, case, name, *cost));
        }
        Ok(())
    }
}

impl Program {
    fn start(case: &str, name: &'static str, mut command: Command) -> io::Result<Program> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(piped)?;
        let (stdin, stdout) = process.pipes()?;
        let (case, stdout) = (case.to_owned(), BufReader::new(stdout));
        let mut program = Program { case, name, process, stdin, stdout, costs: Vec::new() };
        match program.line()?.as_str() {
            "ready" => Ok(program),
            other => Err(io::Error::other(format!("the program printed {other:?} instead of \"ready\""))),
        }
    }

    fn fork(&mut self) -> io::Result<Cost> {
        self.stdin.write_all(b"go\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::other(self.process.last_error_line()?));
        }
        Ok(line.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both programs fail in the last round.
    #[test]
    fn each_program_that_fails_is_noted() {
        let start = |name| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo ready; for round in 0 1; do read go; echo '{}'; done; read go"]);
            Program::start("case", name, command).unwrap()
        };
        let mut data = Data::default();
        let programs = Programs(vec![start("first"), start("second")]);
        programs.take_turns(&mut data, 2, |_, _, name, _| panic!("{name} lacks a round")).unwrap();
        assert_eq!(data.notes.len(), 2, "{:?}", data.notes);
    }
}
