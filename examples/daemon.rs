//! A daemon that binds before it detaches.
//!
//! Its caller sees an error, such as an address in use, and gets exit code 0 only once the daemon serves. The runtime, the
//! listener and all tasks continue in the daemon. (A service of systemd must not detach: use `Type=notify` instead.)
//!
//! ```sh
//! cargo run --release --example daemon -- 127.0.0.1:7001    # Prints the address and the process id of the daemon.
//! nc 127.0.0.1 7001
//! ```

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::fs::File;
use std::io;

use forkio::Fork;
use rustix::{process, stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".into());
    let listener = TcpListener::bind(&address).await?;
    println!("{}", listener.local_addr()?);
    detach().await?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(greet(stream))),
            // A real daemon would log the error here.
            Err(_error) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

async fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(format!("process {}\n", std::process::id()).as_bytes()).await
}

/// Continues as a daemon in a new session. The process that the caller started exits once the daemon has reported.
async fn detach() -> io::Result<()> {
    // A stream pair is inherited, so the daemon can report to this process over it.
    let (mut report, mut reporter) = UnixStream::pair()?;
    if let Fork::Parent(_) = forkio::fork().await? {
        drop(reporter); // The stream ends once the other processes have closed their copies too.
        let mut daemon = String::new();
        report.read_to_string(&mut daemon).await?;
        if daemon.is_empty() {
            eprintln!("the daemon did not start");
            std::process::exit(1);
        }
        println!("{daemon}");
        std::process::exit(0);
    }
    process::setsid()?;
    // A process that does not lead its session cannot get a terminal.
    if let Fork::Parent(_) = forkio::fork().await? {
        std::process::exit(0);
    }
    process::chdir("/")?;
    reporter.write_all(std::process::id().to_string().as_bytes()).await?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    stdio::dup2_stderr(&null)?;
    Ok(())
}
