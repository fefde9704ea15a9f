//! A tokio that runs on upstream mio, because the patch is missing: forks on Linux, and the symptoms of unplanned forks. The
//! scenarios run in the program that `tests/projects/upstream-mio` builds from these files. The project also builds other
//! topics without the patch: see its `Cargo.toml`.

#[cfg(epoll)]
mod forks;
#[cfg(not(epoll))]
mod refused;
#[cfg(epoll)]
mod restricted;
#[cfg(epoll)]
mod stale;
#[cfg(target_os = "linux")]
mod symptoms;

forkio_tests::main!(
    project = "upstream-mio",
    #[cfg(epoll)]
    forks,
    #[cfg(not(epoll))]
    refused,
    #[cfg(epoll)]
    restricted,
    #[cfg(epoll)]
    stale,
    #[cfg(target_os = "linux")]
    symptoms
);
