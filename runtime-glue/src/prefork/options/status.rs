//! The status page and the control socket.

use std::path::PathBuf;

use super::Prefork;

impl Prefork {
    /// Serves a status page at an address that [`Address`](crate::Address) accepts, such as `127.0.0.1:9100` (feature
    /// `status`). Off by default.
    ///
    /// | path | content |
    /// |---|---|
    /// | `/status`, `/status.json` | workers, rates, latencies, memory, restarts: for people and for programs |
    /// | `/metrics` | the same for Prometheus |
    /// | `/healthz` | 200 as long as the supervisor and the service worker run |
    /// | `/readyz` | 200 if a worker is ready; 503 if not, or if load balancers should send no more connections |
    ///
    /// A *service worker* serves the page: a process beside the workers, with their privileges. If it dies, the supervisor
    /// starts it again, and the server continues to serve meanwhile. The page is read-only and has no access control: choose
    /// an address that only permitted clients can reach.
    pub fn status(mut self, address: impl ToString) -> Prefork {
        self.settings.status.page = Some(address.to_string());
        self
    }

    /// Serves a control socket at a path, for the program `forkioctl` (feature `status`). Off by default.
    ///
    /// Only root and the user of the supervisor may connect. The server refuses other users even if the permissions of the
    /// socket's file are changed.
    pub fn control(mut self, path: impl Into<PathBuf>) -> Prefork {
        self.settings.status.control = Some(path.into());
        self
    }
}
