//! The options of a server on a command line (feature `clap`).

use std::path::PathBuf;
use std::time::Duration;

use super::Address;
use crate::prefork::http::Http;
use crate::prefork::options::MAX_WORKERS;
use crate::prefork::{Distribution, Prefork};

/// The most seconds that an option accepts: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// Options of a [`Server`](super::Server) on the command line of an application (feature `clap`).
///
/// Flatten them into the application's own options. [`Server::options`](super::Server::options) applies them to a server,
/// and [`apply`](ServerOptions::apply) to a [`Prefork`]. An option that was not given changes nothing.
///
/// # Examples
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use clap::Parser;
/// use forkio::{Server, ServerOptions};
/// # use hyper::{Request, Response};
///
/// /// Greets.
/// #[derive(Parser)]
/// struct Options {
///     /// What to say
///     #[arg(long, default_value = "Hello!")]
///     greeting: String,
///     #[command(flatten)]
///     server: ServerOptions,
/// }
///
/// fn main() -> ExitCode {
///     let Options { greeting, server } = Options::parse();
///     Server::new().bind("127.0.0.1:8080").options(server).serve(|_| service(greeting)).run()
/// }
/// #
/// # fn service(greeting: String) -> impl forkio::HttpService<forkio::Hyper> {
/// #     hyper::service::service_fn(move |_: Request<_>| {
/// #         let greeting = greeting.clone();
/// #         async { Ok::<_, std::convert::Infallible>(Response::new(greeting)) }
/// #     })
/// # }
/// ```
#[derive(Clone, Debug, Default, clap::Args)]
// The `None`s keep the documentation above out of the help of a program whose options have no documentation.
#[command(next_help_heading = "Server", about = None, long_about = None)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Address to listen on: an IP address or host name with a port, or unix: and a path. Give it again for more listeners
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Address>,

    /// How many connections may wait in the queue of each listener [default: 1024 for TCP, the kernel's limit for unix:]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub backlog: Option<u32>,

    /// The permissions of the Unix sockets of --listen, in octal, such as 660 [default: those that the umask leaves]
    #[arg(long, value_name = "MODE", value_parser = octal)]
    pub unix_mode: Option<u32>,

    /// Number of worker processes, 1 to 1024 [default: number of CPUs]
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,

    /// Number of threads of each worker, 1 to 1024, in a runtime of its own [default: the inherited runtime, on one thread]
    #[arg(long, value_name = "N", value_parser = workers)]
    pub worker_threads: Option<usize>,

    /// How connections are distributed: shared, reuseport, reuseport-per-cpu or balanced [default: shared]
    #[arg(long, value_name = "HOW", value_parser = distribution)]
    pub distribution: Option<Distribution>,

    /// How long a worker may take to end once it is told to, in seconds [default: 8]
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub shutdown_timeout: Option<Duration>,

    /// How long an idle HTTP/1 connection is kept for one more request when its worker must end, in seconds [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub idle_grace: Option<Duration>,

    /// How long to accept connections after a signal to stop, for load balancers to notice, in seconds [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub lame_duck: Option<Duration>,

    /// How long a client may take to send the head of its first request, or the rest of a later head, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = header_timeout)]
    pub header_timeout: Option<Duration>,

    /// How long a connection may be idle after a request, in seconds; 0 turns keep-alive off [default: 75]
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub keep_alive_timeout: Option<Duration>,

    /// How long a worker may take to be ready, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub boot_timeout: Option<Duration>,

    /// How long a template may take to load, in seconds [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub load_timeout: Option<Duration>,

    /// How long a worker's runtime may be stuck before the worker is replaced, in seconds; 0: no limit [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub heartbeat_timeout: Option<Duration>,

    /// Make a stuck worker print its stack before it is killed
    #[arg(long)]
    pub abort_stuck: bool,

    /// How many boot failures in a row end the server; 0: no limit [default: 8]
    #[arg(long, value_name = "N")]
    pub crash_limit: Option<u32>,

    /// Replace a worker after this many requests; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_requests: Option<u64>,

    /// Replace a worker at this age, in seconds; 0: no limit
    #[arg(long, value_name = "SECONDS", value_parser = from_zero)]
    pub max_age: Option<Duration>,

    /// Replace a worker with more resident memory than this, shared pages included, in MiB; 0: no limit
    #[arg(long, value_name = "MIB")]
    pub max_rss_mib: Option<u32>,

    /// Replace a worker with more PSS than this, in MiB; PSS counts a part of each shared page; 0: no limit
    #[arg(long, value_name = "MIB")]
    pub max_pss_mib: Option<u32>,

    /// Stop a worker from accepting while it has this many connections open; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,

    /// The largest fraction of --max-requests and --max-age that is added to them at random [default: 0.1]
    #[arg(long, value_name = "PART", value_parser = part)]
    pub jitter: Option<f64>,

    /// How many workers there may be beyond --workers in a reload [default: the number of workers]
    #[arg(long, value_name = "N")]
    pub max_extra: Option<usize>,

    /// How many workers may be missing in a reload [default: 0]
    #[arg(long, value_name = "N")]
    pub max_missing: Option<usize>,

    /// How long a new program may take to be ready in an upgrade, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub upgrade_timeout: Option<Duration>,

    /// Keep the process id in this file
    #[arg(long, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,

    /// Serve a status page and metrics at this address: an IP address or host name with a port, or unix: and a path
    #[cfg(feature = "status")]
    #[arg(long, value_name = "ADDR")]
    pub status: Option<Address>,

    /// Serve a control socket at this path, for forkioctl
    #[cfg(feature = "status")]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Run workers as this user, with its groups
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// Run workers with this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// Do not let programs that are started by workers gain privileges
    #[arg(long)]
    pub no_new_privs: bool,

    /// The umask of workers, in octal
    #[arg(long, value_name = "MASK", value_parser = octal)]
    pub umask: Option<u32>,

    /// The nice value of workers
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub nice: Option<i32>,

    /// Keep each worker on one of these CPUs, worker 0 on the first
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Vec<usize>,

    /// Put large private mappings into huge pages before the workers are forked
    #[arg(long)]
    pub huge_pages: bool,
}

