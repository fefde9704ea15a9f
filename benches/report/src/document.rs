//! The report, in Markdown for people and in JSON for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::data::{Data, Series};
use crate::sections::Section;
use crate::target::Target;

/// The facts that the figures depend on: names and values.
pub(crate) type Machine = [(&'static str, String)];

/// Returns the report in Markdown. Each section comes with its targets.
pub(crate) fn markdown(
    data: &Data,
    sections: &[(Section, Vec<Target>)],
    machine: &Machine,
    quick: bool,
    took: Duration,
) -> String {
    let mut text = String::from("# forkio beside its peers\n\n");
    if quick {
        text += "**A quick run, which shows only that everything works. Its figures say nothing.**\n\n";
    }
    text += "Contenders take turns. A figure is the median of the rounds, with the quartiles in parentheses. A ratio \
             compares two figures of one round; it too is a median with quartiles.\n\n";
    for (name, value) in machine {
        text += &format!("- {name}: {value}\n");
    }
    text += &format!("- measured in {} s\n", took.as_secs());

    text += "\n## Targets\n\nA target compares the median with its limit.\n\n";
    text += "| target | limit | measured | verdict |\n|---|---:|---:|---|\n";
    for target in sections.iter().flat_map(|(_, targets)| targets) {
        text += &target.markdown();
    }
    if !data.notes.is_empty() {
        text += "\n## Notes\n\n";
        for note in &data.notes {
            text += &format!("- {}\n", note.replace('\n', " "));
        }
    }
    for (section, _) in sections {
        text += &format!("\n## {}\n", section.question);
        for table in (section.tables)().iter().filter_map(|table| table.markdown(data)) {
            text += &format!("\n{table}");
        }
    }
    text
}

/// Returns all figures of all rounds as JSON.
pub(crate) fn json(
    data: &Data,
    sections: &[(Section, Vec<Target>)],
    machine: &Machine,
    quick: bool,
) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        quick: bool,
        machine: BTreeMap<&'a str, &'a str>,
        targets: Vec<&'a Target>,
        series: &'a [Series],
        notes: &'a [String],
    }
    serde_json::to_string_pretty(&Report {
        quick,
        machine: machine.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        targets: sections.iter().flat_map(|(_, targets)| targets).collect(),
        series: &data.series,
        notes: &data.notes,
    })
}
