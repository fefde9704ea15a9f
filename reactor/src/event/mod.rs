//! Readiness events and the sources they come from.

#[expect(clippy::module_inception, reason = "the file is named for the type in it")]
mod event;
mod events;
mod source;

pub use self::event::Event;
pub use self::events::{Events, Iter};
pub use self::source::Source;
