//! The generation of this process, and work that no fork interrupts.

pub(crate) use crate::at_fork::outside_of_forks;

/// Returns the number of forks between the first process and this one. No ancestor has the same number.
pub(crate) fn generation() -> u32 {
    forkio::Lineage::current().generation()
}
