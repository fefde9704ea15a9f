//! The state of the server for Prometheus, in the text format of OpenMetrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{Snapshot, State, WorkerState};
use crate::prefork::reason::Reason;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("forkio");
    registry.register_collector(Box::new(Metrics(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Metrics(Snapshot);

type Labels = Vec<(&'static str, String)>;

const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);

/// Writes metrics, each with its samples.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn write<M: EncodeMetric>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, sample) in samples {
            sample.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.write((name, help, None), MetricType::Counter, samples)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.write((name, help, unit), MetricType::Gauge, samples)
    }
}

/// A histogram that was counted elsewhere.
struct ConstHistogram<'a> {
    sum: f64,
    buckets: &'a [(f64, u64)],
}

impl EncodeMetric for ConstHistogram<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Metrics(snapshot) = self;
        let server = &snapshot.server;
        let mut families = Families(encoder);
        for (name, help, unit, value) in [
            ("uptime", "Time since the start of the supervisor", SECONDS, server.uptime_seconds),
            ("start_time", "Unix time of the start of the supervisor", SECONDS, server.start_unix_time as f64),
            ("ready", "Whether load balancers should send connections", None, f64::from(u8::from(server.is_ready))),
            ("generation", "Number of the generation that serves", None, server.generation as f64),
            (
                "reloading",
                "Whether a reload is in progress",
                None,
                f64::from(u8::from(server.next_generation.is_some())),
            ),
            ("workers_wanted", "Number of workers that should run", None, server.wanted as f64),
        ] {
            families.gauges(name, help, unit, [(Labels::new(), value)])?;
        }
        let help = "Starts of the service worker, which serves these metrics";
        families.counters("service_worker_starts", help, [(Labels::new(), server.service_starts)])?;
        let states = State::ALL.map(|state| {
            let number = snapshot.workers.iter().filter(|worker| worker.state == state).count();
            (vec![("state", state.name().to_owned())], number as f64)
        });
        families.gauges("workers", "Workers by state", None, states)?;
        let requests = snapshot.totals.requests.iter().enumerate();
        // Indices beyond the workers that should run get no sample, unless one of their workers has had requests.
        let requests = requests.filter(|(index, requests)| **requests > 0 || *index < server.wanted);
        let requests = requests.map(|(index, requests)| (worker_label(index), *requests));
        families.counters("requests", "Requests that have begun, by worker index", requests)?;
        // A counter without a zero sample hides its first event from `rate()`.
        let ended = snapshot.totals.restarts.iter().enumerate();
        let ended = ended.filter(|(index, counts)| *index < server.wanted || counts.iter().any(|count| *count > 0));
        let ended = ended.flat_map(|(index, counts)| {
            Reason::ALL.iter().zip(counts).map(move |(reason, count)| {
                let mut labels = worker_label(index);
                labels.push(("reason", reason.name().to_owned()));
                (labels, *count)
            })
        });
        families.counters("worker_ends", "Workers that have ended, by worker index and reason", ended)?;
        let buckets = snapshot.totals.latency.octaves();
        let latency = ConstHistogram { sum: snapshot.totals.latency.sum().as_secs_f64(), buckets: &buckets };
        let help = "Time until the head of a response; about one of sixteen requests is timed";
        let family = ("request_duration", help, SECONDS);
        families.write(family, MetricType::Histogram, [(Labels::new(), latency)])?;
        type Value = fn(&WorkerState) -> Option<f64>;
        let of_workers: [(_, _, _, Value); 7] = [
            ("uptime", "Time since the worker was forked", SECONDS, |worker| Some(worker.uptime_seconds)),
            ("heartbeat_age", "Time since the last heartbeat of the worker's runtime", SECONDS, |worker| {
                worker.heartbeat_age_seconds
            }),
            ("connections", "Open connections", None, |worker| Some(worker.connections as f64)),
            ("requests_in_flight", "Requests whose response head has not been sent", None, |worker| {
                Some(worker.requests_in_flight as f64)
            }),
            ("resident_memory", "Resident memory, shared pages included", BYTES, |worker| {
                Some(worker.memory?.rss as f64)
            }),
            (
                "proportional_memory",
                "Resident memory, each page divided by the number of processes that share it",
                BYTES,
                |worker| Some(worker.memory?.pss as f64),
            ),
            ("shared_memory", "Resident memory that another process has too", BYTES, |worker| {
                Some(worker.memory?.shared as f64)
            }),
        ];
        for (name, help, unit, value) in of_workers {
            let samples = snapshot.workers.iter().filter_map(|worker| Some((labels(worker), value(worker)?)));
            families.gauges(&format!("worker_{name}"), help, unit, samples)?;
        }
        Ok(())
    }
}

fn worker_label(index: usize) -> Labels {
    vec![("worker", index.to_string())]
}

/// Returns the index and the process id. A worker and its successor have the same index, and often the same generation.
fn labels(worker: &WorkerState) -> Labels {
    vec![("worker", worker.index.to_string()), ("pid", worker.pid.to_string())]
}
