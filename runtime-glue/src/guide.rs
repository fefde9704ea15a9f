//! Guides: from a symptom to its fix, and what to think of before a fork.
//!
//! - [`hangs`]: I fork and it hangs.
//! - [`copied`]: what else is copied by accident.

#[doc = include_str!("../docs/hangs.md")]
pub mod hangs {}

#[doc = include_str!("../docs/copied.md")]
pub mod copied {}
