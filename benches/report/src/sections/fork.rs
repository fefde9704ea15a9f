//! What does a fork cost, by forkio or by other code?

use fork_protocol::{Cost, HUGE};
use selector_benches::rounds::Quartiles;

use crate::data::{Data, Measure};
use crate::on_demand::{Contender, Programs};
use crate::picture::{Line, Picture};
use crate::plan::Plan;
use crate::sections::{Measured, Section};
use crate::table::{Column, Table};
use crate::target::{Check, Limit, Target};
use crate::text::grouped;

pub(crate) const SECTION: Section = Section {
    name: "fork",
    question: "What does a fork cost, by forkio or by other code?",
    measure,
    tables,
    targets,
    pictures,
};

static FORK: Measure = Measure { id: "fork", title: "fork(2)" };
static PREPARE: Measure = Measure { id: "fork-prepare", title: "prepare" };
pub(crate) static COMMIT: Measure = Measure { id: "fork-commit", title: "child" };
static BOTH: Measure = Measure { id: "fork-prepare-and-commit", title: "prepare + child" };
static CLEAN_UP: Measure = Measure { id: "fork-clean-up", title: "clean up" };
static WHOLE: Measure = Measure { id: "fork-whole", title: "all" };
static FAULTS: Measure = Measure { id: "fork-faults", title: "page faults" };
static LIFE: Measure = Measure { id: "fork-life", title: "both processes" };
static RESPONSE: Measure = Measure { id: "response", title: "response" };
static RESPONSE_FAULTS: Measure = Measure { id: "response-faults", title: "page faults" };

pub(crate) const FORKIO: &str = "forkio";
const AHEAD: &str = "forkio, prepared ahead";
const UNPATCHED: &str = "forkio, tokio on upstream mio";
const UNPLANNED: &str = "forkio, unplanned fork";
const BARE_OF_FORKIO: &str = "bare fork of forkio's process";
const BARE: &str = "bare fork";
pub(crate) const RAW: &str = "raw epoll";
const MIO: &str = "mio";
const MIO_AGAIN: &str = "mio again";
const REACTOR: &str = "forkio's selector";
const RUNTIME: &str = "forkio, a tokio runtime";
const RUNTIME_AHEAD: &str = "forkio, a tokio runtime, prepared ahead";

const INHERITED: &str = "all inherited";
const NO_FORK: &str = "one listener inherited, the rest no-fork";
const SEVERED: &str = "one listener inherited, the rest severed";

const MIXES: [(&str, &[Contender]); 3] = [
    (
        INHERITED,
        &[
            (FORKIO, "release/planned", &["inherit", "N"]),
            (AHEAD, "release/planned", &["inherit-ahead", "N"]),
            (UNPLANNED, "release/unplanned", &["N"]),
            (BARE_OF_FORKIO, "release/planned", &["bare", "N"]),
            (BARE, "peers/bare", &["N"]),
            (RAW, "peers/raw-rebuild", &["N"]),
            ("libevent", "peers/libevent", &["N"]),
            ("libuv", "peers/libuv", &["N"]),
            ("libev", "peers/libev", &["N"]),
            ("fresh tokio runtime", "servers/fresh-runtime", &["N"]),
            (UNPATCHED, "release/adopted", &["N"]),
        ],
    ),
    (NO_FORK, &[(FORKIO, "release/planned", &["no-fork", "N"])]),
    (SEVERED, &[(FORKIO, "release/planned", &["sever", "N"]), (RAW, "peers/raw-sever", &["N"])]),
];

const RESPONSES: [Contender; 5] = [
    (BARE, "release/first-response", &["bare"]),
    (REACTOR, "release/first-response", &["reactor"]),
    (RUNTIME, "forkio/release/first-response-forkio", &[]),
    (RUNTIME_AHEAD, "forkio/release/first-response-forkio", &["ahead"]),
    ("fresh tokio runtime", "servers/first-response-fresh-runtime", &[]),
];

