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

/// The labels of a sample.
type Labels = Vec<(&'static str, String)>;

/// A metric with its samples.
struct Family<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

impl<'a, 'b> Family<'a, 'b> {
    fn new(
        encoder: &'a mut DescriptorEncoder<'b>,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
    ) -> Family<'a, 'b> {
        Family { encoder, name, help, unit }
    }

    fn samples<M: EncodeMetric>(
        &mut self,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        for (labels, sample) in samples {
            sample.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(&mut self, samples: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.samples(MetricType::Counter, samples)
    }

    fn gauges(&mut self, samples: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.samples(MetricType::Gauge, samples)
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
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Metrics(snapshot) = self;
        let encoder = &mut encoder;
        let server = &snapshot.server;
        let alone = |value: f64| [(Labels::new(), value)];
        Family::new(encoder, "uptime", "Time since the start of the supervisor", Some(Unit::Seconds))
            .gauges(alone(server.uptime_seconds))?;
        Family::new(encoder, "start_time", "Unix time of the start of the supervisor", Some(Unit::Seconds))
            .gauges(alone(server.start_unix_time as f64))?;
        Family::new(encoder, "ready", "Whether load balancers should send connections", None)
            .gauges(alone(f64::from(u8::from(server.is_ready))))?;
        Family::new(encoder, "generation", "Number of the generation that serves", None)
            .gauges(alone(server.generation as f64))?;
        Family::new(encoder, "reloading", "Whether a reload is in progress", None)
            .gauges(alone(f64::from(u8::from(server.next_generation.is_some()))))?;
        Family::new(encoder, "workers_wanted", "Number of workers that should run", None)
            .gauges(alone(server.wanted as f64))?;
        Family::new(encoder, "service_worker_starts", "Starts of the service worker, which serves these metrics", None)
            .counters([(Labels::new(), server.service_starts)])?;
        let states = State::ALL.map(|state| {
            let number = snapshot.workers.iter().filter(|worker| worker.state == state).count();
            (vec![("state", state.name().to_owned())], number as f64)
        });
        Family::new(encoder, "workers", "Workers by state", None).gauges(states)?;
        let requests = snapshot.totals.requests.iter().enumerate();
        // Indices that no worker has ever had have no sample.
        let requests = requests.filter(|(index, requests)| **requests > 0 || *index < server.wanted);
        Family::new(encoder, "requests", "Requests that have begun, by worker index", None)
            .counters(requests.map(|(index, requests)| (worker_label(index), *requests)))?;
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
        Family::new(encoder, "worker_ends", "Workers that have ended, by worker index and reason", None)
            .counters(ended)?;
        let buckets = snapshot.totals.latency.octaves();
        let latency = ConstHistogram { sum: snapshot.totals.latency.sum().as_secs_f64(), buckets: &buckets };
        let help = "Time until the head of a response; one of sixteen requests is timed";
        Family::new(encoder, "request_duration", help, Some(Unit::Seconds))
            .samples(MetricType::Histogram, [(Labels::new(), latency)])?;
        let of_workers = |value: fn(&WorkerState) -> Option<f64>| {
            let samples = snapshot.workers.iter().filter_map(move |worker| Some((labels(worker), value(worker)?)));
            samples.collect::<Vec<_>>()
        };
        Family::new(encoder, "worker_uptime", "Time since the worker was forked", Some(Unit::Seconds))
            .gauges(of_workers(|worker| Some(worker.uptime_seconds)))?;
        Family::new(
            encoder,
            "worker_heartbeat_age",
            "Time since the last heartbeat of the worker's runtime",
            Some(Unit::Seconds),
        )
        .gauges(of_workers(|worker| worker.heartbeat_age_seconds))?;
        Family::new(encoder, "worker_connections", "Open connections", None)
            .gauges(of_workers(|worker| Some(worker.connections as f64)))?;
        Family::new(encoder, "worker_requests_in_flight", "Requests whose response head has not been sent", None)
            .gauges(of_workers(|worker| Some(worker.requests_in_flight as f64)))?;
        Family::new(encoder, "worker_resident_memory", "Resident memory, shared pages included", Some(Unit::Bytes))
            .gauges(of_workers(|worker| Some(worker.memory.as_ref()?.rss as f64)))?;
        Family::new(
            encoder,
            "worker_proportional_memory",
            "Resident memory, each page divided by the number of processes that share it",
            Some(Unit::Bytes),
        )
        .gauges(of_workers(|worker| Some(worker.memory.as_ref()?.pss as f64)))?;
        Family::new(encoder, "worker_shared_memory", "Resident memory that another process has too", Some(Unit::Bytes))
            .gauges(of_workers(|worker| Some(worker.memory.as_ref()?.shared as f64)))
    }
}

fn worker_label(index: usize) -> Labels {
    vec![("worker", index.to_string())]
}

/// Returns the index and the process id: a worker and its successor have the same index, and most often the same generation.
fn labels(worker: &WorkerState) -> Labels {
    vec![("worker", worker.index.to_string()), ("pid", worker.pid.to_string())]
}
