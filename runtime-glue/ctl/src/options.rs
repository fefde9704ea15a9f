//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) const NAME: &str = "forkioctl";

/// Shows and controls a prefork server built on forkio, over its control socket
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// The control socket of the server: the path that the server got as --control
    #[arg(long, short, value_name = "PATH", env = "FORKIO_CONTROL")]
    pub(crate) control: PathBuf,

    #[command(subcommand)]
    pub(crate) action: Action,
}

const AFTER_HELP: &str = "\
Only root and the user of the supervisor may use the socket.

Exit codes:
  0  done
  1  the server refused the command, the command failed, or the output could not be written; the message says why,
     and the server continues
  2  there is a mistake in the command line
  3  the server cannot be reached, or its answer cannot be understood
  4  the command was not done within --timeout; the server continues it

Examples:
  forkioctl --control /run/app.sock status
  FORKIO_CONTROL=/run/app.sock forkioctl scale 8";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show the server and its workers
    Status {
        /// Show the status again each second, until the program is interrupted
        #[arg(long, short)]
        watch: bool,
        /// Print the JSON of /status.json on the server's status page
        #[arg(long)]
        json: bool,
    },
    /// Start a new generation of workers, then retire the old one
    Reload(Wait),
    /// Change the number of workers
    Scale {
        /// The new number of workers
        workers: usize,
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace a worker: its successor starts first
    Retire {
        /// The index of the worker, from 0
        worker: usize,
        #[command(flatten)]
        wait: Wait,
    },
    /// Start the program of the server again, from its file, and hand the listeners to it
    Upgrade(Wait),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Wait {
    /// Do not wait for the result: return when the server has begun the command
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// How long to wait for the result, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Options {
    /// Parses the command line. If the program must end, prints the help or the mistake, and returns the exit code.
    pub(crate) fn from_args() -> Result<Options, u8> {
        Options::try_parse().map_err(|error| {
            let exit_code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Do not panic if the reader has closed the pipe.
            let _ = error.print();
            exit_code
        })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| "give a number of seconds above 0".to_owned())
}
