//! Which process this is.

/// The number of forks between this process and the first one. It differs from those of its parent and ancestors.
pub(crate) fn generation() -> u32 {
    forkio::Lineage::current().generation()
}
