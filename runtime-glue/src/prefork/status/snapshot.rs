//! The state of the server at one moment. Its JSON is `/status.json`.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use super::history::Note;
use super::restart::{Restart, age, unix_time};
use super::scoreboard::{Memory, Totals};
use super::service::ServiceState;
use crate::prefork::reason::Reason;
use crate::prefork::slots::{DRAINS, READY, ServerPhase, Slots, TOLD};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The worker is not ready yet.
    #[default]
    Booting,
    /// The worker is ready, and no request is in flight.
    Ready,
    /// The worker is ready, and requests are in flight.
    Busy,
    /// The worker was told to end.
    Draining,
}

impl State {
    pub(super) const ALL: [State; 4] = [State::Booting, State::Ready, State::Busy, State::Draining];

    pub(super) fn name(self) -> &'static str {
        match self {
            State::Booting => "booting",
            State::Ready => "ready",
            State::Busy => "busy",
            State::Draining => "draining",
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Snapshot {
    pub(super) server: ServerState,
    /// The workers, in the order of their index, and then of their generation.
    pub(super) workers: Vec<WorkerState>,
    /// The number of requests to all workers, including workers that have ended.
    pub(super) requests: u64,
    /// The latency of the requests that were timed.
    pub(super) latency: Latency,
    pub(super) ended: Vec<Ended>,
    /// The last failures of workers, and the last other ends of workers, the newest first.
    pub(super) restarts: Vec<RestartState>,
    pub(super) history: Vec<Note>,
    #[serde(skip)]
    pub(super) totals: Totals,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ServerState {
    /// The process id of the supervisor.
    pub(super) pid: u32,
    /// `starting`, `serving`, `reloading`, `lame-duck`, `stopping` or `handed-over`.
    pub(super) state: &'static str,
    pub(super) uptime_seconds: f64,
    pub(super) start_unix_time: u64,
    /// The generation that serves.
    pub(super) generation: u64,
    /// The generation that a reload starts.
    pub(super) next_generation: Option<u64>,
    /// How many workers there should be.
    pub(super) wanted: usize,
    /// Whether a worker is ready, and load balancers should send connections.
    pub(super) is_ready: bool,
    pub(super) service_pid: u32,
    pub(super) service_starts: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct WorkerState {
    pub(super) index: usize,
    pub(super) pid: u32,
    pub(super) generation: u64,
    pub(super) state: State,
    pub(super) uptime_seconds: f64,
    /// The time since the worker's last heartbeat, or `None` before the first one.
    pub(super) heartbeat_age_seconds: Option<f64>,
    pub(super) requests: u64,
    pub(super) requests_in_flight: u64,
    pub(super) connections: usize,
    pub(super) latency: Latency,
    /// `None` if it is not known.
    pub(super) memory: Option<Memory>,
}

/// Latencies, in seconds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Latency {
    /// How many requests were timed.
    pub(super) count: u64,
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// How many workers with the same index have ended for the same reason.
#[derive(Debug, Serialize)]
pub(super) struct Ended {
    pub(super) worker: usize,
    pub(super) reason: &'static str,
    pub(super) count: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct RestartState {
    pub(super) unix_time: u64,
    pub(super) age_seconds: f64,
    pub(super) worker: u64,
    pub(super) pid: u64,
    pub(super) generation: u64,
    pub(super) reason: &'static str,
    /// The reason in words.
    pub(super) text: &'static str,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) uptime_seconds: f64,
}

impl WorkerState {
    fn is_serving(&self) -> bool {
        matches!(self.state, State::Ready | State::Busy)
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Latency {
        let quantile = |part| histogram.quantile(part).map(|duration: Duration| duration.as_secs_f64());
        Latency { count: histogram.count(), p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99) }
    }
}

impl RestartState {
    fn of(restart: &Restart) -> RestartState {
        RestartState {
            unix_time: unix_time(restart.age),
            age_seconds: restart.age.as_secs_f64(),
            worker: restart.index,
            pid: restart.pid,
            generation: restart.generation,
            reason: restart.reason.name(),
            text: restart.reason.text(),
            exit_code: restart.status.code(),
            signal: restart.status.signal(),
            uptime_seconds: restart.uptime.as_secs_f64(),
        }
    }
}

impl Snapshot {
    /// Returns how many worker indices have a worker that serves. In a reload, an index may have two.
    pub(super) fn serving(&self) -> usize {
        let serving = self.workers.iter().filter(|worker| worker.is_serving());
        // The workers are in the order of their index.
        let mut indices: Vec<usize> = serving.map(|worker| worker.index).collect();
        indices.dedup();
        indices.len()
    }

    pub(super) fn take(service: &ServiceState) -> Snapshot {
        let snapshot = service.common.scoreboard.read_at_once(|| Snapshot::read(service));
        Snapshot { history: service.history().notes(), ..snapshot }
    }

    fn read(service: &ServiceState) -> Snapshot {
        let common = &service.common;
        let (slots, scoreboard) = (&common.slots, &common.scoreboard);
        let server = scoreboard.server();
        let totals = scoreboard.totals(slots);
        let phase = slots.phase();
        let open = common.balance.open_each();
        let workers = (0..slots.used()).filter_map(|slot| {
            let index = slots.index(slot)?;
            let heartbeat = Some(slots.heartbeat(slot)).filter(|time| *time > 0);
            Some(WorkerState {
                index,
                pid: slots.pid(slot),
                generation: slots.generation(slot),
                state: state(slots, slot, phase),
                uptime_seconds: age(slots.since(slot)).as_secs_f64(),
                heartbeat_age_seconds: heartbeat.map(|time| age(time).as_secs_f64()),
                requests: slots.requests(slot),
                requests_in_flight: slots.in_flight(slot),
                connections: open.get(slot).copied().unwrap_or(0),
                latency: Latency::of(totals.slots.get(slot).unwrap_or(&Histogram::default())),
                memory: scoreboard.memory(slot),
            })
        });
        // A worker without a process id has not been forked yet, or has just ended.
        let mut workers: Vec<WorkerState> = workers.filter(|worker| worker.pid > 0).collect();
        workers.sort_by_key(|worker| (worker.index, worker.generation));
        let has_ready = workers.iter().any(WorkerState::is_serving);
        Snapshot {
            server: ServerState {
                pid: service.supervisor,
                state: match phase {
                    ServerPhase::LameDuck => "lame-duck",
                    ServerPhase::Stopping => "stopping",
                    ServerPhase::HandedOver => "handed-over",
                    ServerPhase::Running if server.next_generation.is_some() => "reloading",
                    ServerPhase::Running if server.is_up => "serving",
                    ServerPhase::Running => "starting",
                },
                uptime_seconds: scoreboard.uptime().as_secs_f64(),
                start_unix_time: server.start_unix_time,
                generation: server.generation,
                next_generation: server.next_generation,
                wanted: server.wanted,
                is_ready: phase == ServerPhase::Running && has_ready,
                service_pid: std::process::id(),
                service_starts: server.service_starts,
            },
            workers,
            requests: totals.requests.iter().sum(),
            latency: Latency::of(&totals.latency),
            ended: ended(&totals),
            restarts: scoreboard.restarts().iter().map(RestartState::of).collect(),
            history: Vec::new(),
            totals,
        }
    }
}

fn ended(totals: &Totals) -> Vec<Ended> {
    let places = totals.restarts.iter().enumerate();
    let counts = places.flat_map(|(worker, counts)| {
        let of_reason = move |(reason, count): (&Reason, &u64)| Ended { worker, reason: reason.name(), count: *count };
        Reason::ALL.iter().zip(counts).filter(|(_, count)| **count > 0).map(of_reason)
    });
    counts.collect()
}

fn state(slots: &Slots, slot: usize, phase: ServerPhase) -> State {
    let flags = slots.flags(slot);
    let all_drain = matches!(phase, ServerPhase::Stopping | ServerPhase::HandedOver);
    match flags & READY != 0 {
        _ if all_drain || flags & (DRAINS | TOLD) != 0 => State::Draining,
        false => State::Booting,
        true if slots.in_flight(slot) > 0 => State::Busy,
        true => State::Ready,
    }
}
