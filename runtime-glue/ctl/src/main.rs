//! Shows and controls a prefork server built on the crate `forkio`, over the server's control socket.
//!
//! ```sh
//! forkioctl --control /run/app.sock status --watch
//! forkioctl --control /run/app.sock reload && echo "the new generation serves"
//! ```

mod client;
mod command;
mod options;
mod state;
mod status;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use crate::options::{Action, Options};

/// Why the program failed.
#[derive(Debug)]
enum Failure {
    /// The server refused the command, or could not carry it out.
    Refused(String),
    /// The output cannot be written.
    Output(String),
    /// The server cannot be reached, does not answer, or sends an answer that cannot be understood.
    Unreachable(String),
    /// The command was not done within `--timeout`.
    TimedOut(String),
}

impl Failure {
    /// Returns the exit code that the help documents.
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Output(_) => 1,
            Failure::Unreachable(_) => 3,
            Failure::TimedOut(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Refused(text) | Failure::Output(text) | Failure::Unreachable(text) | Failure::TimedOut(text)) =
            self;
        f.write_str(text)
    }
}

/// Writes to standard output. Returns false if the reader has closed the pipe.
///
/// # Errors
///
/// [`Failure::Output`].
fn print(text: &[u8]) -> Result<bool, Failure> {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Output(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes a line to standard error, if that is possible.
fn report(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit_code) => return ExitCode::from(exit_code),
    };
    let done = match &options.action {
        Action::Status { watch, json } => status::show(&options.control, *watch, *json),
        Action::Reload(wait) => command::run(&options.control, "reload", "/control/reload", wait),
        Action::Scale { workers, wait } => {
            command::run(&options.control, "scale", &format!("/control/scale?workers={workers}"), wait)
        }
        Action::Retire { worker, wait } => {
            command::run(&options.control, "retire", &format!("/control/retire?worker={worker}"), wait)
        }
        Action::Upgrade(wait) => command::run(&options.control, "upgrade", "/control/upgrade", wait),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(format_args!("{}: {failure}", options::NAME));
            ExitCode::from(failure.exit_code())
        }
    }
}
