//! A prefork server: one process, the supervisor, holds the listeners, and N workers serve.
//!
//! The supervisor binds, loads and starts everything once, and forks. Workers continue the same program in the same state,
//! each with its own copy of the runtime. Memory that no process writes stays shared.
//!
//! | I want to | use |
//! |---|---|
//! | configure and run a server | [`Prefork`] |
//! | accept connections in a worker | [`Worker::incoming`], [`Incoming`] |
//! | serve HTTP | `forkio::Server`, or `prefork::http` for more control (feature `http`) |
//! | finish tasks before a worker ends | [`WorkerHandle::spawn`] |
//! | load data once, and again at each reload | [`Prefork::load`] |
//! | choose how connections are distributed to workers | [`Distribution`] |
//! | take listeners from systemd or an upgrade | [`Inherited`] |
//! | see and control a server | `Prefork::status`, `Prefork::control` (feature `status`) |
//! | look up signals, reloads, systemd and containers | [`guide::operating`](crate::guide::operating) |

mod accept_queues;
mod acceptor;
mod balance;
mod connections;
mod crash;
mod distribution;
mod drain;
#[cfg(feature = "http")]
pub mod http;
mod incoming;
mod inherited;
mod limits;
mod listener;
mod measurement;
pub(crate) mod options;
mod outcome;
mod pid_file;
mod privileges;
mod reaper;
mod reason;
mod service_manager;
mod signals;
mod slots;
#[cfg_attr(not(feature = "status"), path = "status_off.rs")]
mod status;
mod supervisor;
mod tasks;
mod template;
mod upgrade;
mod worker;

pub use self::acceptor::{Accept, Acceptor};
pub use self::connections::{Connections, Counted};
pub use self::distribution::Distribution;
pub use self::drain::{Phase, Shutdown};
pub use self::incoming::Incoming;
pub use self::inherited::Inherited;
pub use self::listener::Listener;
pub use self::options::{Loading, Prefork};
pub use self::outcome::{PreforkError, Stopped};
#[cfg(feature = "http")]
pub(crate) use self::worker::enter_worker_span;
pub use self::worker::{TrackedRequest, Worker, WorkerHandle, WorkerOutput};
