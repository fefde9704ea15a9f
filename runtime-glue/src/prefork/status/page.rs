//! The page for people: HTML without external assets, which works without JavaScript.

use std::fmt::Write;

use super::history::Note;
use super::plot::{Line, plot};
use super::scoreboard::Memory;
use super::snapshot::{Latency, RestartState, Snapshot, WorkerState};

/// Allows only the styles and scripts inside the page, and requests to the same server.
pub(super) const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// How many seconds the plots show.
const SECONDS: usize = 300;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut page = String::with_capacity(64 * 1024);
    // Writing to a string does not fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{} - forkio</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <style>{STYLE}</style></head><body><main>",
        snapshot.server.state
    );
    let _ = header(&mut page, snapshot);
    let _ = plots(&mut page, snapshot);
    let _ = workers(&mut page, snapshot);
    let _ = restarts(&mut page, snapshot);
    page.push_str(
        "</main><footer><a href=\"status.json\">JSON</a> <a href=\"metrics\">metrics</a> \
         <span id=\"live\"></span></footer>",
    );
    let _ = write!(page, "<script>{SCRIPT}</script></body></html>");
    page
}

fn header(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let server = &snapshot.server;
    write!(page, "<header><h1><span class=\"state {0}\">{0}</span></h1><dl>", server.state)?;
    let generation = match server.next_generation {
        Some(next) => format!("{} &rarr; {next}", server.generation),
        None => server.generation.to_string(),
    };
    let open: usize = snapshot.workers.iter().map(|worker| worker.connections).sum();
    for (name, value) in [
        ("supervisor", server.pid.to_string()),
        ("up for", duration(server.uptime_seconds)),
        ("workers", format!("{} of {}", snapshot.serving(), server.wanted)),
        ("generation", generation),
        ("requests", snapshot.requests.to_string()),
        ("connections", open.to_string()),
    ] {
        write!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    page.push_str("</dl></header>");
    Ok(())
}

fn plots(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let notes = &snapshot.history;
    let line = |class, value: fn(&Note) -> Option<f64>| Line { class, values: notes.iter().map(value).collect() };
    let now = notes.last().map_or(0.0, |note| note.requests_per_second);
    let most = notes.iter().map(|note| note.requests_per_second).fold(0.0, f64::max);
    write!(
        page,
        "<section class=\"plots\"><figure><figcaption>requests per second: <b>{}</b>, at most {}</figcaption>{}</figure>",
        number(now),
        number(most),
        plot(
            "requests per second in the last five minutes",
            &[line("rate", |note| Some(note.requests_per_second))],
            SECONDS
        )
    )?;
    let lines = [line("p50", |note| note.p50), line("p90", |note| note.p90), line("p99", |note| note.p99)];
    let newest = notes.iter().rev().find(|note| note.p50.is_some());
    let value = |value: Option<f64>| value.map_or("-".to_owned(), latency);
    write!(
        page,
        "<figure><figcaption>latency: <i class=\"p50\">p50</i> <b>{}</b> <i class=\"p90\">p90</i> <b>{}</b> \
         <i class=\"p99\">p99</i> <b>{}</b></figcaption>{}</figure></section>\
         <p class=\"note\">The last five minutes. About 1 of 16 requests is timed, until the head of its response.</p>",
        value(newest.and_then(|note| note.p50)),
        value(newest.and_then(|note| note.p90)),
        value(newest.and_then(|note| note.p99)),
        plot("latency in the last five minutes", &lines, SECONDS)
    )
}

fn workers(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    // During a reload, the page shows the generations side by side.
    let mut generations: Vec<u64> = snapshot.workers.iter().map(|worker| worker.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    page.push_str("<section class=\"generations\">");
    for generation in generations {
        let of_generation = || snapshot.workers.iter().filter(|worker| worker.generation == generation);
        write!(
            page,
            "<div class=\"generation\"><h2>Generation {generation}</h2><table><thead><tr><th>worker</th><th>state</th>\
             <th>pid</th><th>up for</th><th>requests</th><th>in flight</th><th>connections</th><th>p50</th><th>p99</th>\
             <th>RSS</th><th>PSS</th><th>shared</th></tr></thead><tbody>"
        )?;
        for worker in of_generation() {
            row(page, worker)?;
        }
        page.push_str("</tbody></table></div>");
    }
    page.push_str("</section>");
    Ok(())
}

fn row(page: &mut String, worker: &WorkerState) -> std::fmt::Result {
    let Latency { p50, p99, .. } = &worker.latency;
    let memory = |value: fn(Memory) -> u64| worker.memory.map_or("-".to_owned(), |memory| mebibytes(value(memory)));
    write!(
        page,
        "<tr class=\"{0}\"><th scope=\"row\" data-name=\"worker\">{1}</th>\
         <td data-name=\"state\"><span class=\"state {0}\">{0}</span></td>",
        worker.state.name(),
        worker.index
    )?;
    for (name, value) in [
        ("pid", worker.pid.to_string()),
        ("up for", duration(worker.uptime_seconds)),
        ("requests", worker.requests.to_string()),
        ("in flight", worker.requests_in_flight.to_string()),
        ("connections", worker.connections.to_string()),
        ("p50", p50.map_or("-".to_owned(), latency)),
        ("p99", p99.map_or("-".to_owned(), latency)),
        ("RSS", memory(|memory| memory.rss)),
        ("PSS", memory(|memory| memory.pss)),
        ("shared", memory(|memory| memory.shared)),
    ] {
        write!(page, "<td data-name=\"{name}\">{value}</td>")?;
    }
    page.push_str("</tr>");
    Ok(())
}

fn restarts(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    page.push_str("<section><h2>Workers that have ended</h2>");
    if snapshot.restarts.is_empty() {
        page.push_str("<p class=\"note\">No worker has ended.</p></section>");
        return Ok(());
    }
    page.push_str(
        "<table><thead><tr><th>ago</th><th>worker</th><th class=\"why\">why</th><th>pid</th><th>generation</th><th>exit</th>\
         <th>was up for</th></tr></thead><tbody>",
    );
    for restart in &snapshot.restarts {
        page.push_str("<tr>");
        let ago = duration(restart.age_seconds);
        write!(
            page,
            "<td data-name=\"ago\">{ago}</td><td data-name=\"worker\">{}</td><td data-name=\"why\" class=\"why\">{}</td>",
            restart.worker, restart.text
        )?;
        for (name, value) in [
            ("pid", restart.pid.to_string()),
            ("generation", restart.generation.to_string()),
            ("exit", exit(restart)),
            ("was up for", duration(restart.uptime_seconds)),
        ] {
            write!(page, "<td data-name=\"{name}\">{value}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></section>");
    Ok(())
}

fn exit(restart: &RestartState) -> String {
    match (restart.exit_code, restart.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "-".to_owned(),
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

fn latency(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.0} &micro;s", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{ServerState, State};
    use super::*;

    #[test]
    fn an_index_with_two_workers_counts_once() {
        let worker = |index| WorkerState { index, state: State::Ready, ..WorkerState::default() };
        let snapshot = Snapshot {
            server: ServerState { wanted: 2, ..ServerState::default() },
            workers: vec![worker(0), worker(0), worker(1)],
            ..Snapshot::default()
        };
        assert!(render(&snapshot).contains("<dt>workers</dt><dd>2 of 2</dd>"));
    }

    #[test]
    fn units() {
        assert_eq!(duration(59.9), "59 s");
        assert_eq!(duration(3725.0), "1 h 2 min");
        assert_eq!(duration(200_000.0), "2 d 7 h");
        assert_eq!(
            (latency(0.000_25), latency(0.0125), latency(2.0)),
            ("250 &micro;s".into(), "12.5 ms".into(), "2.0 s".into())
        );
        assert_eq!((number(3.25), number(1234.5)), ("3.2".into(), "1234".into()));
        assert_eq!(mebibytes(3 << 19), "1.5 MiB");
    }
}
