//! Sets `epoll` if the reactor's kernel queue is an epoll instance, and `procfs` if the system has Linux's `/proc`.

fn main() {
    println!("cargo::rerun-if-changed=../../conditions.rs");
    println!("cargo::rustc-check-cfg=cfg(epoll, procfs)");
    println!("cargo::rustc-check-cfg=cfg(forkio_kqueue)");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cfg=procfs");
        if std::env::var_os("CARGO_CFG_FORKIO_KQUEUE").is_none() {
            println!("cargo::rustc-cfg=epoll");
        }
    }
}
