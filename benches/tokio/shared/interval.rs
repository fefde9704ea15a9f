//! Runs a current-thread runtime that is idle except for an interval of 100 ms, and ends after a number of ticks.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use fork_protocol as protocol;
use tokio::runtime::Builder;
use tokio::time::interval;

const USAGE: &str = "usage: interval TICKS";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [ticks] = args else { return Err(USAGE.into()) };
    let ticks: u32 = ticks.parse()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interval = interval(Duration::from_millis(100));
        for _ in 0..ticks {
            interval.tick().await;
        }
    });
    Ok(())
}
