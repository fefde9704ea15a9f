//! Measures forkio beside its peers, and writes tables (Markdown), figures (JSON) and pictures (SVG).
//!
//! The report notes the figures that this machine cannot give. The exit code says only whether a report was written.

mod data;
mod document;
mod headline;
mod machine;
mod on_demand;
mod picture;
mod plan;
mod process;
mod sections;
mod servers;
mod table;
mod target;
mod text;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::data::Data;
use crate::plan::{Cpus, Plan};
use crate::sections::Section;

const USAGE: &str = "\
usage: report [--quick] [--programs DIRECTORY] [SECTION]...

SECTION is one of: selector, fork, server, memory, calls, status. `benches/run` builds the measured programs, and runs this one.";

/// The share of the processors (0 to 1) that other programs may use. Above it, wall-clock figures are not reliable.
const QUIET: f64 = 0.1;

fn main() -> Result<(), Box<dyn Error>> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut plan = Plan { quick: false, programs: benches.join("target"), cpus: Cpus::new() };
    let mut sections = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan.quick = true,
            "--programs" => plan.programs = args.next().ok_or(USAGE)?.into(),
            name => sections.push(*sections::ALL.iter().find(|section| section.name == name).ok_or(USAGE)?),
        }
    }
    let whole = !plan.quick && sections.is_empty();
    if sections.is_empty() {
        sections.extend(sections::ALL);
    }

    let started = Instant::now();
    let mut data = Data::default();
    let load = machine::load();
    if load > QUIET {
        data.note(format!(
            "The machine was busy: before the run began, other programs used {:.0} % of the processors. Throughput, latency \
             and times by the clock are not reliable. Processor time, instructions and memory are.",
            100.0 * load
        ));
    }
    for Section { name, measure, .. } in &sections {
        eprintln!("measuring: {name}");
        if let Err(error) = measure(&plan, &mut data) {
            data.note(format!("{name}: not everything was measured: {error}"));
        }
    }
    let took = started.elapsed();

    let mut machine = machine::describe();
    machine.push(("servers and load", plan.cpus.describe()));
    let sections: Vec<_> = sections.into_iter().map(|section| (section, (section.targets)(&data))).collect();
    let markdown = document::markdown(&data, &sections, &machine, plan.quick, took);
    let raw = plan.program("results");
    // The repository has the results of whole runs only, and never the raw figures.
    let results = if whole { benches.join("results") } else { raw.clone() };
    for directory in [&raw, &results] {
        fs::create_dir_all(directory)?;
    }
    fs::write(raw.join("report.json"), document::json(&data, &sections, &machine, plan.quick)?)?;
    fs::write(results.join("report.md"), &markdown)?;
    let headline = headline::table(&data, sections.iter().flat_map(|(_, targets)| targets), &machine);
    fs::write(results.join("headline.md"), &headline)?;
    if whole {
        headline::write_to(&benches.join("../README.md"), &headline)?;
    }
    draw(&data, &sections, &results);
    print!("{markdown}");
    Ok(())
}

fn draw<T>(data: &Data, sections: &[(Section, T)], directory: &Path) {
    for picture in sections.iter().flat_map(|(section, _)| (section.pictures)(data)) {
        if let Err(error) = picture.draw(directory) {
            eprintln!("a picture was not drawn: {error}");
        }
    }
}
