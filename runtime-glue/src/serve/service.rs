//! The services that a server accepts.

use std::any::Any;
use std::error::Error;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

/// A service of hyper: the `Kind` of [`HttpService`].
#[derive(Debug)]
pub enum Hyper {}

/// A service of tower: the `Kind` of [`HttpService`].
#[derive(Debug)]
pub enum Tower {}

/// A hyper or tower service that answers HTTP requests: an axum `Router`, for instance, or hyper's `service_fn`.
///
/// Every such service that can be cloned and used on several threads implements this trait. `Kind`, which the compiler
/// infers, keeps the two implementations apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP service",
    label = "not a hyper or tower service for `Request<hyper::body::Incoming>`",
    note = "an axum `Router` needs its state: call `with_state`",
    note = "the service must be `Clone + Send + Sync + 'static`, and its futures `Send`"
)]
pub trait HttpService<Kind> {
    /// The service for hyper.
    type Service: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Self::Body>,
            Error: Into<Box<dyn Error + Send + Sync>>,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static;
    /// The body of its responses.
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Converts this service into one for hyper.
    fn into_hyper(self) -> Self::Service;
}

impl<S, B> HttpService<Hyper> for S
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Service = S;
    type Body = B;

    fn into_hyper(self) -> S {
        self
    }
}

impl<S, B> HttpService<Tower> for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Service = TowerToHyperService<S>;
    type Body = B;

    fn into_hyper(mut self) -> TowerToHyperService<S> {
        make_routes(&mut self);
        TowerToHyperService::new(self)
    }
}

/// A short name for the bounds of a service that serves a connection.
pub(crate) trait ConnectionService:
    hyper::service::Service<
        Request<Incoming>,
        Response = Response<Self::Body>,
        Error: Into<Box<dyn Error + Send + Sync>>,
        Future: Send + 'static,
    > + Send
    + 'static
{
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
}

impl<S, B> ConnectionService for S
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;
}

/// If the service is an axum `Router`, turns its handlers into services. Without this, axum does so for each request.
/// `axum::serve` prepares a `Router` in the same way.
fn make_routes(_service: &mut dyn Any) {
    #[cfg(feature = "axum")]
    if let Some(router) = _service.downcast_mut::<axum::Router>() {
        *router = std::mem::take(router).with_state(());
    }
}
