//! Extensions for Unix: bare descriptors and pipes.

pub mod pipe;
mod source_fd;

pub use self::source_fd::SourceFd;