impl ServerOptions {
    /// Sets the options that [`Prefork`] has. The caller must apply the options of listeners and
    /// [`worker_threads`](ServerOptions::worker_threads), and the options of HTTP with
    /// [`apply_to_http`](ServerOptions::apply_to_http).
    pub fn apply(&self, prefork: Prefork) -> Prefork {
        let bytes = |mebibytes: u32| u64::from(mebibytes) << 20;
        let prefork = set(prefork, self.workers, Prefork::workers);
        let prefork = set(prefork, self.distribution, Prefork::distribution);
        let prefork = set(prefork, self.shutdown_timeout, Prefork::shutdown_timeout);
        let prefork = set(prefork, self.lame_duck, Prefork::lame_duck);
        let prefork = set(prefork, self.boot_timeout, Prefork::boot_timeout);
        let prefork = set(prefork, self.load_timeout, Prefork::load_timeout);
        let prefork = set(prefork, self.heartbeat_timeout, Prefork::heartbeat_timeout);
        let prefork = set(prefork, self.abort_stuck.then_some(true), Prefork::abort_stuck);
        let prefork = set(prefork, self.crash_limit, Prefork::crash_limit);
        let prefork = set(prefork, self.max_requests, Prefork::max_requests);
        let prefork = set(prefork, self.max_age, Prefork::max_age);
        let prefork = set(prefork, self.max_rss_mib.map(bytes), Prefork::max_rss);
        let prefork = set(prefork, self.max_pss_mib.map(bytes), Prefork::max_pss);
        let prefork = set(prefork, self.max_connections, Prefork::max_connections);
        let prefork = set(prefork, self.jitter, Prefork::jitter);
        let prefork = set(prefork, self.max_extra, Prefork::max_extra);
        let prefork = set(prefork, self.max_missing, Prefork::max_missing);
        let prefork = set(prefork, self.upgrade_timeout, Prefork::upgrade_timeout);
        let prefork = set(prefork, self.pid_file.as_ref(), Prefork::pid_file);
        #[cfg(feature = "status")]
        let prefork = set(prefork, self.status.as_ref(), Prefork::status);
        #[cfg(feature = "status")]
        let prefork = set(prefork, self.control.as_ref(), Prefork::control);
        let prefork = set(prefork, self.user.as_ref(), Prefork::user);
        let prefork = set(prefork, self.group.as_ref(), Prefork::group);
        let prefork = set(prefork, self.no_new_privs.then_some(true), Prefork::no_new_privs);
        let prefork = set(prefork, self.umask, Prefork::umask);
        let prefork = set(prefork, self.nice, Prefork::nice);
        let cpus = Some(self.cpus.clone()).filter(|cpus| !cpus.is_empty());
        let prefork = set(prefork, cpus, Prefork::cpus);
        set(prefork, self.huge_pages.then_some(true), Prefork::huge_pages)
    }

    /// Sets the options of HTTP.
    pub fn apply_to_http(&self, http: Http) -> Http {
        let http = set(http, self.header_timeout, Http::header_timeout);
        let http = set(http, self.keep_alive_timeout, Http::keep_alive_timeout);
        set(http, self.idle_grace, Http::idle_grace)
    }
}

/// Calls a setter of a builder, if there is a value.
fn set<B, T>(builder: B, value: Option<T>, setter: impl FnOnce(B, T) -> B) -> B {
    match value {
        Some(value) => setter(builder, value),
        None => builder,
    }
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
    text.parse()
        .ok()
        .filter(|number| (1..=MAX_WORKERS).contains(number))
        .ok_or_else(|| format!("give a whole number from 1 to {MAX_WORKERS}"))
}

fn from_zero(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0)
}

fn header_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.1)
}

fn positive(text: &str) -> Result<Duration, String> {
    seconds(text, 0.001)
}

fn part(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| "give a number from 0 to 1".to_owned())
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
        .ok_or_else(|| "give octal digits from 0 to 777".to_owned())
}

fn seconds(text: &str, min: f64) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (min..=MAX_SECONDS).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("give a number of seconds from {min} to {MAX_SECONDS}, such as 5 or 0.5"))
}
