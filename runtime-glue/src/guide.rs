//! Guides: from a symptom to its fix, from a default to its reason, from a server to its operation.
//!
//! - [`hangs`]: my program hangs after a fork.
//! - [`copied`]: state that a child shares or copies by accident.
//! - [`distribution`]: how even the workers' shares of connections are.
//! - [`operating`]: signals, reloads, upgrades, systemd and containers of a prefork server.
//! - [`tokio`]: what tokio documents about forks, what forkio adds, and what it relies on.

#[doc = include_str!("../docs/hangs.md")]
pub mod hangs {}

#[doc = include_str!("../docs/copied.md")]
pub mod copied {}

#[doc = include_str!("../docs/distribution.md")]
pub mod distribution {}

#[doc = include_str!("../docs/operating.md")]
pub mod operating {}

#[doc = include_str!("../docs/tokio.md")]
pub mod tokio {}