/// The cases of a child that never uses the selector, each with its contenders.
const SHORT_LIVES: [(&str, &[Contender]); 3] = [
    (
        "the child exits",
        &[
            (FORKIO, "release/short-lived", &["exit", "forkio", "N"]),
            (MIO, "release/short-lived", &["exit", "mio", "N"]),
            (MIO_AGAIN, "release/short-lived", &["exit", "mio", "N"]),
        ],
    ),
    (
        "the child executes a program",
        &[
            (FORKIO, "release/short-lived", &["exec", "forkio", "N"]),
            (MIO, "release/short-lived", &["exec", "mio", "N"]),
            (MIO_AGAIN, "release/short-lived", &["exec", "mio", "N"]),
        ],
    ),
    (
        "`Command` with `pre_exec`",
        &[
            (FORKIO, "release/short-lived", &["command", "forkio", "N"]),
            (MIO, "release/short-lived", &["command", "mio", "N"]),
            (MIO_AGAIN, "release/short-lived", &["command", "mio", "N"]),
        ],
    ),
];

const REGISTRATIONS: [usize; 4] = [10, 1_000, 10_000, 100_000];

/// The number of registrations of a process with short-lived children.
const MANY: usize = 10_000;

/// The resident memory of a large process, in MiB.
const LARGE: usize = 1_024;

/// The processes whose children respond: their resident memory in MiB, and whether it is in huge pages.
const PROCESSES: [(usize, bool); 3] = [(0, false), (LARGE, false), (LARGE, true)];

pub(crate) fn case(registrations: usize, mix: &str) -> String {
    format!("{} registrations, {mix}", grouped(registrations))
}

pub(crate) fn inherited(registrations: usize) -> String {
    case(registrations, INHERITED)
}

/// Returns the argument that sets a program's memory.
fn memory(mebibytes: usize, is_huge: bool) -> String {
    format!("{mebibytes}{}", if is_huge { HUGE } else { "" })
}

fn large_case(is_huge: bool) -> String {
    format!("{}, {}", inherited(1_000), response_case(LARGE, is_huge))
}

fn response_case(mebibytes: usize, is_huge: bool) -> String {
    match (mebibytes, is_huge) {
        (0, _) => "a small process".to_owned(),
        (_, false) => format!("{mebibytes} MiB resident"),
        (_, true) => format!("{mebibytes} MiB resident in huge pages"),
    }
}

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    let limit = fork_protocol::raise_file_limit()?;
    let small = ["0".to_owned()];
    let most = if plan.quick { MANY } else { usize::MAX };
    for registrations in REGISTRATIONS.into_iter().filter(|registrations| *registrations <= most) {
        if registrations as u64 + 100 > limit {
            data.note(format!(
                "{} registrations: not measured: the hard limit of open files (RLIMIT_NOFILE) is {limit}, and only a \
                 privileged process can raise it",
                grouped(registrations)
            ));
            continue;
        }
        let rounds = if registrations > 1_000 { plan.rounds(31, 3) } else { plan.rounds(101, 7) };
        // All mixes take turns together, so that their figures can be compared too.
        let mut programs = Programs::default();
        for (mix, contenders) in MIXES {
            programs.start(plan, data, &case(registrations, mix), contenders, registrations, &small);
        }
        programs.take_turns(data, rounds, add)?;
    }

    // With much memory, fork(2) itself copies more, with any library, so raw epoll is enough as a peer. Huge pages have fewer
    // entries in the page tables.
    for is_huge in [false, true] {
        let mut programs = Programs::default();
        let contenders = &MIXES[0].1[..=5];
        programs.start(plan, data, &large_case(is_huge), contenders, 1_000, &[memory(LARGE, is_huge)]);
        programs.take_turns(data, plan.rounds(31, 2), add)?;
    }

    let mut programs = Programs::default();
    for (case, contenders) in SHORT_LIVES {
        programs.start(plan, data, case, contenders, MANY, &[]);
    }
    programs.take_turns(data, plan.rounds(101, 3), add)?;

    for (mebibytes, is_huge) in PROCESSES {
        let mut programs = Programs::default();
        let memory = [memory(mebibytes, is_huge)];
        programs.start(plan, data, &response_case(mebibytes, is_huge), &RESPONSES, 0, &memory);
        let rounds = if mebibytes == 0 { plan.rounds(101, 7) } else { plan.rounds(31, 2) };
        programs.take_turns(data, rounds, add)?;
    }
    Ok(())
}

