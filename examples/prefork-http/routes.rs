//! The answers to requests.

use std::os::unix::process::parent_id;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forkio::prefork::{Connections, Worker, WorkerHandle};
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::status::{Memory, Status};
use crate::table::Table;

/// The longest sleep that `GET /sleep/MS` allows.
const MAX_SLEEP_MS: u64 = 60_000;

type Answer = Response<Full<Bytes>>;

/// The state that each worker inherits.
#[derive(Clone, Debug)]
pub(crate) struct Preloaded {
    pub(crate) table: Arc<Table>,
    pub(crate) timer_ticks: Arc<AtomicU64>,
}

/// The site as one worker serves it.
#[derive(Debug)]
pub(crate) struct Site {
    preloaded: Preloaded,
    connections: Connections,
    worker: WorkerHandle,
    started: Instant,
}

impl Site {
    pub(crate) fn new(preloaded: Preloaded, worker: &Worker) -> Site {
        Site { preloaded, connections: worker.connections(), worker: worker.handle(), started: Instant::now() }
    }

    /// Returns how to answer a request. The [`Route`] does not borrow the request: once the request is dropped, hyper can
    /// read the next one into the same buffer.
    pub(crate) fn route(self: &Arc<Site>, request: &Request<Incoming>) -> Route {
        let path = request.uri().path();
        tracing::debug!(method = %request.method(), path, "request");
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            Route::Now(method_not_allowed())
        } else if path == "/" {
            Route::Now(text(StatusCode::OK, "Hello, World!"))
        } else if path == "/pid" {
            Route::Now(text(StatusCode::OK, process::id().to_string()))
        } else if path == "/readyz" {
            Route::Now(self.readiness())
        } else if path == "/status" {
            let site = Arc::clone(self);
            Route::Later(Box::pin(async move { site.status().await }))
        } else if let Some(number) = path.strip_prefix("/table/") {
            Route::Now(self.table_entry(number))
        } else if let Some(milliseconds) = path.strip_prefix("/sleep/") {
            sleep(milliseconds)
        } else {
            Route::Now(not_found())
        }
    }

    async fn status(&self) -> Answer {
        let lineage = forkio::Lineage::current();
        let status = Status {
            pid: process::id(),
            ppid: parent_id(),
            worker: lineage.worker(),
            generation: lineage.generation(),
            requests: self.worker.requests(),
            connections: self.connections.open_each(),
            timer_ticks: self.preloaded.timer_ticks.load(Ordering::Relaxed),
            uptime_ms: self.started.elapsed().as_millis(),
            table_entries: self.preloaded.table.len(),
            memory: Memory::of_this_process().await,
        };
        match serde_json::to_vec(&status) {
            Ok(json) => answer(StatusCode::OK, "application/json", json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn readiness(&self) -> Answer {
        match self.worker.is_lame_duck() {
            false => text(StatusCode::OK, "ready"),
            true => text(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        }
    }

    fn table_entry(&self, number: &str) -> Answer {
        match number.parse().ok().and_then(|number| self.preloaded.table.get(number)) {
            Some(entry) => text(StatusCode::OK, entry.to_string()),
            None => not_found(),
        }
    }
}

pub(crate) enum Route {
    Now(Answer),
    Later(BoxFuture<'static, Answer>),
}

fn sleep(milliseconds: &str) -> Route {
    match milliseconds.parse() {
        Ok(milliseconds @ 0..=MAX_SLEEP_MS) => Route::Later(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            text(StatusCode::OK, format!("slept {milliseconds} ms"))
        })),
        _ => Route::Now(text(
            StatusCode::BAD_REQUEST,
            format!("give a whole number of milliseconds, at most {MAX_SLEEP_MS}"),
        )),
    }
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "Not Found")
}

fn method_not_allowed() -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
