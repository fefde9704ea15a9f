//! Measures everything beside the peers, and writes a table (Markdown and JSON) and plots (SVG).
//!
//! What cannot be measured here is noted in the report, and is no failure: the exit code says only whether a report was
//! written.

mod data;
mod fork;
mod headline;
mod load;
mod machine;
mod plots;
mod process;
mod reactor;
mod render;
mod server;
mod targets;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::data::Data;

const USAGE: &str = "\
usage: report [--quick] [--programs DIRECTORY] [--results DIRECTORY] [reactor|fork|server]...

`benches/run` builds what is measured, and calls this.";

/// How much to measure, and with what.
#[derive(Debug)]
struct Plan {
    quick: bool,
    /// Where the programs are that are measured.
    programs: PathBuf,
}

impl Plan {
    /// The number of rounds, or what is left of it when there is no time.
    fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    fn program(&self, path: impl AsRef<Path>) -> PathBuf {
        self.programs.join(path)
    }
}

/// From this load on, in threads for each processor, figures of the clock on the wall say little.
const QUIET: f64 = 0.5;

type Measure = fn(&Plan, &mut Data) -> Result<(), Box<dyn Error>>;

const SECTIONS: [(&str, Measure); 3] =
    [("reactor", reactor::measure), ("fork", fork::measure), ("server", server::measure)];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = env!("CARGO_MANIFEST_DIR");
    let mut plan = Plan { quick: false, programs: PathBuf::from(directory).join("target") };
    let mut results = None;
    let mut sections = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan.quick = true,
            "--programs" => plan.programs = args.next().ok_or(USAGE)?.into(),
            "--results" => results = Some(PathBuf::from(args.next().ok_or(USAGE)?)),
            _ => sections.push(*SECTIONS.iter().find(|(name, _)| *name == arg).ok_or(USAGE)?),
        }
    }
    // Those of a whole run belong to the project, others do not.
    let whole = !plan.quick && sections.is_empty();
    let results = results.unwrap_or_else(|| match whole {
        true => PathBuf::from(directory).join("results"),
        false => plan.program("results"),
    });
    if sections.is_empty() {
        sections.extend(SECTIONS);
    }

    let started = Instant::now();
    let mut data = Data::default();
    let load = machine::load();
    if load > QUIET {
        data.note(format!(
            "The machine was busy: {load:.1} threads for each processor wanted to run before this began. Throughput, \
             latency and times to a response say little then; processor time, instructions and memory still do."
        ));
    }
    for (name, measure) in sections {
        eprintln!("measuring: {name}");
        if let Err(error) = measure(&plan, &mut data) {
            data.note(format!("{name}: not all of it was measured: {error}"));
        }
    }
    let took = started.elapsed();

    fs::create_dir_all(&results)?;
    let machine = machine::describe();
    let targets = targets::all(&data);
    let markdown = render::markdown(&data, &targets, &machine, plan.quick, took);
    fs::write(results.join("report.md"), &markdown)?;
    fs::write(results.join("report.json"), render::json(&data, &targets, &machine, plan.quick)?)?;
    let headline = headline::table(&data, &targets, &machine, load > QUIET);
    fs::write(results.join("headline.md"), &headline)?;
    if whole {
        headline::write_to(&PathBuf::from(directory).join("../README.md"), &headline)?;
    }
    if let Err(error) = plots::draw(&data, &results) {
        eprintln!("no plots: {error}");
    }
    print!("{markdown}");
    Ok(())
}
