//! The report, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use forkio_benches::rounds::Quartiles;
use serde::Serialize;

use crate::data::{Data, Measure, Series};
use crate::server::PREFORK_HTTP;
use crate::targets::Target;

type Machine = [(&'static str, String)];

/// The report in Markdown.
pub(crate) fn markdown(data: &Data, targets: &[Target], machine: &Machine, quick: bool, took: Duration) -> String {
    let mut text = String::from("# forkio beside its peers\n\n");
    if quick {
        text += "**A quick run, to see that everything works: these figures say nothing.**\n\n";
    }
    text += "Contenders take turns; a figure is the median of the rounds, with quartiles in brackets. A ratio is that of \
             forkio to a peer in the same round, again as median and quartiles.\n\n";
    for (name, value) in machine {
        text += &format!("- {name}: {value}\n");
    }
    text += &format!("- measured in {} s\n", took.as_secs());

    if !data.notes.is_empty() {
        text += "\n## Notes\n\n";
        for note in &data.notes {
            text += &format!("- {}\n", note.replace('\n', " "));
        }
    }
    text += "\n## Targets\n\n| target | limit | measured | |\n|---|---:|---:|---|\n";
    for target in targets {
        let reason = target.reason().map_or(String::new(), |reason| format!(": {reason}"));
        let (limit, measured, verdict) = (target.limit(), target.measured(), target.verdict());
        text += &format!("| {} | {limit} | {measured} | {verdict}{reason} |\n", target.text);
    }
    for measure in Measure::ALL {
        if !data.cases(measure).is_empty() {
            text += &format!("\n## {}\n\n", measure.title());
            table(&mut text, data, measure);
        }
        if measure == Measure::Instructions && !data.profiles.is_empty() {
            text += "\n## Reactor: where those instructions are\n\n";
            profiles(&mut text, data);
        }
    }
    text
}

/// One row for each case where contenders have few, otherwise one for each contender.
fn table(text: &mut String, data: &Data, measure: Measure) {
    let contenders = data.contenders(measure);
    let peers: Vec<&str> = measure.peers().iter().copied().filter(|peer| contenders.contains(peer)).collect();
    *text += "| | |";
    for heading in ["median (quartiles)".to_owned()].into_iter().chain(peers.iter().map(|peer| format!("/ {peer}"))) {
        *text += &format!(" {heading} |");
    }
    *text += &format!("\n|---|---|{}\n", "---:|".repeat(1 + peers.len()));
    for case in data.cases(measure) {
        for series in data.of(measure).filter(|series| series.case == case) {
            let quartiles = Quartiles::of(series.values.iter().copied());
            *text += &format!("| {case} | {} | {} |", series.contender, spread(quartiles));
            for peer in &peers {
                match data.ratio(measure, case, &series.contender, peer).filter(|_| is_ours(&series.contender)) {
                    Some(ratio) => *text += &format!(" {} |", spread_of_ratio(ratio)),
                    None => *text += " |",
                }
            }
            text.push('\n');
        }
    }
}

/// By the source files that the instructions come from, most first. What is inlined counts where it is written.
fn profiles(text: &mut String, data: &Data) {
    *text += "| operation | | instructions |\n|---|---|---|\n";
    for (operation, contender, parts) in &data.profiles {
        let mut parts: Vec<(&str, f64)> =
            parts.iter().map(|(part, count)| (part.as_str(), *count)).filter(|(_, count)| *count >= 0.5).collect();
        parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let parts: Vec<String> = parts.iter().map(|(part, count)| format!("{} {part}", number(*count))).collect();
        *text += &format!("| {operation} | {contender} | {} |\n", parts.join(", "));
    }
}

/// Those whose ratios are of interest; the JSON has all.
fn is_ours(contender: &str) -> bool {
    contender.contains("forkio") || contender.starts_with(PREFORK_HTTP)
}

/// The median, and the quartiles where they are something else.
fn spread(quartiles: Quartiles) -> String {
    let Quartiles { lower, median, upper } = quartiles;
    if lower == upper {
        return number(median);
    }
    format!("{} ({} to {})", number(median), number(lower), number(upper))
}

fn spread_of_ratio(Quartiles { lower, median, upper }: Quartiles) -> String {
    if lower == upper {
        return format!("{median:.3}");
    }
    format!("{median:.3} ({lower:.3} to {upper:.3})")
}

/// With about four digits.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        1_000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// The report in JSON: every series with its quartiles and its ratios to all others of its case.
pub(crate) fn json(data: &Data, targets: &[Target], machine: &Machine, quick: bool) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        quick: bool,
        machine: BTreeMap<&'a str, &'a str>,
        targets: &'a [Target],
        figures: Vec<Figure<'a>>,
        notes: &'a [String],
    }
    #[derive(Serialize)]
    struct Figure<'a> {
        measure: Measure,
        title: &'static str,
        case: &'a str,
        contender: &'a str,
        rounds: usize,
        quartiles: Quartiles,
        /// Relative to each other contender.
        ratios: BTreeMap<&'a str, Quartiles>,
    }
    let figures = data.series.iter().map(|series| {
        let Series { measure, case, contender, values } = series;
        let others = data.of(*measure).filter(|other| other.case == *case && other.contender != *contender);
        let ratios = others.filter_map(|other| {
            Some((other.contender.as_str(), data.ratio(*measure, case, contender, &other.contender)?))
        });
        Figure {
            measure: *measure,
            title: measure.title(),
            case,
            contender,
            rounds: values.len(),
            quartiles: Quartiles::of(values.iter().copied()),
            ratios: ratios.collect(),
        }
    });
    let machine = machine.iter().map(|(name, value)| (*name, value.as_str())).collect();
    serde_json::to_string_pretty(&Report { quick, machine, targets, figures: figures.collect(), notes: &data.notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_four_digits() {
        let numbers = [0.0, 0.0123, 1.5, 12.345, 123.45, 1_020.0, 98_765.4].map(number);
        assert_eq!(numbers, ["0", "0.012", "1.5", "12.35", "123.5", "1020", "98765"]);
    }
}
