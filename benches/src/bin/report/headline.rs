//! The figures that the README shows.

use std::fs;
use std::io;
use std::path::Path;

use crate::data::{Data, Measure};
use crate::fork::{RUNTIME, case, response_case};
use crate::render::number;
use crate::server::{
    FOUR_WORKERS, HALF_LOAD, HELLO, NGINX, ONE_THREAD, PREFORK_BALANCED, PREFORK_HTTP, REUSEPORT, SEPARATE, THREADS,
};
use crate::targets::Target;

/// What stands before the figures in the README, and after them.
const BEGIN: &str = "<!-- The figures, as benches/run writes them. -->\n";
const END: &str = "<!-- The end of the figures. -->\n";

/// A row: what it is, where it comes from, ours and theirs.
type Row = (&'static str, Measure, String, &'static str, &'static [&'static str]);

/// The rows that were measured.
pub(crate) fn table(data: &Data, targets: &[Target], machine: &[(&'static str, String)], busy: bool) -> String {
    let loops: &[&str] = &["raw epoll", "libevent", "libuv", "libev", "fresh tokio runtime"];
    let servers: &[&str] = &[ONE_THREAD, THREADS, REUSEPORT, NGINX];
    let rows: [Row; 12] = [
        ("the child's queue, 10 registrations, µs", Measure::Commit, case(10, "all inherited"), "forkio", loops),
        ("the same, 10 000 registrations, µs", Measure::Commit, case(10_000, "all inherited"), "forkio", loops),
        (
            "from fork to the child's first response, µs",
            Measure::Response,
            response_case(0),
            RUNTIME,
            &["bare fork", "fresh tokio runtime"],
        ),
        (
            "register and deregister, ns",
            Measure::ReactorTime,
            "register and deregister `TcpStream`, read and write".to_owned(),
            "forkio",
            &["mio", "libc"],
        ),
        ("reregister, ns", Measure::ReactorTime, "reregister, same interest".to_owned(), "forkio", &["mio", "libc"]),
        ("poll of nothing, ns", Measure::ReactorTime, "poll of nothing".to_owned(), "forkio", &["mio", "libc"]),
        (
            "1 000 wakes, then poll, ns",
            Measure::ReactorTime,
            "1 000 wakes, then poll".to_owned(),
            "forkio",
            &["mio", "libc"],
        ),
        ("processor time of a request, µs", Measure::KeepAliveCpu, HELLO.to_owned(), PREFORK_HTTP, servers),
        ("the same, a connection for each, µs", Measure::ShortCpu, HELLO.to_owned(), PREFORK_HTTP, servers),
        (
            "p99.9 of the latency, half of the load, µs",
            Measure::Latency999,
            HALF_LOAD.to_owned(),
            PREFORK_HTTP,
            servers,
        ),
        (
            "requests per second, 45 µs of work in each",
            Measure::WorkThroughput,
            HELLO.to_owned(),
            PREFORK_BALANCED,
            &[THREADS, ONE_THREAD],
        ),
        (
            "memory of 4 workers with a table of 200 MiB, MiB",
            Measure::Pss,
            FOUR_WORKERS.to_owned(),
            PREFORK_HTTP,
            &[SEPARATE],
        ),
    ];
    let mut text = String::from("| | forkio | peers |\n|---|---:|---|\n");
    for (name, measure, case, ours, peers) in rows {
        let Some(figure) = data.median(measure, &case, ours) else { continue };
        let peers =
            peers.iter().filter_map(|peer| Some(format!("{peer} {}", number(data.median(measure, &case, peer)?))));
        text += &format!("| {name} | {} | {} |\n", number(figure), peers.collect::<Vec<_>>().join("; "));
    }
    let met = targets.iter().filter(|target| target.is_met()).count();
    let about = |name: &str| machine.iter().find(|(about, _)| *about == name).map_or("", |(_, value)| value);
    text += &format!(
        "\n{met} of the {} targets that the report lists are met. Measured on {}; {}, {}, {}.\n",
        targets.len(),
        about("processors"),
        about("kernel"),
        about("C library"),
        about("compiler")
    );
    if busy {
        text += "\nThe machine was busy with other work: first response, latency and requests per second say little here.\n";
    }
    text
}

/// Puts the table in its place.
pub(crate) fn write_to(readme: &Path, table: &str) -> io::Result<()> {
    let text = fs::read_to_string(readme)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(io::Error::other(format!("{} has no place for the figures", readme.display())));
    };
    fs::write(readme, format!("{before}{BEGIN}{table}{END}{after}"))
}
