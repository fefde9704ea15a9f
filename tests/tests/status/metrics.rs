//! The metrics for Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use forkio_tests::{kill, limit, scenarios};

use crate::server::{Server, is_serving, request, serving, workers};

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

/// Parses the text format of OpenMetrics. Panics at anything that a scraper would refuse.
#[track_caller]
fn parse(text: &str) -> Samples {
    let mut kinds = BTreeMap::new();
    let mut units = BTreeMap::new();
    let mut samples = Samples::new();
    let lines = text.strip_suffix("# EOF\n").expect("an end").lines();
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name, rest) = (words.next(), words.next().expect("a name"), words.next().unwrap_or(""));
            match keyword {
                Some("TYPE") => assert_eq!(kinds.insert(name.to_owned(), rest.to_owned()), None, "twice: {line}"),
                Some("UNIT") => assert_eq!(units.insert(name.to_owned(), rest.to_owned()), None, "twice: {line}"),
                Some("HELP") => assert!(!rest.is_empty(), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = sample.split('{').next().expect("a name");
        let family = kinds.iter().find(|(family, kind)| {
            let suffix = name.strip_prefix(family.as_str());
            match kind.as_str() {
                "counter" => suffix == Some("_total"),
                "histogram" => matches!(suffix, Some("_sum" | "_count" | "_bucket")),
                _ => suffix == Some(""),
            }
        });
        assert!(family.is_some(), "no family: {line}");
        assert_eq!(samples.insert(sample.to_owned(), value), None, "twice: {line}");
    }
    for (family, unit) in units {
        assert!(family.ends_with(&format!("_{unit}")), "{family} has the unit {unit}");
    }
    samples
}

scenarios!(
    /// A scraper can parse the metrics, which agree with the JSON.
    fn scraped_and_parsed() {
        let server = Server::start(&[]);
        for _ in 0..10 {
            server.pid();
        }
        let state = server.until("both workers are ready", |state| state["requests"] == 10 && serving(state) == 2);
        let answer = request(&server.page, "GET", "/metrics");
        assert!(answer.header("content-type").is_some_and(|kind| kind.contains("application/openmetrics-text")));
        let samples = parse(answer.text());
        let sum = |name: &str| {
            samples.iter().filter(|(sample, _)| sample.starts_with(name)).map(|(_, value)| value).sum::<f64>()
        };
        assert_eq!(sum("forkio_requests_total{"), 10.0, "{samples:?}");
        assert_eq!(
            (samples["forkio_ready"], samples["forkio_workers_wanted"], samples["forkio_generation"]),
            (1.0, 2.0, 1.0)
        );
        assert_eq!(samples["forkio_workers{state=\"booting\"}"], 0.0);
        assert!(samples["forkio_uptime_seconds"] > 0.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64();
        let age = now - samples["forkio_start_time_seconds"];
        assert!((0.0..limit().as_secs_f64()).contains(&age), "{age}");
        for reason in ["died", "boot", "reload"] {
            let name = format!("forkio_worker_ends_total{{worker=\"1\",reason=\"{reason}\"}}");
            assert_eq!(samples.get(&name), Some(&0.0), "{samples:?}");
        }
        for worker in workers(&state) {
            let labels = format!("{{worker=\"{}\",pid=\"{}\"}}", worker["index"], worker["pid"]);
            assert!(samples.contains_key(&format!("forkio_worker_uptime_seconds{labels}")), "{labels}: {samples:?}");
            #[cfg(procfs)]
            assert!(samples[&format!("forkio_worker_resident_memory_bytes{labels}")] > 0.0);
        }
        let buckets = samples.iter().filter_map(|(sample, value)| {
            let end = sample.strip_prefix("forkio_request_duration_seconds_bucket{le=\"")?.strip_suffix("\"}")?;
            Some((if end == "+Inf" { f64::INFINITY } else { end.parse().expect("a number") }, *value))
        });
        let mut buckets: Vec<(f64, f64)> = buckets.collect();
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "cumulative: {buckets:?}");
        let count = samples["forkio_request_duration_seconds_count"];
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
        assert!(count >= 1.0 && samples["forkio_request_duration_seconds_sum"] > 0.0);
        server.stop();
    }

    /// Counters never decrease, even if the worker that has counted is replaced.
    fn counters_survive_workers() {
        let server = Server::start(&["--workers", "1"]);
        let mut before = Samples::new();
        let mut victims = BTreeSet::new();
        while victims.len() < 3 {
            let victim = server.pid();
            victims.insert(victim);
            kill(victim, libc::SIGKILL);
            server.until("the worker is replaced", |state| {
                workers(state).iter().any(|worker| is_serving(worker) && worker["pid"] != victim)
            });
            let now = parse(request(&server.page, "GET", "/metrics").text());
            let is_counter = |name: &str| {
                ["_total", "_count", "_bucket"].iter().any(|end| name.split('{').next().expect("a name").ends_with(end))
            };
            for (name, value) in before.iter().filter(|(name, _)| is_counter(name)) {
                assert!(now.get(name).is_some_and(|now| now >= value), "{name}: {value}, then {:?}", now.get(name));
            }
            before = now;
        }
        assert_eq!(before["forkio_worker_ends_total{worker=\"0\",reason=\"died\"}"], 3.0, "{before:?}");
        assert!(before["forkio_requests_total{worker=\"0\"}"] >= 3.0, "{before:?}");
        server.stop();
    }
);
