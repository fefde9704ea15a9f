//! The sections of the report, one for each question.

mod calls;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod selector;
pub(crate) mod server;
mod status;

use std::error::Error;

use crate::data::Data;
use crate::picture::Picture;
use crate::plan::Plan;
use crate::table::Table;
use crate::target::Target;

/// The result of measuring a section. An error ends the measurement of this section early.
pub(crate) type Measured = Result<(), Box<dyn Error>>;

/// A part of the report that can be measured alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    /// The name on the command line.
    pub(crate) name: &'static str,
    /// The heading in the report.
    pub(crate) question: &'static str,
    pub(crate) measure: fn(&Plan, &mut Data) -> Measured,
    pub(crate) tables: fn() -> Vec<Table>,
    pub(crate) targets: fn(&Data) -> Vec<Target>,
    pub(crate) pictures: fn(&Data) -> Vec<Picture>,
}

/// All sections, in the order of the report.
pub(crate) const ALL: [Section; 6] =
    [selector::SECTION, fork::SECTION, server::SECTION, memory::SECTION, calls::SECTION, status::SECTION];
