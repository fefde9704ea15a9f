//! Is each operation of the selector as fast as mio's?

use std::process::Command;

use selector_benches::rounds::CONTENDERS;
use selector_benches::{FORKIO, LIBC, MIO, MIO_AGAIN, Operation, WITHOUT_CPONFORK, instructions};

use crate::data::{Data, Measure};
use crate::picture::Picture;
use crate::plan::Plan;
use crate::sections::{Measured, Section};
use crate::table::{Column, Table};
use crate::target::{Check, Limit, Target};

pub(crate) const SECTION: Section = Section {
    name: "selector",
    question: "Is each operation of the selector as fast as mio's?",
    measure,
    tables,
    targets,
    pictures,
};

pub(crate) static TIME: Measure = Measure { id: "operation-time", title: "processor time, ns" };
static INSTRUCTIONS: Measure = Measure { id: "operation-instructions", title: "user-level instructions" };

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    let side_by_side = plan.program("release/side-by-side");
    for operation in Operation::ALL {
        let name = operation.name();
        let rounds = plan.rounds(160, 8).to_string();
        let output = Command::new(&side_by_side).args(["--json", &rounds, &name]).output()?;
        if !output.status.success() {
            data.note(format!("{name}: not measured: {}", String::from_utf8_lossy(&output.stderr).trim()));
            continue;
        }
        let rounds: Vec<[f64; CONTENDERS.len()]> = serde_json::from_slice(&output.stdout)?;
        for (contender, figure) in rounds.iter().flat_map(|round| CONTENDERS.iter().zip(round)) {
            data.add(&TIME, &name, contender.name, *figure);
        }
    }
    let countable = Operation::ALL.into_iter().filter(|operation| operation.has_countable_instructions());
    // A run of valgrind takes a good part of a second.
    for operation in countable.take(plan.rounds(Operation::ALL.len(), 2)) {
        for contender in [FORKIO, WITHOUT_CPONFORK, MIO, LIBC] {
            let parts = instructions::parts(&side_by_side, &contender, operation)?;
            data.add(&INSTRUCTIONS, &operation.name(), contender.name, parts.values().sum());
        }
    }
    Ok(())
}

fn tables() -> Vec<Table> {
    let columns = |measure| {
        let figures = [FORKIO, WITHOUT_CPONFORK, MIO, LIBC].map(|contender| Column::median(measure).of(contender.name));
        let ratio = |contender: &'static str| Column::figure(measure).of(contender).relative_to(MIO.name);
        let mut columns = Vec::from(figures);
        columns.extend([ratio(FORKIO.name), ratio(WITHOUT_CPONFORK.name)]);
        columns
    };
    let cases = || Operation::ALL.map(Operation::name).to_vec();
    let mut with_noise = columns(&TIME);
    with_noise.push(Column::figure(&TIME).of(MIO_AGAIN.name).relative_to(MIO.name));
    vec![
        Table {
            title: "Processor time of an operation, ns",
            text: "Medians. The contenders take turns of 4 ms. The last column is the noise: mio's ratio to itself. Each \
                   operation runs in a process of its own, which has one thread unless the name mentions threads. If several \
                   threads do the operation, the figure is the time of one operation in one thread. There are two \
                   exceptions: for \"4 threads, 1 000 wakes each, then a poll\", the figure is the time of all threads \
                   together, and for a blocked selector, the figure includes the time of the polling thread.",
            cases: cases(),
            has_contenders: false,
            columns: with_noise,
        },
        Table {
            title: "User-level instructions of an operation",
            text: "Counted by valgrind, which does not see the kernel. `side-by-side --profile` says from which source files \
                   the instructions come.",
            cases: cases(),
            has_contenders: false,
            columns: columns(&INSTRUCTIONS),
        },
    ]
}

fn targets(data: &Data) -> Vec<Target> {
    let names: Vec<String> = Operation::ALL.map(Operation::name).to_vec();
    let times = names.iter().map(|name| {
        let noise = data.ratio(&TIME, name, MIO_AGAIN.name, MIO.name).map_or(1.0, |noise| noise.upper.max(1.0));
        Check::new(name, Limit::AtMost(noise), data.ratio(&TIME, name, FORKIO.name, MIO.name))
    });
    let mut targets =
        vec![Target::each("time of an operation / mio's, within mio's noise (the upper quartile)", times.collect())];
    for (operation, times) in
        [(Operation::WakeAwake, 20.0), (Operation::WakeStorm, 5.0), (Operation::WakeStormThreads, 5.0)]
    {
        let name = operation.name();
        let ratio = data.ratio(&TIME, &name, MIO.name, FORKIO.name);
        targets.push(Target::new(format!("times faster than mio: {name}"), Limit::AtLeast(times), ratio));
    }
    let counted = data.cases(&INSTRUCTIONS).into_iter();
    let counts = counted
        .map(|name| Check::new(name, Limit::AtMost(1.0), data.ratio(&INSTRUCTIONS, name, FORKIO.name, MIO.name)));
    targets.push(Target::each("user-level instructions of an operation / mio's", counts.collect()));
    targets
}

fn pictures(data: &Data) -> Vec<Picture> {
    let bars = Operation::ALL.iter().filter_map(|operation| {
        let name = operation.name();
        Some((name.replace('`', ""), data.ratio(&TIME, &name, FORKIO.name, MIO.name)?))
    });
    vec![Picture::Bars {
        file: "selector.svg",
        title: "Processor time of forkio's selector / mio's",
        bars: bars.collect(),
        mark: Some(1.0),
    }]
}
