//! The command line.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use clap::Parser;
use clap::builder::styling::Styles;
use clap::error::ErrorKind;
use forkio::ServerOptions;

use crate::access_log;

pub(crate) const NAME: &str = "prefork-http";

/// The exit code for a mistake in the command line.
pub(crate) const USAGE: u8 = 2;

/// The largest table whose numbers fit into 32 bits.
const MAX_PRELOAD_MIB: usize = 16 * 1024;

/// Serves HTTP/1.1 from several processes, forked from one running tokio runtime
///
/// The supervisor binds the listeners, starts a timer and loads a table, then forks the
/// workers, which continue from that state. A worker that dies is replaced, and only the
/// requests it was serving are lost. The supervisor serves nothing.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP, styles = Styles::plain(), verbatim_doc_comment)]
pub(crate) struct Options {
    /// Size of the table that the workers share, in MiB
    #[arg(long, value_name = "MIB", default_value = "4", value_parser = mebibytes)]
    pub(crate) preload_mib: usize,

    /// Load the table in a template process, so that a reload loads it again
    #[arg(long)]
    pub(crate) load_in_template: bool,

    /// Speak HTTP/2 too, without TLS
    #[arg(long)]
    pub(crate) http2: bool,

    /// Append the log to this file instead of standard error; USR1 opens it again
    #[arg(long, value_name = "PATH")]
    pub(crate) log_file: Option<PathBuf>,

    /// Write a line for each request to standard output
    #[arg(long, value_name = "FORMAT")]
    pub(crate) access_log: Option<access_log::Format>,

    /// Append the access log to this file instead of standard output; USR1 opens it again
    #[arg(long, value_name = "PATH", requires = "access_log")]
    pub(crate) access_log_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

const AFTER_HELP: &str = "\
Requests:
  GET /          Hello, World!
  GET /status    JSON: which worker this is, what it has done, the memory it uses
  GET /table/N   entry N of the table: the smallest prime factor of N
  GET /sleep/MS  an answer after MS milliseconds (at most 60000), to watch a drain
  GET /pid       the process id of the worker
  GET /readyz    200, or 503 when load balancers should send no more connections

The server listens at 127.0.0.1:8080, unless there is a --listen.

Which worker accepts a connection:
  shared             one of the sleeping workers; all workers share one queue
  reuseport          a worker chosen by the client's address; each worker has its own queue
  reuseport-per-cpu  the worker on the CPU that the connection arrives on
  balanced           a worker with less than a quarter more connections open than the mean

Signals to the supervisor, which is the process that you start:
  TERM, INT   stop: accept no more, finish requests in flight; a second one kills the workers
  QUIT        stop at once
  HUP         reload: start new workers, then retire the old ones
  USR1        open the log files again
  USR2        upgrade: start this program's file again, and hand the listeners to it
  TTIN, TTOU  one worker more, one fewer
  WINCH       retire all workers, until HUP, TTIN or TTOU; ignored in the foreground of a terminal
  KILL        the workers notice, and stop

Listeners from a socket unit (LISTEN_FDS) with the address of a --listen are used instead of
new ones. With NOTIFY_SOCKET, the server tells the service manager when it is ready,
reloads and stops.

Standard output has one line per listener, once the workers are ready. Logs go to
standard error; the environment variable RUST_LOG=debug shows each request.

Formats of the access log:
  common     Apache's common log format: peer, time, request, status, body bytes (- for none)
  combined   like common, with referer and user agent
  json       also version, duration in seconds, worker index, process id and generation
A line is written when the whole response is in the connection's buffer. It has no status
(- or null) if the connection ended before the handler answered. Malformed requests, which
get the status 400 or 431, are not logged.

Exit codes:
  0    stopped by a signal; every request was answered
  1    failed: the workers could not be started, or requests were cut off when stopping
  2    the command line has a mistake, or an address is in use
  137  a worker was killed: it did not stop in time, or a second signal or QUIT killed it
  Other codes are those of a worker that could not start, or failed when stopping.

Examples:
  prefork-http
  prefork-http --listen 0.0.0.0:8080 --listen '[::1]:8080' --workers 4
  prefork-http --workers 2 --worker-threads 4
  prefork-http --status 127.0.0.1:9100 --control /run/prefork-http.sock    # see also forkioctl
  prefork-http --access-log json --access-log-file /var/log/prefork-http/access.json
  prefork-http --preload-mib 512    # compare rss_kib and pss_kib in /status";

impl Options {
    /// Parses the command line. Prints the help, the version, or one line about a mistake. In these cases, returns the exit code
    /// with which the program must end.
    pub(crate) fn from_args() -> Result<Options, u8> {
        Options::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
                Ok(()) => 0,
                Err(_) => 1,
            },
            _ => {
                // The first paragraph is the mistake. The others are the usage and possibly a tip.
                let text = error.render().to_string();
                let mistake = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
                let mistake = mistake.split_whitespace().collect::<Vec<_>>().join(" ");
                eprintln!("{NAME}: {mistake}; see {NAME} --help");
                USAGE
            }
        })
    }

    pub(crate) fn workers(&self) -> usize {
        self.server.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get))
    }
}

fn mebibytes(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size| (1..=MAX_PRELOAD_MIB).contains(size))
        .ok_or_else(|| format!("give a whole number from 1 to {MAX_PRELOAD_MIB}"))
}
