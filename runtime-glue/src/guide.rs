//! Guides: problems with forks and their fixes, and how to operate a prefork server.
//!
//! - [`hangs`]: my program hangs after a fork.
//! - [`copied`]: state that a child shares or copies by accident.
//! - [`distribution`]: how evenly the workers share connections.
//! - [`operating`]: signals, reloads, upgrades, systemd and containers of a prefork server.
//! - [`recipes`]: axum programs with workers, daemons, libraries in a host program that forks, test harnesses, clients and pools
//!   in the child.
//! - [`issues`]: what forkio does for issues of other projects, by project and number.
//! - [`tokio`]: what tokio documents about forks, what forkio adds, and what forkio relies on.

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

#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("../docs/issues.md")]
pub mod issues {}
