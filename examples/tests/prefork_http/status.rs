//! The status that a worker reports.

use forkio_tests::http::Client;
use serde_json::Value;

/// The answer to `GET /status`.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) pid: i32,
    pub(crate) ppid: i32,
    pub(crate) worker: u64,
    pub(crate) generation: u64,
    pub(crate) requests: u64,
    pub(crate) connections: Vec<u64>,
    pub(crate) timer_ticks: u64,
    pub(crate) uptime_ms: u64,
    pub(crate) table_entries: u64,
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
}

impl Status {
    pub(crate) fn parse(json: &[u8]) -> Status {
        let json: Value = serde_json::from_slice(json).expect("JSON");
        let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {json}"));
        let pid = |name: &str| i32::try_from(number(name)).expect("a process id");
        Status {
            pid: pid("pid"),
            ppid: pid("ppid"),
            worker: number("worker"),
            generation: number("generation"),
            requests: number("requests"),
            connections: json["connections"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect(),
            timer_ticks: number("timer_ticks"),
            uptime_ms: number("uptime_ms"),
            table_entries: number("table_entries"),
            rss_kib: number("rss_kib"),
            pss_kib: number("pss_kib"),
        }
    }
}

pub(crate) trait AskStatus {
    #[track_caller]
    fn status(&mut self) -> Status;
}

impl AskStatus for Client {
    #[track_caller]
    fn status(&mut self) -> Status {
        let response = self.get("/status").expect("an answer to /status");
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        Status::parse(&response.body)
    }
}
