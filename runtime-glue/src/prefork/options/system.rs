//! The supervisor's use of the system: pid file, service manager, memory, forks.

use std::path::PathBuf;

use super::Prefork;
use crate::ForkOptions;

impl Prefork {
    /// Keeps the supervisor's process id in a file, from the moment that the server is ready until it ends. A lock on the file
    /// (`fcntl(2)`) shows that the server runs: a second server with the same file does not start.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Prefork {
        self.settings.pid_file = Some(path.into());
        self
    }

    /// Turns the messages to the service manager (`sd_notify(3)`) on or off. They are on by default. Without
    /// `NOTIFY_SOCKET` in the environment, the supervisor sends no messages.
    pub fn notify_service_manager(mut self, notify: bool) -> Prefork {
        self.settings.notifies = notify;
        self
    }

    /// Puts large private mappings into huge pages before the first worker is forked, or in a template after the load.
    /// A fork then copies far fewer page table entries. Needs Linux 6.1; elsewhere the server logs a warning and
    /// continues.
    pub fn huge_pages(mut self, huge: bool) -> Prefork {
        self.settings.huge_pages = huge;
        self
    }

    /// Sets how workers are forked: above all, how long a fork may wait for threads of the blocking pool to end. If
    /// the program resolves a name before [`run`](Prefork::run), the first fork waits until the thread that resolved it ends,
    /// after the runtime's `thread_keep_alive`. The supervisor handles signals meanwhile.
    pub fn fork_options(mut self, options: ForkOptions) -> Prefork {
        self.settings.fork_options = options;
        self
    }

    /// Prepares the next fork while the supervisor waits, so that replacing a worker costs little more than `fork(2)`. On
    /// by default. Meanwhile the supervisor has a few more descriptors, and a second queue for each selector.
    /// The preparation costs nothing per connection.
    ///
    /// This option has no effect with [`load`](Prefork::load), where the template forks. It also has no effect if workers have
    /// listeners of their own ([`Distribution::ReusePort`](crate::prefork::Distribution::ReusePort)), because the supervisor
    /// does not know in advance which worker is the next. If other tasks of the supervisor open or close sockets, each change
    /// discards the preparation.
    pub fn prepare_ahead(mut self, ahead: bool) -> Prefork {
        self.settings.prepare_ahead = ahead;
        self
    }
}
