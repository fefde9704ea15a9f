//! What does it cost to count a request?

use std::process::Command;

use crate::data::{Data, Measure};
use crate::picture::Picture;
use crate::plan::Plan;
use crate::sections::{Measured, Section};
use crate::table::{Column, Table};
use crate::target::{Limit, Target};

pub(crate) const SECTION: Section = Section {
    name: "status",
    question: "What does it cost to count a request for the status page?",
    measure,
    tables,
    targets,
    pictures,
};

static TIME: Measure = Measure { id: "status-count", title: "time of a request, ns" };

const CASE: &str = "`WorkerHandle::track_request`, and dropping it";
const WITH: &str = "with a status page";
const WITHOUT: &str = "without";

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    let page = std::env::temp_dir().join(format!("forkio-benches-status-{}", std::process::id()));
    let rounds = plan.rounds(100, 5).to_string();
    for (contender, page) in [(WITH, Some(&page)), (WITHOUT, None)] {
        let mut program = Command::new(plan.program("forkio/release/count-request"));
        let output = program.arg(&rounds).args(page).output()?;
        if !output.status.success() {
            return Err(format!("count-request: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let figures: Vec<f64> = serde_json::from_slice(&output.stdout)?;
        for figure in figures {
            data.add(&TIME, CASE, contender, figure);
        }
    }
    Ok(())
}

fn tables() -> Vec<Table> {
    vec![Table {
        title: "The time of a request that does nothing, ns",
        text: "In a worker process with one thread. The request is counted, and the worker is busy meanwhile. With a status \
               page, one of sixteen requests is timed: reading a clock twice costs more than all the rest.",
        cases: vec![CASE.to_owned()],
        has_contenders: true,
        columns: vec![Column::figure(&TIME)],
    }]
}

fn targets(data: &Data) -> Vec<Target> {
    vec![Target::new("counting a request, ns", Limit::AtMost(30.0), data.quartiles(&TIME, CASE, WITH))]
}

fn pictures(_data: &Data) -> Vec<Picture> {
    Vec::new()
}
