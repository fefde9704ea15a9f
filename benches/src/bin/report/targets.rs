//! What forkio wants to reach, against what was measured.

use serde::{Serialize, Serializer};

use crate::data::{BARE_FORK_OF_SAME, Data, Measure};
use crate::fork::{FORKIO_AHEAD, RUNTIME, RUNTIME_AHEAD, case, grouped, response_case};
use crate::render::number;
use crate::server::{
    FOUR_WORKERS, HALF_LOAD, HELLO, HELLO_SHORT, NGINX, NGINX_REUSEPORT, ON_BOTH, ONE_THREAD, ONE_THREAD_FORKIO,
    ONE_WORKER, PREFORK_BALANCED, PREFORK_HTTP, PREFORK_HTTP_ONE, REUSEPORT, THREADS,
};

/// One row.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) text: String,
    #[serde(serialize_with = "bound")]
    limit: Bound,
    measured: Option<f64>,
    met: Option<bool>,
    /// What the report shows of why it is missed, if it is.
    reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

fn bound<S: Serializer>(bound: &Bound, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&limit(*bound))
}

fn limit(bound: Bound) -> String {
    match bound {
        Bound::AtMost(limit) => format!("≤ {}", number(limit)),
        Bound::AtLeast(limit) => format!("≥ {}", number(limit)),
    }
}

impl Target {
    fn new(text: impl Into<String>, limit: Bound, measured: Option<f64>, reason: Option<&'static str>) -> Target {
        let met = measured.map(|measured| match limit {
            Bound::AtMost(limit) => measured <= limit,
            Bound::AtLeast(limit) => measured >= limit,
        });
        Target { text: text.into(), limit, measured, met, reason }
    }

    pub(crate) fn limit(&self) -> String {
        limit(self.limit)
    }

    pub(crate) fn measured(&self) -> String {
        self.measured.map_or("-".to_owned(), number)
    }

    /// Where the report shows why it is missed.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.reason.filter(|_| self.met == Some(false))
    }

    pub(crate) fn is_met(&self) -> bool {
        self.met == Some(true)
    }

    /// Met, or by how much it is missed.
    pub(crate) fn verdict(&self) -> String {
        match (self.met, self.measured, self.limit) {
            (Some(true), ..) => "met".to_owned(),
            (Some(false), Some(measured), Bound::AtMost(limit) | Bound::AtLeast(limit)) => {
                format!("missed by {:.1} %", (measured / limit - 1.0).abs() * 100.0)
            }
            _ => "not measured".to_owned(),
        }
    }
}

// What the report shows of why a target is missed.
const TABLE: &str = "what a fork needs to know of each registration (`fork/`), in \"where those instructions are\"";
const SELECTOR: &str = "a selector owns its table, and is on the list of those that a fork copies: the same place";
const WAKER: &str = "the flag that spares a storm its system calls, in \"where those instructions are\"";
const POLL: &str = "no instruction more than mio's: how the processor runs them";
const FAULTS: &str =
    "see the page faults until then: a runtime runs more code, and writes to more pages that were shared";
const SWITCHES: &str = "see system calls and context switches: two processes find fewer events in each poll than one";
const USER: &str = "see user mode's part: routes, counters and a drain, in each connection's task";
const WAITS: &str = "see how long its threads waited for a processor, which the load has to run on too";
const WORK: &str = "see processor time of a request there: both use all there is, and most of it is the work itself";
const CALLS: &str = "see system calls and user mode's part: tokio and hyper make some that nginx does without";

/// Why an operation of the reactor may take more than mio's.
fn instructions_reason(operation: &str) -> Option<&'static str> {
    Some(match operation {
        _ if operation.contains("Poll::new") => SELECTOR,
        _ if operation.contains("wake") => WAKER,
        "poll of nothing" => POLL,
        _ => TABLE,
    })
}

