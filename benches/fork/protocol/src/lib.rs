//! Code that is shared by the programs that fork on demand.
//!
//! A program prints "ready". Then, for each line on its standard input, it forks once and prints one line of JSON: a [`Cost`]
//! with the figures that it measures. The C programs in `../c/` speak the same protocol.

use std::error::Error;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod memory;
mod process;

pub use memory::{HUGE, SharedPage, fill_memory};
pub use process::{
    end_in_time, end_with_this_process, exit, faults, faults_with_children, fork, now, raise_file_limit, spent,
    spent_with_children, wait,
};

/// The costs of one fork. Times are nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// Processor time of the parent before the fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<u64>,
    /// From the call of fork(2) to the child's first instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork: Option<u64>,
    /// Processor time of the child until its queue is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    /// Processor time of the parent after the fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_up: Option<u64>,
    /// Page faults of the child until its queue is its own. With `response`: of both processes, until the child has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// From the decision to fork until the parent has read the child's first response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<u64>,
    /// Processor time of both processes, from the decision to fork until the child has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
}

/// Runs a program. If it fails, prints the error to standard error.
pub fn run(program: impl FnOnce(&[&str]) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match program(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Speaks the protocol: calls `fork` for each line on standard input, until the input ends.
///
/// # Errors
///
/// The first error of `fork`, and those of the standard streams.
pub fn serve(mut fork: impl FnMut() -> io::Result<Cost>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let mut line = String::new();
    while io::stdin().lock().read_line(&mut line)? != 0 {
        serde_json::to_writer(&mut stdout, &fork()?)?;
        writeln!(stdout)?;
        stdout.flush()?;
        line.clear();
    }
    Ok(())
}

/// The length of a request and of a response, in bytes.
pub const MESSAGE: usize = 64;

/// Connects a client and sends its request. The server has not accepted the connection yet.
pub fn request(server: SocketAddr) -> io::Result<TcpStream> {
    let mut client = TcpStream::connect(server)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    client.write_all(&[1; MESSAGE])?;
    Ok(client)
}

/// Waits for the response of a server.
pub fn read_response(mut client: TcpStream) -> io::Result<()> {
    client.read_exact(&mut [0; MESSAGE])
}