fn add(data: &mut Data, case: &str, contender: &str, cost: Cost) {
    let mut add = |measure, nanoseconds: Option<u64>| {
        if let Some(nanoseconds) = nanoseconds {
            data.add(measure, case, contender, nanoseconds as f64 / 1e3);
        }
    };
    let Cost { prepare, fork, commit, clean_up, response, life, faults } = cost;
    add(&PREPARE, prepare);
    add(&FORK, fork);
    add(&COMMIT, commit);
    add(&CLEAN_UP, clean_up);
    add(&BOTH, commit.map(|commit| commit + prepare.unwrap_or(0)));
    let rest = [prepare, commit, clean_up].into_iter().flatten().sum::<u64>();
    add(&WHOLE, fork.map(|fork| fork + rest));
    add(&RESPONSE, response);
    add(&LIFE, life);
    if let Some(faults) = faults {
        let measure = if response.is_some() { &RESPONSE_FAULTS } else { &FAULTS };
        data.add(measure, case, contender, faults as f64);
    }
}

fn tables() -> Vec<Table> {
    let mut cases = Vec::new();
    for registrations in REGISTRATIONS {
        cases.extend(MIXES.map(|(mix, _)| case(registrations, mix)));
    }
    cases.extend([false, true].map(large_case));
    vec![
        Table {
            title: "The steps of a fork, µs",
            text: "The parent prepares a planned fork (\"prepare\") and afterwards drops the child's objects (\"clean \
                   up\"). A fork \"prepared ahead\" is prepared before the measured time. \"fork(2)\" is from its call to the \
                   child's first instruction, by the clock; the rest is processor time. \"Child\" is the child's work until its queue \
                   is its own: forkio commits, or after an unplanned fork reconciles with its first poll. Without the \
                   patch (\"tokio on upstream mio\"), preparing also reads the registrations from `/proc`. Raw epoll \
                   makes a new epoll instance, adds every registration and polls; the libraries do their own repair. \
                   \"All\" is the sum of these steps. Page faults are those of \"child\".",
            cases,
            has_contenders: true,
            columns: vec![
                Column::median(&PREPARE),
                Column::median(&FORK),
                Column::figure(&COMMIT),
                Column::figure(&COMMIT).relative_to(RAW),
                Column::figure(&BOTH).relative_to(RAW),
                Column::median(&CLEAN_UP),
                Column::median(&WHOLE),
                Column::figure(&WHOLE).relative_to(BARE_OF_FORKIO),
                Column::median(&FAULTS),
            ],
        },
        Table {
            title: "Children that never use the selector, µs",
            text: "Plain fork(2) in a process with 10 000 registrations. Processor time of both processes, from before the \
                   fork until the child has ended. Mio's ratio to itself is the noise.",
            cases: SHORT_LIVES.map(|(case, _)| case.to_owned()).to_vec(),
            has_contenders: true,
            columns: vec![Column::figure(&LIFE), Column::figure(&LIFE).relative_to(MIO)],
        },
        Table {
            title: "The first response, µs",
            text: "By the clock, from the parent's decision to fork until a client has the child's response; the client has \
                   already sent its request and waits in the listener's queue. Page faults are those of both processes, \
                   until the child has ended.",
            cases: PROCESSES.map(|(mebibytes, is_huge)| response_case(mebibytes, is_huge)).to_vec(),
            has_contenders: true,
            columns: vec![
                Column::figure(&RESPONSE),
                Column::figure(&RESPONSE).relative_to(BARE),
                Column::median(&RESPONSE_FAULTS),
            ],
        },
    ]
}

