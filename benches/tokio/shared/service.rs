//! The HTTP service of the benchmarks. It gives the answer of `examples/prefork-http` to `GET /`, has the same limits
//! for the head of a request, and does a given amount of work for each request.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: usize = 16 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Service {
    http: http1::Builder,
    work: u64,
}

impl Service {
    /// Makes a service. `work` is the number of loop iterations that each request costs.
    pub(crate) fn new(work: u64) -> Service {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(MAX_HEADER_BYTES);
        Service { http, work }
    }

    pub(crate) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let _ended = self.http.serve_connection(TokioIo::new(stream), service).await;
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut sum = 0_u64;
        for turn in 0..self.work {
            sum = black_box(sum.rotate_left(5) ^ turn);
        }
        black_box(sum);
        let (status, body) = match request.uri().path() {
            "/" => (StatusCode::OK, "Hello, World!"),
            _ => (StatusCode::NOT_FOUND, "Not Found"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}
