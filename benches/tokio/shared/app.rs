//! The axum application of the benchmarks. It gives the answer of `examples/prefork-http` to `GET /`.

use axum::Router;
use axum::routing::get;

pub(crate) fn app() -> Router {
    Router::new().route("/", get(async || "Hello, World!"))
}
