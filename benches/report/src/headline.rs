//! The figures that the README shows.

use std::fs;
use std::io;
use std::path::Path;

use selector_benches::{FORKIO, LIBC, MIO, Operation, Source, Threads};

use crate::data::{Data, Measure};
use crate::document::Machine;
use crate::sections::{fork, memory, selector, server};
use crate::target::Target;
use crate::text::number;

/// The lines of the README before the figures and after them.
const BEGIN: &str = "<!-- The figures, as benches/run writes them. -->\n";
const END: &str = "<!-- The end of the figures. -->\n";

/// A row: the name, the measure, the case, the contender and its peers.
type Row = (&'static str, &'static Measure, String, &'static str, &'static [&'static str]);

/// Returns the table of the README. Leaves out rows without a figure.
pub(crate) fn table<'a>(data: &Data, targets: impl Iterator<Item = &'a Target>, machine: &Machine) -> String {
    let rows: [Row; 5] = [
        (
            "memory of 4 workers with a table of 200 MiB, MiB",
            &memory::PSS,
            memory::FOUR.to_owned(),
            memory::WORKERS,
            &[memory::SEPARATE],
        ),
        (
            "the child's work until its queue is its own, 10 000 registrations, µs",
            &fork::COMMIT,
            fork::inherited(10_000),
            fork::FORKIO,
            &[fork::RAW, "libevent", "libuv", "libev"],
        ),
        (
            "wake of an awake selector, ns",
            &selector::TIME,
            Operation::WakeAwake.name(),
            FORKIO.name,
            &[MIO.name, LIBC.name],
        ),
        (
            "register and deregister a socket, 4 threads, ns",
            &selector::TIME,
            Operation::Register(Source::Udp, Threads::Several(4)).name(),
            FORKIO.name,
            &[MIO.name, LIBC.name],
        ),
        (
            "processor time of a request, one worker on one CPU, µs",
            &server::CPU,
            server::one_worker_open(),
            server::PREFORK_HTTP,
            &[server::HYPER_MIO, server::NGINX],
        ),
    ];
    let mut text = String::from("| | forkio | peers |\n|---|---:|---|\n");
    for (name, measure, case, contender, peers) in rows {
        let Some(figure) = data.median(measure, &case, contender) else { continue };
        let peer_figures = |peer: &str| {
            let (peer_figure, ratio) =
                (data.median(measure, &case, peer)?, data.ratio(measure, &case, contender, peer)?);
            Some(format!("{peer} {} ({})", number(peer_figure), number(ratio.median)))
        };
        let peers: Vec<String> = peers.iter().filter_map(|peer| peer_figures(peer)).collect();
        text += &format!("| {name} | {} | {} |\n", number(figure), peers.join("; "));
    }
    let verdicts: Vec<bool> = targets.map(Target::is_met).collect();
    let met = verdicts.iter().filter(|is_met| **is_met).count();
    let about = |name: &str| machine.iter().find(|(about, _)| *about == name).map_or("", |(_, value)| value);
    text += &format!(
        "\nMedians of all rounds. The machine's speed varies from round to round, so compare the ratios of forkio's figure to the \
         peer's within a round: their medians are in parentheses. {met} of forkio's own {} targets are met (see the report). \
         Measured on {}; {}, {}, {}.\n",
        verdicts.len(),
        about("processors"),
        about("kernel"),
        about("C library"),
        about("compiler")
    );
    text
}

/// Replaces the table in the README.
pub(crate) fn write_to(readme: &Path, table: &str) -> io::Result<()> {
    let text = fs::read_to_string(readme)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(io::Error::other(format!(
            "{} does not have the lines {:?} and {:?}",
            readme.display(),
            BEGIN.trim(),
            END.trim()
        )));
    };
    fs::write(readme, format!("{before}{BEGIN}{table}{END}{after}"))
}
