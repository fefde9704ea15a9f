//! The command line.

use std::net::SocketAddr;
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use clap::Parser;
use clap::builder::styling::Styles;
use clap::error::ErrorKind;
use forkio::Distribution;

pub(crate) const NAME: &str = "prefork-http";

/// The exit code for a command line that cannot be carried out.
pub(crate) const USAGE: u8 = 2;

const MAX_WORKERS: usize = 1024;
/// Up to here, the numbers in the table fit into 32 bits.
const MAX_PRELOAD_MIB: usize = 16 * 1024;
/// A day.
const MAX_SECONDS: f64 = 86_400.0;

/// Serves HTTP/1.1 from several processes, forked from one running tokio runtime
///
/// The parent binds the listeners, starts a timer and loads a table, then forks the
/// workers, which go on from there. A worker that dies is replaced, and only the
/// requests it was serving are lost. The parent serves nothing, and sleeps.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP, styles = Styles::plain(), verbatim_doc_comment)]
pub(crate) struct Options {
    /// IP address and port to listen on; port 0 takes a free one. Give it again for more listeners
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(crate) listen: Vec<SocketAddr>,

    /// Number of worker processes, 1 to 1024 [default: number of CPUs]
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<usize>,

    /// Number of threads of each worker, 1 to 1024, in a runtime of its own [default: the parent's runtime, on one thread]
    #[arg(long, value_name = "N", value_parser = workers)]
    pub(crate) worker_threads: Option<usize>,

    /// Who gets the next connection: shared, reuseport, reuseport-per-cpu or balanced
    #[arg(long, value_name = "HOW", default_value = "shared", value_parser = distribution)]
    pub(crate) distribution: Distribution,

    /// How long requests in flight may go on after a signal to stop, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = drain)]
    pub(crate) drain: Duration,

    /// How long a client may be idle, or take to send the head of a request, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = header_timeout)]
    pub(crate) header_timeout: Duration,

    /// Size of the table that the parent loads and the workers share, in MiB
    #[arg(long, value_name = "MIB", default_value = "4", value_parser = mebibytes)]
    pub(crate) preload_mib: usize,
}

const AFTER_HELP: &str = "\
What it answers:
  GET /          Hello, World!
  GET /status    JSON: which worker this is, what it has done, the memory it uses
  GET /table/N   entry N of the table: the smallest prime factor of N
  GET /sleep/MS  an answer after MS milliseconds (at most 60000), to see how it drains

Who gets the next connection:
  shared             a worker that sleeps, from one queue for all
  reuseport          by the client's address: each worker has a queue of its own
  reuseport-per-cpu  the worker on the CPU that the connection arrives on
  balanced           one that has no more connections open than the others

Signals to the parent:
  TERM, INT  stop: accept no more, close idle connections, finish requests in flight;
             a second one kills the workers
  KILL       the workers notice, and stop in the same way

Standard output has one line per listener, once the workers are there. Logs go to
standard error; the environment variable RUST_LOG=debug shows each request.

Exit codes:
  0    stopped by a signal, with every request answered
  1    failed: the workers could not be started, or requests were cut off when stopping
  2    the command line cannot be carried out
  137  a worker did not stop in time, and was killed

Examples:
  prefork-http
  prefork-http --listen 0.0.0.0:8080 --listen '[::1]:8080' --workers 4
  prefork-http --workers 2 --worker-threads 4
  prefork-http --preload-mib 512    # compare rss_kib and pss_kib in /status";

impl Options {
    /// The options of this process, or the exit code to end with: the help was asked for, or there is a mistake, which
    /// has been told on standard error in one line.
    pub(crate) fn from_args() -> Result<Options, u8> {
        Options::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
                Ok(()) => 0,
                Err(_) => 1,
            },
            _ => {
                // The first paragraph is the mistake. Those that follow are a tip at most, and the usage.
                let text = error.render().to_string();
                let mistake = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
                let mistake = mistake.split_whitespace().collect::<Vec<_>>().join(" ");
                eprintln!("{NAME}: {mistake}; see {NAME} --help");
                USAGE
            }
        })
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

fn distribution(text: &str) -> Result<Distribution, String> {
    match text {
        "shared" => Ok(Distribution::Shared),
        "reuseport" => Ok(Distribution::ReusePort),
        "reuseport-per-cpu" => Ok(Distribution::ReusePortPerCpu),
        "balanced" => Ok(Distribution::Balanced),
        _ => Err("give shared, reuseport, reuseport-per-cpu or balanced".to_owned()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    in_range(text, 1, MAX_WORKERS)
}

fn mebibytes(text: &str) -> Result<usize, String> {
    in_range(text, 1, MAX_PRELOAD_MIB)
}

fn in_range(text: &str, min: usize, max: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("give a whole number from {min} to {max}"))
}

fn drain(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0)
}

fn header_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.1)
}

fn seconds(text: &str, min: f64) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (min..=MAX_SECONDS).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("give a number of seconds from {min} to {MAX_SECONDS}, such as 5 or 0.5"))
}
