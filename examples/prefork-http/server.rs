//! The protocols and the service of the workers.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use forkio::prefork::Worker;
use forkio::prefork::http::Http;
use forkio::{HttpService, Hyper};
use futures_util::FutureExt;
use futures_util::future::Either;
use hyper::service::service_fn;
use hyper::{Request, Response};

use crate::access_log::{Entry, Identity, Logged};
use crate::routes::{Preloaded, Route, Site};

/// The longest head of an HTTP/1 request, in bytes. A longer head gets the status 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;

pub(crate) fn http(speaks_http2: bool) -> Http {
    if speaks_http2 {
        Http::new().configure(|hyper| {
            hyper.http1().max_buf_size(MAX_HEADER_BYTES);
        })
    } else {
        Http::http1().configure_http1(|hyper| {
            // Copying a short answer into the buffer of its head costs less than a list of buffers.
            hyper.max_header_size(MAX_HEADER_BYTES).writev(false);
        })
    }
}

pub(crate) fn service(preloaded: Preloaded, worker: &Worker, has_access_log: bool) -> impl HttpService<Hyper> + use<> {
    let site = Arc::new(Site::new(preloaded, worker));
    let identity = Identity::of(worker);
    service_fn(move |request: Request<_>| {
        let entry = has_access_log.then(|| Entry::new(&request, identity));
        let log = |answer: Response<_>| {
            let status = answer.status();
            Ok::<_, Infallible>(answer.map(|body| Logged::new(body, status, entry)))
        };
        match site.route(&request) {
            Route::Now(answer) => Either::Left(ready(log(answer))),
            Route::Later(answer) => Either::Right(answer.map(log)),
        }
    })
}
