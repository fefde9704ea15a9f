//! The processes of a tree; see `forkio_tests::tree`.

#[cfg(epoll)]
mod processes;

fn main() {
    #[cfg(epoll)]
    processes::main();
    #[cfg(not(epoll))]
    panic!("readiness is modelled as epoll reports it");
}
