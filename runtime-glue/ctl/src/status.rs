//! Shows the state of a server, as a table of its workers or as JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::STATE_TIMEOUT;
use crate::state::State;
use crate::{Failure, print};

/// How often `--watch` shows the state.
const PERIOD: Duration = Duration::from_secs(1);

/// How long `--watch` waits for a server that has answered before. The server may be replacing its service worker or its
/// program.
const PATIENCE: Duration = Duration::from_secs(5);

/// Moves the cursor to the top left corner, and clears the rest of the terminal.
const CLEAR: &str = "\x1b[H\x1b[J";

const COLUMNS: [&str; 11] =
    ["WORKER", "STATE", "PID", "GENERATION", "UP", "REQUESTS", "IN FLIGHT", "CONNECTIONS", "P50", "P99", "RSS/PSS MIB"];

/// Shows the state of a server, once or every second.
pub(crate) fn show(control: &Path, watch: bool, json: bool) -> Result<(), Failure> {
    let mut answered: Option<Instant> = None;
    loop {
        let text = match render(control, watch, json) {
            Err(Failure::Unreachable(_)) if answered.is_some_and(|at| at.elapsed() < PATIENCE) => {
                sleep(PERIOD);
                continue;
            }
            text => text?,
        };
        if !print(&text)? || !watch {
            return Ok(());
        }
        answered = Some(Instant::now());
        sleep(PERIOD);
    }
}

/// Returns the state of a server as text.
fn render(control: &Path, watch: bool, json: bool) -> Result<Vec<u8>, Failure> {
    if json {
        let mut json = State::json(control, STATE_TIMEOUT)?;
        json.push(b'\n');
        return Ok(json);
    }
    let clear = if watch && io::stdout().is_terminal() { CLEAR } else { "" };
    Ok(format!("{clear}{}", table(&State::of(control, STATE_TIMEOUT)?)).into_bytes())
}

fn table(state: &State) -> String {
    let server = &state.server;
    let generation = match server.next_generation {
        Some(next) => format!("generation {} -> {next}", server.generation),
        None => format!("generation {}", server.generation),
    };
    let rate = state.history.last().map_or(0.0, |note| note.requests_per_second);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "supervisor {}: {}, {generation}, {} of {} workers, up {}, {} requests, {rate:.0} per second\n",
        server.pid,
        server.state,
        state.serving(None),
        server.wanted,
        duration(server.uptime_seconds),
        state.requests
    );
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(state.workers.iter().map(|worker| {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let memory = worker.memory.as_ref();
        [
            worker.index.to_string(),
            worker.state.clone(),
            worker.pid.to_string(),
            worker.generation.to_string(),
            duration(worker.uptime_seconds),
            worker.requests.to_string(),
            worker.requests_in_flight.to_string(),
            worker.connections.to_string(),
            worker.latency.p50.map_or("-".to_owned(), latency),
            worker.latency.p99.map_or("-".to_owned(), latency),
            memory
                .map_or("-".to_owned(), |memory| format!("{:.1}/{:.1}", mebibytes(memory.rss), mebibytes(memory.pss))),
        ]
    }));
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, _, _) => format!("{days}d{hours}h"),
    }
}

fn latency(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        seconds => format!("{seconds:.1}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let state: State = serde_json::from_str(
            r#"{ "requests": 12, "history": [{ "requests_per_second": 3.6 }],
                 "server": { "pid": 7, "state": "reloading", "uptime_seconds": 61.5, "generation": 1,
                             "next_generation": 2, "wanted": 2 },
                 "workers": [
                   { "index": 0, "pid": 8, "generation": 1, "state": "ready", "uptime_seconds": 60.0,
                     "requests": 12, "requests_in_flight": 1, "connections": 1,
                     "latency": { "p50": 0.00025, "p99": 0.0125 }, "memory": { "rss": 1048576, "pss": 524288 } },
                   { "index": 0, "pid": 123456, "generation": 2, "state": "booting", "uptime_seconds": 0.2,
                     "requests": 0, "requests_in_flight": 0, "connections": 0,
                     "latency": { "p50": null, "p99": null }, "memory": null } ] }"#,
        )
        .unwrap();
        let table = table(&state);
        let mut lines = table.lines();
        let head = "supervisor 7: reloading, generation 1 -> 2, 1 of 2 workers, up 1m1s, 12 requests, 4 per second";
        assert_eq!(lines.next(), Some(head));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<&str> = lines.collect();
        assert_eq!(
            rows[1].split_whitespace().collect::<Vec<_>>(),
            ["0", "ready", "8", "1", "1m0s", "12", "1", "1", "250us", "12.5ms", "1.0/0.5"]
        );
        let end_of_pid = rows[0].find("PID").unwrap() + 3;
        assert!(rows[1][..end_of_pid].ends_with(" 8") && rows[2][..end_of_pid].ends_with("123456"), "{table}");
    }
}
