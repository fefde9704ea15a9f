//! Extensions for Unix: bare descriptors, pipes, timers, signals and processes.

pub mod pipe;
mod process;
mod signals;
mod source_fd;
mod timer;

pub use self::process::Process;
pub use self::signals::{SignalInfo, Signals};
pub use self::source_fd::SourceFd;
pub use self::timer::Timer;
pub use crate::timer_state::Clock;
