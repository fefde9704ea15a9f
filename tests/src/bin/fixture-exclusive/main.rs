//! Exclusive wakes: `EPOLLEXCLUSIVE`.

#[cfg(procfs)]
mod scenarios;

fn main() {
    #[cfg(procfs)]
    scenarios::main();
    #[cfg(not(procfs))]
    panic!("nothing tells who was woken");
}
