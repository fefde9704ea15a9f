//! What was measured.

use forkio_benches::instructions::Parts;
use forkio_benches::rounds::Quartiles;
use serde::Serialize;

/// A fork of forkio's own program that leaves everything as it is.
pub(crate) const BARE_FORK_OF_SAME: &str = "bare fork of forkio's process";

/// What a figure tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Processor time of an operation of the reactor.
    ReactorTime,
    /// User-level instructions of one.
    Instructions,
    /// User-level instructions of a request to a server.
    RequestInstructions,
    /// From the call of fork(2) to the child's first instruction.
    Fork,
    /// In the parent, before the fork.
    Prepare,
    /// In the child, until its queue is its own.
    Commit,
    /// Prepare and commit together.
    Repair,
    /// In the parent, after the fork.
    Abort,
    /// Prepare, fork(2), commit and clearing up.
    Replace,
    /// Page faults in commit.
    Faults,
    /// From the decision to fork to the first response.
    Response,
    /// Page faults of both processes together until then, and until the child has ended.
    ResponseFaults,
    /// The server as fast as it can with connections that stay open.
    KeepAliveThroughput,
    KeepAliveCpu,
    KeepAliveUser,
    KeepAliveCalls,
    KeepAliveSwitches,
    /// The same with a connection for each request.
    ShortThroughput,
    ShortCpu,
    ShortUser,
    ShortCalls,
    ShortSwitches,
    /// The busiest worker's share of the connections, where 1 is an even share.
    Balance,
    /// Latency from the time a request was due.
    LatencyMedian,
    Latency99,
    Latency999,
    /// How long the server's threads could have run meanwhile, and did not.
    LatencyWait,
    /// With a handler that computes.
    WorkThroughput,
    WorkCpu,
    WorkUser,
    /// Of all processes of a server together.
    Pss,
    /// From the start of a server to its first response.
    Ready,
}

impl Measure {
    pub(crate) const ALL: [Measure; 32] = [
        Measure::ReactorTime,
        Measure::Instructions,
        Measure::RequestInstructions,
        Measure::Fork,
        Measure::Prepare,
        Measure::Commit,
        Measure::Repair,
        Measure::Abort,
        Measure::Replace,
        Measure::Faults,
        Measure::Response,
        Measure::ResponseFaults,
        Measure::KeepAliveThroughput,
        Measure::KeepAliveCpu,
        Measure::KeepAliveUser,
        Measure::KeepAliveCalls,
        Measure::KeepAliveSwitches,
        Measure::ShortThroughput,
        Measure::ShortCpu,
        Measure::ShortUser,
        Measure::ShortCalls,
        Measure::ShortSwitches,
        Measure::Balance,
        Measure::LatencyMedian,
        Measure::Latency99,
        Measure::Latency999,
        Measure::LatencyWait,
        Measure::WorkThroughput,
        Measure::WorkCpu,
        Measure::WorkUser,
        Measure::Pss,
        Measure::Ready,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Measure::ReactorTime => "Reactor: processor time of an operation, ns",
            Measure::Instructions => "Reactor: user-level instructions of an operation",
            Measure::RequestInstructions => "Server: user-level instructions of a request",
            Measure::Fork => "Fork: from the call of fork(2) to the child's first instruction, µs",
            Measure::Prepare => "Fork: processor time of prepare in the parent, µs",
            Measure::Commit => "Fork: processor time of commit in the child, until its queue is its own, µs",
            Measure::Repair => "Fork: processor time of prepare and commit together, µs",
            Measure::Abort => "Fork: processor time of clearing up in the parent, µs",
            Measure::Replace => "Fork: what a supervisor waits for: prepare, fork(2), commit and clearing up, µs",
            Measure::Faults => "Fork: page faults in commit",
            Measure::Response => "Fork: from the decision to fork to the child's first response, µs",
            Measure::ResponseFaults => {
                "Fork: page faults of both processes, from the decision to fork to the child's end"
            }
            Measure::KeepAliveThroughput => "Server, 64 connections that stay open: requests per second",
            Measure::KeepAliveCpu => "Server, 64 connections that stay open: processor time of a request, µs",
            Measure::KeepAliveUser => "Server, 64 connections that stay open: user mode's part of that time, µs",
            Measure::KeepAliveCalls => "Server, 64 connections that stay open: system calls of a request",
            Measure::KeepAliveSwitches => "Server, 64 connections that stay open: context switches of a request",
            Measure::ShortThroughput => "Server, a connection for each request: requests per second",
            Measure::ShortCpu => "Server, a connection for each request: processor time of a request, µs",
            Measure::ShortUser => "Server, a connection for each request: user mode's part of that time, µs",
            Measure::ShortCalls => "Server, a connection for each request: system calls of a request",
            Measure::ShortSwitches => "Server, a connection for each request: context switches of a request",
            Measure::Balance => "Server: the busiest worker's connections, relative to an even share",
            Measure::LatencyMedian => "Server: latency, median, µs",
            Measure::Latency99 => "Server: latency, p99, µs",
            Measure::Latency999 => "Server: latency, p99.9, µs",
            Measure::LatencyWait => "Server: how long its threads waited for a processor, per request, µs",
            Measure::WorkThroughput => "Server, a handler with 45 µs of work: requests per second",
            Measure::WorkCpu => "Server, a handler with 45 µs of work: processor time of a request, µs",
            Measure::WorkUser => "Server, a handler with 45 µs of work: user mode's part of that time, µs",
            Measure::Pss => "Memory with a table of 200 MiB: PSS of all processes, MiB",
            Measure::Ready => "Memory with a table of 200 MiB: from the start to the first response, ms",
        }
    }

    /// Who a contender is compared with.
    pub(crate) fn peers(self) -> &'static [&'static str] {
        match self {
            Measure::ReactorTime | Measure::Instructions => &["mio", "libc"],
            Measure::RequestInstructions => &["hyper, one thread, on mio", "nginx"],
            Measure::Fork | Measure::Prepare | Measure::Abort | Measure::Faults => &[],
            Measure::KeepAliveUser | Measure::ShortUser | Measure::WorkUser | Measure::ResponseFaults => &[],
            Measure::KeepAliveCalls | Measure::KeepAliveSwitches | Measure::ShortCalls | Measure::ShortSwitches => &[],
            Measure::LatencyWait => &[],
            Measure::Replace => &[BARE_FORK_OF_SAME],
            Measure::Commit | Measure::Repair => &["raw epoll", "libevent", "libuv", "libev", "fresh tokio runtime"],
            Measure::Response => &["bare fork", "fresh tokio runtime"],
            Measure::Balance | Measure::Pss | Measure::Ready => &[],
            Measure::WorkThroughput | Measure::WorkCpu => &["hyper, 2 threads"],
            _ => &["hyper, one thread, on mio", "hyper, 2 threads", "hyper, 2 processes, reuseport", "nginx"],
        }
    }
}

