//! The interface of `process.rs`, for systems without `fork(2)`.

pub(crate) fn generation() -> u32 {
    0
}

pub(crate) fn outside_of_forks<T>(work: impl FnOnce() -> T) -> T {
    work()
}
