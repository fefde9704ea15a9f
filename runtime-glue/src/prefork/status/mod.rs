//! The status page, the metrics and the control socket of a server (feature `status`).
//!
//! | file | concern |
//! |---|---|
//! | `histogram.rs`, `scoreboard.rs`, `restart.rs` | the figures that workers and the supervisor write into shared memory |
//! | `process.rs`, `socket_file.rs` | the service worker as the supervisor sees it: listeners, start, end, messages |
//! | `control.rs` | the fork of the service worker, and the commands of operators, carried out by the supervisor |
//! | `memory.rs` | the memory of the workers, measured by the supervisor |
//! | `service.rs` | the service worker: a process that serves everything below |
//! | `http.rs` | the connections and the routes of the service worker; the users that may control the server |
//! | `channel.rs` | the requests of the service worker to the supervisor |
//! | `history.rs`, `snapshot.rs` | the last minutes; the state at one moment, which is also the JSON |
//! | `metrics.rs`, `page.rs`, `plot.rs` | that state for Prometheus and for people |

mod channel;
mod control;
mod histogram;
mod history;
mod http;
mod memory;
mod metrics;
mod page;
mod plot;
mod process;
mod restart;
mod scoreboard;
mod service;
mod snapshot;
mod socket_file;

use std::path::PathBuf;

pub(super) use self::process::{Service, ServiceEvent};
pub(super) use self::scoreboard::{RequestStart, Scoreboard};
pub(super) use self::service::ServiceProcess;

/// The addresses at which the service worker serves the page and the control socket.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusOptions {
    /// The address of the page, as text.
    pub(super) page: Option<String>,
    pub(super) control: Option<PathBuf>,
}

impl StatusOptions {
    /// Returns whether there is a service worker.
    pub(super) fn is_shown(&self) -> bool {
        self.page.is_some() || self.control.is_some()
    }
}
