//! The state of a server: the part of its JSON that this program needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::Failure;
use crate::client::send;

#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) server: Server,
    pub(crate) workers: Vec<Worker>,
    pub(crate) requests: u64,
    #[serde(default)]
    pub(crate) history: Vec<Note>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) state: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) generation: u64,
    pub(crate) next_generation: Option<u64>,
    pub(crate) wanted: usize,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) state: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_in_flight: u64,
    pub(crate) connections: usize,
    pub(crate) latency: Latency,
    pub(crate) memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Note {
    pub(crate) requests_per_second: f64,
}

impl Worker {
    pub(crate) fn is_serving(&self) -> bool {
        self.state == "ready" || self.state == "busy"
    }
}

impl State {
    /// Asks a server for its state. `limit` limits each read of the answer.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`], and [`Failure::Refused`] if the status is not 200, such as when the server refuses this user.
    pub(crate) fn of(control: &Path, limit: Duration) -> Result<State, Failure> {
        State::json(control, limit).and_then(|json| {
            serde_json::from_slice(&json).map_err(|error| {
                Failure::Unreachable(format!(
                    "cannot parse the state of the server: {error}; use the `forkioctl` of its version"
                ))
            })
        })
    }

    /// Like [`of`](State::of), but returns the JSON as the server sends it.
    pub(crate) fn json(control: &Path, limit: Duration) -> Result<Vec<u8>, Failure> {
        let answer = send(control, "GET", "/status.json")?.answer(Some(limit))?;
        match answer.status {
            200 => Ok(answer.body),
            _ => Err(Failure::Refused(String::from_utf8_lossy(&answer.body).trim().to_owned())),
        }
    }

    /// Counts the worker indices that have a serving worker: of `generation`, or of any generation if `None`.
    pub(crate) fn serving(&self, generation: Option<u64>) -> usize {
        let is_counted = |worker: &&Worker| generation.is_none_or(|number| worker.generation == number);
        let serving = self.workers.iter().filter(is_counted).filter(|worker| worker.is_serving());
        serving.map(|worker| worker.index).collect::<BTreeSet<_>>().len()
    }
}
