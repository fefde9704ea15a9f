//! Logging that compiles to nothing without the feature `log`.

macro_rules! trace {
    ($($arg:tt)*) => {{
        #[cfg(feature = "log")]
        log::trace!($($arg)*);
    }};
}
