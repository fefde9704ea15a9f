//! What differs between systems.

#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use {descriptors::*, linux::*};

#[cfg(not(target_os = "linux"))]
compile_error!("the crate forkio runs on Linux only for now");
