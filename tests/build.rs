//! Compiles the C library that makes unplanned forks. Sets `epoll` if the reactor's kernel queue is an epoll instance,
//! and `procfs` if there is Linux's `/proc`.

fn main() {
    println!("cargo::rerun-if-changed=c/unplanned.c");
    println!("cargo::rustc-check-cfg=cfg(epoll, procfs)");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cfg=procfs");
        if std::env::var_os("CARGO_CFG_FORKIO_KQUEUE").is_none() {
            println!("cargo::rustc-cfg=epoll");
        }
    }
    let target = std::env::var("TARGET").unwrap_or_default();
    let host = std::env::var("HOST").unwrap_or_default();
    let mut library = cc::Build::new();
    library.file("c/unplanned.c").warnings(true).warnings_into_errors(true);
    if library.clone().try_compile("unplanned").is_ok() {
        return;
    }
    // A target that is only type-checked does not need this library. If target and host differ only in libc, the host's
    // compiler can build for the target.
    let processor_and_kernel = |triple: &str| {
        let mut parts = triple.split('-');
        (parts.next().map(str::to_owned), parts.nth(1).map(str::to_owned))
    };
    if processor_and_kernel(&target) == processor_and_kernel(&host) {
        library.compiler("cc").compile("unplanned");
    }
}