/// All of them, in the order of the report's sections.
pub(crate) fn all(data: &Data) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let mut targets = Vec::new();
    let mut add = |text: &str, limit, measured, reason| targets.push(Target::new(text, limit, measured, reason));

    // The reactor.
    let operations = data.cases(Measure::ReactorTime);
    for operation in &operations {
        let ratio = data.ratio(Measure::Instructions, operation, "forkio", "mio");
        add(
            &format!("instructions / mio's: {operation}"),
            AtMost(1.0),
            ratio.map(|ratio| ratio.median),
            instructions_reason(operation),
        );
    }
    for operation in &operations {
        // mio's own spread against itself is the noise.
        let noise = data.ratio(Measure::ReactorTime, operation, "mio again", "mio").map(|ratio| ratio.upper.max(1.0));
        let ratio = data.ratio(Measure::ReactorTime, operation, "forkio", "mio").map(|ratio| ratio.median);
        let text = format!("time / mio's, within mio's noise against itself: {operation}");
        add(&text, AtMost(noise.unwrap_or(1.0)), ratio, instructions_reason(operation));
    }
    for storm in operations.iter().filter(|operation| operation.contains("1 000 wakes")) {
        let ratio = data.ratio(Measure::ReactorTime, storm, "mio", "forkio");
        add(&format!("times faster than mio: {storm}"), AtLeast(5.0), ratio.map(|ratio| ratio.median), None);
    }
    for (name, measure) in [("open", Measure::KeepAliveCpu), ("short", Measure::ShortCpu)] {
        let ratio = data.ratio(measure, ON_BOTH, ONE_THREAD_FORKIO, ONE_THREAD);
        let text = format!("tokio's server / the same on mio: processor time of a request, {name} connections");
        add(
            &text,
            AtMost(1.0),
            ratio.map(|ratio| ratio.median),
            Some("those of its connection's registration, and noise"),
        );
    }
    for case in [HELLO, HELLO_SHORT] {
        let ratio = data.ratio(Measure::RequestInstructions, case, ONE_THREAD_FORKIO, ONE_THREAD);
        let text = format!("tokio's server / the same on mio: instructions of a request, {case}");
        add(&text, AtMost(1.0), ratio.map(|ratio| ratio.median), Some("polls and registrations, as above"));
    }

    // The fork.
    let inherited = |registrations| case(registrations, "all inherited");
    let no_fork = |registrations| case(registrations, "one listener inherited, the rest no-fork");
    let severed = |registrations| case(registrations, "one listener inherited, the rest severed");
    for (mix, case) in [("inherited", inherited(10_000)), ("no-fork", no_fork(10_000))] {
        let commit = data.median(Measure::Commit, &case, "forkio");
        add(&format!("commit with 10 000 {mix} registrations, µs"), AtMost(20.0), commit, None);
    }
    for registrations in [1_000, 10_000] {
        let ratio = data.ratio(Measure::Commit, &severed(registrations), "forkio", "raw epoll");
        let text = format!("commit with {} severed registrations / its system calls", grouped(registrations));
        add(&text, AtMost(1.15), ratio.map(|ratio| ratio.median), None);
    }
    let ratio = data.ratio(Measure::Repair, &inherited(10_000), "forkio", "raw epoll");
    let text = "prepare and commit with 10 000 inherited / raw epoll's rebuild";
    add(text, AtMost(1.05), ratio.map(|ratio| ratio.median), None);
    let whole = |case: &str| {
        let repair = data.median(Measure::Repair, case, "forkio")?;
        Some(repair + data.median(Measure::Abort, case, "forkio")?)
    };
    let each = whole(&no_fork(10_000)).zip(whole(&no_fork(10))).map(|(many, few)| (many - few) * 1e3 / 9_990.0);
    add("what a no-fork registration costs the whole fork, ns", AtMost(10.0), each, None);
    let ratio = data.ratio(Measure::Replace, &inherited(10_000), FORKIO_AHEAD, BARE_FORK_OF_SAME);
    let text = "all of a fork prepared ahead, 10 000 inherited / a bare fork of the same process";
    add(text, AtMost(1.1), ratio.map(|ratio| ratio.median), None);
    let ratio = data.ratio(Measure::Commit, &inherited(10), "forkio", "raw epoll");
    add("commit with 10 registrations / raw epoll's rebuild", AtMost(0.7), ratio.map(|ratio| ratio.median), None);
    for mebibytes in [0, 1_024] {
        let case = response_case(mebibytes);
        for contender in ["forkio's reactor", RUNTIME, RUNTIME_AHEAD] {
            let ratio = data.ratio(Measure::Response, &case, contender, "bare fork");
            let text = format!("first response, {case}: {contender} / bare fork and blocking calls");
            add(&text, AtMost(1.3), ratio.map(|ratio| ratio.median), Some(FAULTS));
        }
    }

    // The server.
    // As many processors for both first.
    for (ours, limit, peer, reason) in [
        (PREFORK_HTTP_ONE, 1.0, ONE_THREAD, USER),
        (PREFORK_HTTP, 1.0, ONE_THREAD, SWITCHES),
        (PREFORK_HTTP, 0.95, THREADS, SWITCHES),
    ] {
        let ratio = data.ratio(Measure::KeepAliveCpu, HELLO, ours, peer);
        let text = format!("{ours}, open connections: processor time of a request / {peer}");
        add(&text, AtMost(limit), ratio.map(|ratio| ratio.median), Some(reason));
    }
    for peer in [NGINX, NGINX_REUSEPORT] {
        let ratio = data.ratio(Measure::ShortCpu, HELLO, PREFORK_HTTP, peer);
        let text = format!("{PREFORK_HTTP}, short connections: processor time of a request / {peer}");
        add(&text, AtMost(1.0), ratio.map(|ratio| ratio.median), Some(CALLS));
    }
    for peer in [ONE_THREAD, THREADS, REUSEPORT, NGINX, NGINX_REUSEPORT] {
        let ratio = data.ratio(Measure::Latency999, HALF_LOAD, PREFORK_HTTP, peer);
        let text = format!("{PREFORK_HTTP}, p99.9 at half of the load / {peer}");
        add(&text, AtMost(1.0), ratio.map(|ratio| ratio.median), Some(WAITS));
    }
    let ratio = data.ratio(Measure::WorkThroughput, HELLO, PREFORK_BALANCED, THREADS);
    add(
        "45 µs of work, balanced workers: requests per second / hyper, 2 threads",
        AtLeast(1.1),
        ratio.map(|ratio| ratio.median),
        Some(WORK),
    );
    let pss = |case| data.median(Measure::Pss, case, PREFORK_HTTP);
    let added = pss(FOUR_WORKERS).zip(pss(ONE_WORKER)).map(|(four, one)| (four - one) / 3.0);
    add("PSS of an added worker with a table of 200 MiB, MiB", AtMost(1.0), added, None);
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_by_how_much_it_is_missed() {
        let verdict = |limit, measured| Target::new("", limit, measured, None).verdict();
        assert_eq!(verdict(Bound::AtMost(20.0), Some(20.0)), "met");
        assert_eq!(verdict(Bound::AtMost(20.0), Some(25.0)), "missed by 25.0 %");
        assert_eq!(verdict(Bound::AtLeast(1.1), Some(1.2)), "met");
        assert_eq!(verdict(Bound::AtLeast(2.0), Some(1.0)), "missed by 50.0 %");
        assert_eq!(verdict(Bound::AtLeast(1.1), None), "not measured");
    }

    #[test]
    fn commit_is_held_against_the_rebuild_of_the_same_round() {
        let mut data = Data::default();
        let case = case(10, "all inherited");
        for (ours, theirs) in [(6.0, 10.0), (60.0, 100.0), (7.0, 10.0)] {
            data.add(Measure::Commit, &case, "forkio", ours);
            data.add(Measure::Commit, &case, "raw epoll", theirs);
        }
        let targets = all(&data);
        let target = targets.iter().find(|target| target.text.starts_with("commit with 10 registrations")).unwrap();
        assert_eq!(target.measured(), "0.6");
        assert!(target.is_met());
    }
}