/// The figures of one contender in one case, one for each round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) measure: Measure,
    pub(crate) case: String,
    pub(crate) contender: String,
    pub(crate) values: Vec<f64>,
}

/// All figures. Those of a case that stand at the same place in their series were measured next to each other.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) series: Vec<Series>,
    /// Where the instructions of the reactor's operations are: operation, contender, parts.
    pub(crate) profiles: Vec<(&'static str, &'static str, Parts)>,
    /// What was not measured, and why.
    pub(crate) notes: Vec<String>,
}

impl Data {
    pub(crate) fn add(&mut self, measure: Measure, case: &str, contender: &str, value: f64) {
        let known = self
            .series
            .iter_mut()
            .find(|series| series.measure == measure && series.case == case && series.contender == contender);
        match known {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                measure,
                case: case.to_owned(),
                contender: contender.to_owned(),
                values: vec![value],
            }),
        }
    }

    pub(crate) fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }

    fn values(&self, measure: Measure, case: &str, contender: &str) -> Option<&[f64]> {
        let mut of_measure = self.of(measure);
        let series = of_measure.find(|series| series.case == case && series.contender == contender)?;
        Some(&series.values)
    }

    pub(crate) fn of(&self, measure: Measure) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.measure == measure)
    }

    pub(crate) fn quartiles(&self, measure: Measure, case: &str, contender: &str) -> Option<Quartiles> {
        self.values(measure, case, contender).map(|values| Quartiles::of(values.iter().copied()))
    }

    pub(crate) fn median(&self, measure: Measure, case: &str, contender: &str) -> Option<f64> {
        self.quartiles(measure, case, contender).map(|quartiles| quartiles.median)
    }

    /// One contender relative to another one, each round by itself.
    pub(crate) fn ratio(&self, measure: Measure, case: &str, contender: &str, peer: &str) -> Option<Quartiles> {
        let ours = self.values(measure, case, contender)?;
        let theirs = self.values(measure, case, peer)?;
        Some(Quartiles::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs)))
    }

    /// In the order in which they were measured.
    pub(crate) fn cases(&self, measure: Measure) -> Vec<&str> {
        distinct(self.of(measure).map(|series| series.case.as_str()))
    }

    pub(crate) fn contenders(&self, measure: Measure) -> Vec<&str> {
        distinct(self.of(measure).map(|series| series.contender.as_str()))
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}
