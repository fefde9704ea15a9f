//! Which system calls do runtimes and servers make?

use std::error::Error;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::data::{Data, Measure};
use crate::picture::Picture;
use crate::plan::Plan;
use crate::sections::server::{HYPER_FORKIO, HYPER_MIO, ONE_WORKER, PREFORK_HTTP};
use crate::sections::{Measured, Section};
use crate::servers::strace::{Calls, Strace};
use crate::servers::wrk::Wrk;
use crate::servers::{Connections, Server, start_all};
use crate::table::{Column, Table};
use crate::target::{Limit, Target};

pub(crate) const SECTION: Section = Section {
    name: "calls",
    question: "Which system calls do runtimes and servers make?",
    measure,
    tables,
    targets,
    pictures,
};

static WAKES: Measure = Measure { id: "calls-wakes", title: "writes to a waker" };
static WAKES_PER_TURN: Measure = Measure { id: "calls-wakes-per-turn", title: "the same per turn of the loop" };
static POLLS: Measure = Measure { id: "calls-polls", title: "`epoll_wait`" };
static CONTROLS: Measure = Measure { id: "calls-controls", title: "`epoll_ctl`" };
static ALL: Measure = Measure { id: "calls-all", title: "all system calls" };

const INTERVAL: &str = "an idle runtime, per tick of an interval of 100 ms";
const FORKIO: &str = "tokio on forkio's selector";
const MIO: &str = "tokio on mio";

fn under_load(connections: Connections) -> String {
    format!("one worker under load, {}, per request", connections.name())
}

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    for (name, program) in [(FORKIO, "forkio/release/interval-forkio"), (MIO, "servers/interval-mio")] {
        let ticks = plan.rounds(20, 4);
        let calls = of_ticks(plan, program, ticks)?;
        add(data, INTERVAL, name, &calls, 2.0 * ticks as f64);
    }
    let servers = start_all(plan, data, ONE_WORKER, &plan.cpus.one);
    for connections in [Connections::Open, Connections::Short] {
        for server in &servers {
            let (calls, requests) = of_requests(plan, server, connections)?;
            add(data, &under_load(connections), server.name, &calls, requests);
        }
    }
    Ok(())
}

/// Counts the calls of `2 * ticks` ticks, as the difference of two runs, which excludes the runtime's start and end.
fn of_ticks(plan: &Plan, program: &str, ticks: usize) -> Result<Calls, Box<dyn Error>> {
    let run = |ticks: usize| {
        let mut interval = Command::new(plan.program(program));
        interval.arg(ticks.to_string());
        Strace::run(&interval, &plan.program(format!("interval-{ticks}.strace")))
    };
    let (few, many) = (run(ticks)?, run(3 * ticks)?);
    Ok(many.wait()?.since(&few.wait()?))
}

fn of_requests(plan: &Plan, server: &Server, connections: Connections) -> Result<(Calls, f64), Box<dyn Error>> {
    let strace = Strace::attach(&server.pids(), &plan.program("server.strace"))?;
    let mut wrk = Wrk::start(server.address, connections, &plan.cpus.load)?;
    thread::sleep(Duration::from_millis(if plan.quick { 250 } else { 1_000 }));
    let requests = wrk.end()?.number;
    Ok((strace.detach()?, requests))
}

fn add(data: &mut Data, case: &str, contender: &str, calls: &Calls, number: f64) {
    let turns = calls.named("epoll_wait") + calls.named("epoll_pwait");
    let mut add = |measure, value| data.add(measure, case, contender, value);
    add(&WAKES, calls.wakes / number);
    add(&WAKES_PER_TURN, calls.wakes / turns);
    add(&POLLS, turns / number);
    add(&CONTROLS, calls.named("epoll_ctl") / number);
    add(&ALL, calls.named("") / number);
}

fn tables() -> Vec<Table> {
    vec![Table {
        title: "System calls, as strace counts them",
        text: "strace makes every call slow. So a server under load finds more events in each poll than it does without \
               strace, and the number of polls per request is lower. Calls per connection and per turn are not affected.",
        cases: vec![INTERVAL.to_owned(), under_load(Connections::Open), under_load(Connections::Short)],
        has_contenders: true,
        columns: [&WAKES, &WAKES_PER_TURN, &POLLS, &CONTROLS, &ALL].map(Column::median).to_vec(),
    }]
}

fn targets(data: &Data) -> Vec<Target> {
    let wakes = data.quartiles(&WAKES, INTERVAL, FORKIO);
    let polls = data.ratio(&POLLS, INTERVAL, FORKIO, MIO);
    let under_load = data.quartiles(&WAKES_PER_TURN, &under_load(Connections::Open), PREFORK_HTTP);
    vec![
        Target::new("idle runtime: writes to a waker per tick", Limit::AtMost(0.0), wakes),
        Target::new("idle runtime: `epoll_wait` per tick / mio's", Limit::AtMost(1.0), polls),
        Target::new("prefork-http under load: writes to a waker per turn", Limit::AtMost(0.0), under_load),
    ]
}

fn pictures(data: &Data) -> Vec<Picture> {
    let under_load = under_load(Connections::Open);
    let bars = [
        ("writes to a waker, per tick", &WAKES, INTERVAL, FORKIO),
        ("writes to a waker, per tick", &WAKES, INTERVAL, MIO),
        ("epoll_wait, per tick", &POLLS, INTERVAL, FORKIO),
        ("epoll_wait, per tick", &POLLS, INTERVAL, MIO),
        ("writes to a waker, per turn under load", &WAKES_PER_TURN, under_load.as_str(), HYPER_FORKIO),
        ("writes to a waker, per turn under load", &WAKES_PER_TURN, under_load.as_str(), HYPER_MIO),
    ];
    let bars = bars.into_iter().filter_map(|(what, measure, case, contender)| {
        Some((format!("{what}: {contender}"), data.quartiles(measure, case, contender)?))
    });
    vec![Picture::Bars { file: "calls.svg", title: "System calls", bars: bars.collect(), mark: None }]
}
