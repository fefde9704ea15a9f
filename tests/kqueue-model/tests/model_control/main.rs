//! Checks the functions with which tests control the model, and answers of the model that were not compared with a real
//! kernel's. The program forks, so it runs without the test harness. It starts itself once for each kernel.

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
#[allow(dead_code, unused_imports, reason = "the backend uses more of this module")]
#[path = "../../../../reactor/src/sys/kqueue/kernel.rs"]
mod kernel;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "the other program uses more of this module")]
#[path = "../kqueue_manual/tools.rs"]
mod tools;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the model runs on Linux only");
}

#[cfg(target_os = "linux")]
fn main() {
    use std::process::Command;

    use forkio_kqueue_model::Kernel;

    if std::env::var_os("FORKIO_KQUEUE_MODEL").is_some() {
        for (name, case) in cases::CASES {
            println!("{name}");
            case(Kernel::this());
        }
        return;
    }
    let program = std::env::current_exe().expect("the path of this program");
    for (name, _) in Kernel::ALL {
        println!("{name}:");
        let status = Command::new(&program).env("FORKIO_KQUEUE_MODEL", name).status().expect("starting this program");
        assert!(status.success(), "with {name}: {status}");
    }
}
