//! Which process this is, and whether it is forking now.

pub(crate) use crate::at_fork::outside_of_forks;

/// Returns the number of forks between this process and the first one. It differs from that of each ancestor.
pub(crate) fn generation() -> u32 {
    forkio::Lineage::current().generation()
}
