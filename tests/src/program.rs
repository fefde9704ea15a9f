//! Programs that a scenario starts.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::process::{kill, until, wait_until};
use crate::scenario::RUN;

/// A running program in the process group of the scenario. It is killed on drop.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts a function of this test binary that has the attribute `program`. `name` has the form of a scenario's
    /// name. The function gets `args` from [`arguments()`](crate::arguments).
    #[track_caller]
    pub fn start(name: &str, args: &[&str]) -> Program {
        Program::spawn(Program::command(name).args(args))
    }

    /// Returns the command that [`start`](Program::start) runs, for a program that needs an environment of its own.
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

    /// Starts a function as [`start`](Program::start) does, and reads its first line, such as the address of a server.
    #[track_caller]
    pub fn start_announced(name: &str, args: &[&str]) -> (Program, String) {
        let mut program = Program::start(name, args);
        let line = program.line();
        (program, line)
    }

    /// Returns the process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends a signal to the process.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
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
        let status = until("the program has ended", || self.child.try_wait().expect("waiting for a program"));
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

    /// Stops a server by SIGTERM, and checks that the server exits with 0. Returns its output.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        self.finish_well()
    }

    /// Kills the program. Returns its standard error.
    pub fn kill(mut self) -> String {
        let _has_ended = self.child.kill();
        self.errors()
    }

    /// Reads the program's standard error until every process that can write to it has ended.
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

/// Returns the path of a program of the package `forkio-examples`. Cargo puts these programs into a directory
/// `examples` beside this program or, if this program is a test binary, beside its directory.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let path = Path::new("examples").join(name);
    let program = own.ancestors().map(|directory| directory.join(&path)).find(|program| program.exists());
    program.unwrap_or_else(|| panic!("{} is missing: run `cargo build --example {name}` first", path.display()))
}

/// Returns the address in a line such as `listening on http://127.0.0.1:8080 (2 workers)`.
pub fn announced_address(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("listening on http://")?.split_whitespace().next()?.parse().ok()
}

/// The output of a running program, which a thread reads.
#[derive(Debug)]
pub struct Log {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Log {
    /// Starts to read.
    pub fn read(mut pipe: impl Read + Send + 'static) -> Log {
        let text = Arc::new(Mutex::new(String::new()));
        let read = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                let more = String::from_utf8_lossy(&bytes[..length]);
                read.lock().unwrap_or_else(PoisonError::into_inner).push_str(&more);
            }
        });
        Log { text, reader }
    }

    /// Returns the output so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the output contains a text this many times.
    #[track_caller]
    pub fn wait_for(&self, what: &str, times: usize) {
        wait_until(&format!("{what:?} is logged"), || self.text().matches(what).count() >= times);
    }

    /// Waits until every process that can write to the output has ended.
    #[track_caller]
    pub fn wait_for_end(&self) {
        wait_until("the whole output is read", || self.reader.is_finished());
    }
}

pub(crate) fn read_in_background(mut source: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
