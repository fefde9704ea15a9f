//! The selector of upstream mio, on systems without `fork(2)`.

pub use upstream::*;
