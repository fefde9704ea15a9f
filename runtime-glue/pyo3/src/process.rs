//! The generation of this process, and whether it is forking now.

pub(crate) use crate::at_fork::outside_of_forks;

/// Returns the number of forks between this process and the first one. Each of its ancestors has another number.
pub(crate) fn generation() -> u32 {
    forkio::Lineage::current().generation()
}