fn targets(data: &Data) -> Vec<Target> {
    use Limit::AtMost;
    let no_fork = |registrations| case(registrations, NO_FORK);
    let severed = |registrations| case(registrations, SEVERED);
    let mut targets = Vec::new();
    for (mix, case) in [("inherited", inherited(10_000)), ("no-fork", no_fork(10_000))] {
        let commit = data.quartiles(&COMMIT, &case, FORKIO);
        targets.push(Target::new(format!("commit with 10 000 {mix} registrations, µs"), AtMost(20.0), commit));
    }
    let severed = [1_000, 10_000].map(|registrations| {
        let ratio = data.ratio(&COMMIT, &severed(registrations), FORKIO, RAW);
        Check::new(&grouped(registrations), AtMost(1.15), ratio)
    });
    targets.push(Target::each("commit with severed registrations / their bare system calls", severed.into()));
    let ratio = data.ratio(&COMMIT, &inherited(10), FORKIO, RAW);
    targets.push(Target::new("commit with 10 registrations / raw epoll's rebuild", AtMost(0.7), ratio));
    let ratio = data.ratio(&BOTH, &inherited(10_000), FORKIO, RAW);
    targets.push(Target::new("prepare and commit, 10 000 registrations / raw epoll's rebuild", AtMost(1.05), ratio));
    let ratio = data.ratio(&WHOLE, &inherited(10_000), AHEAD, BARE_OF_FORKIO);
    let text = "all of a fork prepared ahead, 10 000 registrations / a bare fork of the same process";
    targets.push(Target::new(text, AtMost(1.1), ratio));
    let text = "what a no-fork registration adds to prepare, commit and clean up, ns";
    targets.push(Target::new(text, AtMost(10.0), no_fork_cost(data)));

    let reconciled = [10, 1_000, 10_000].map(|registrations| {
        let ratio = data.ratio(&COMMIT, &inherited(registrations), UNPLANNED, RAW);
        Check::new(&grouped(registrations), AtMost(1.1), ratio)
    });
    targets.push(Target::each("unplanned fork: the child's first poll / raw epoll's rebuild", reconciled.into()));
    let lives = SHORT_LIVES.map(|(case, _)| {
        let noise = data.ratio(&LIFE, case, MIO_AGAIN, MIO).map_or(1.0, |noise| noise.upper.max(1.0));
        Check::new(case, AtMost(noise), data.ratio(&LIFE, case, FORKIO, MIO))
    });
    let text = "children that never use the selector, 10 000 registrations / mio's, within mio's noise";
    targets.push(Target::each(text, lives.into()));

    for contender in [REACTOR, RUNTIME, RUNTIME_AHEAD] {
        let responses = [0, LARGE].map(|mebibytes| {
            let case = response_case(mebibytes, false);
            let ratio = data.ratio(&RESPONSE, &case, contender, BARE);
            Check::new(&case, AtMost(1.3), ratio)
        });
        targets.push(Target::each(
            format!("first response, {contender} / bare fork and blocking calls"),
            responses.into(),
        ));
    }
    targets
}

/// Returns the nanoseconds that a no-fork registration adds to preparing, committing and cleaning up, on average.
fn no_fork_cost(data: &Data) -> Option<Quartiles> {
    let microseconds = |registrations| {
        let case = case(registrations, NO_FORK);
        Some(data.median(&BOTH, &case, FORKIO)? + data.median(&CLEAN_UP, &case, FORKIO)?)
    };
    let (few, many) = (10, 10_000);
    Quartiles::of([(microseconds(many)? - microseconds(few)?) * 1e3 / (many - few) as f64])
}

fn pictures(data: &Data) -> Vec<Picture> {
    let mut lines: Vec<Line> = Vec::new();
    for (mix, contenders) in MIXES {
        for (contender, ..) in contenders {
            let points = REGISTRATIONS.into_iter().filter_map(|registrations| {
                let commit = data.median(&COMMIT, &case(registrations, mix), contender)?;
                Some((registrations as f64, commit))
            });
            let points: Vec<_> = points.collect();
            if points.len() > 1 {
                let name = if mix == INHERITED { (*contender).to_owned() } else { format!("{contender}: {mix}") };
                lines.push((name, points));
            }
        }
    }
    let reconciled = [10, 1_000, 10_000].into_iter().filter_map(|registrations| {
        let ratio = data.ratio(&COMMIT, &inherited(registrations), UNPLANNED, RAW)?;
        Some((format!("first poll, {} registrations / raw epoll's rebuild", grouped(registrations)), ratio))
    });
    let lives = SHORT_LIVES.into_iter().filter_map(|(case, _)| {
        Some((format!("{} / mio", case.replace('`', "")), data.ratio(&LIFE, case, FORKIO, MIO)?))
    });
    let responses = RESPONSES.into_iter().filter_map(|(contender, ..)| {
        Some((contender.to_owned(), data.quartiles(&RESPONSE, &response_case(0, false), contender)?))
    });
    vec![
        Picture::Lines {
            file: "fork-child.svg",
            title: "How long the child works until its queue is its own",
            axes: ["registrations", "µs"],
            lines,
        },
        Picture::Bars {
            file: "fork-unplanned.svg",
            title: "Forks made by other code: forkio / its peer",
            bars: reconciled.chain(lives).collect(),
            mark: Some(1.0),
        },
        Picture::Bars {
            file: "first-response.svg",
            title: "From the decision to fork to the child's first response, µs",
            bars: responses.collect(),
            mark: None,
        },
    ]
}
