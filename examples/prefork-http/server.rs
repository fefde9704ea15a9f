//! What a worker does: serve, and drain.

use std::convert::Infallible;
use std::sync::Arc;

use forkio::prefork::Worker;
use forkio::prefork::http::{CutOff, Http};
use hyper::Request;
use hyper::service::service_fn;

use crate::options::Options;
use crate::routes::{Preloaded, Site};

/// A longer head of a request gets the status 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// How workers serve.
pub(crate) fn http(options: &Options) -> Http {
    let http = if options.http2 {
        Http::new().configure(|hyper| {
            hyper.http1().max_buf_size(MAX_HEADER_BYTES);
        })
    } else {
        Http::http1().configure_http1(|hyper| {
            hyper.max_header_size(MAX_HEADER_BYTES);
        })
    };
    options.server.apply_to_http(http)
}

/// Serves on all listeners of the worker until it has to end, and then what it has accepted, up to the shutdown timeout.
pub(crate) async fn serve(mut worker: Worker, preloaded: Preloaded, http: Http) -> Result<(), CutOff> {
    let site = Arc::new(Site::new(preloaded, &worker));
    let service = service_fn(move |request: Request<_>| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    http.serve(&mut worker, service).await
}
