//! Programs that a scenario starts.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::limit;
use crate::scenario::RUN;

/// A running program in the process group of the scenario. It is killed on drop.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts a function of this test binary that has the attribute `program`. Its name has the form of a scenario's name.
    /// The function gets `args` from [`arguments()`](crate::arguments).
    #[track_caller]
    pub fn start(name: &str, args: &[&str]) -> Program {
        Program::spawn(Program::command(name).args(args))
    }

    /// The command that [`start`](Program::start) runs, for a program that needs an environment of its own.
    #[track_caller]
    pub fn command(name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args([RUN, name]);
        command
    }

    /// Starts a program with its standard streams piped to this process.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Program {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Program { child: command.spawn().expect("starting a program") }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a program").is_some()
    }

    /// Reads a line of the program's standard output, without the end of the line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let output = self.child.stdout.as_mut().expect("standard output is piped");
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match output.read(&mut byte).expect("reading the program's output") {
                0 => panic!("the program ended after {:?}: {}", String::from_utf8_lossy(&line), self.errors()),
                _ if byte[0] == b'\n' => return String::from_utf8(line).expect("programs print UTF-8"),
                _ => line.push(byte[0]),
            }
        }
    }

    /// Writes a line to the program's standard input.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("standard input is piped");
        writeln!(input, "{line}").expect("writing to the program");
    }

    /// Closes the program's input and waits for the program and for every process that inherited its output. Returns
    /// the program's status and all output that was not read yet.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        // Threads read, because the program blocks if either pipe is full.
        let [stdout, stderr] = [
            read_in_background(self.child.stdout.take().expect("standard output is piped")),
            read_in_background(self.child.stderr.take().expect("standard error is piped")),
        ];
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a program") {
                break status;
            }
            assert!(start.elapsed() < limit(), "the program still runs after {:?}", limit());
            std::thread::sleep(Duration::from_millis(2));
        };
        let output = [stdout, stderr].map(|reader| reader.join().expect("reading the program's output")).concat();
        (status, output)
    }

    /// Waits as [`finish`](Program::finish) does, and checks that the program exited with 0. Returns its output.
    #[track_caller]
    pub fn finish_well(self) -> String {
        let (status, output) = self.finish();
        assert!(status.success(), "{status}\n{output}");
        output
    }

    /// Kills the program. Returns its standard error.
    pub fn kill(mut self) -> String {
        let _has_ended = self.child.kill();
        self.errors()
    }

    /// The standard error of the program, once its writers have ended.
    pub fn errors(&mut self) -> String {
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _unreadable = stderr.read_to_string(&mut errors);
        }
        errors
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end on a thread of its own.
pub(crate) fn read_in_background(mut source: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
