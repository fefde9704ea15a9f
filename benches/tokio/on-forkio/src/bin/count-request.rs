//! Measures the cost of counting a request in a worker process. Prints a JSON array: for each round, the mean processor
//! time of counting a request, in nanoseconds.

use std::error::Error;
use std::process::ExitCode;

use fork_protocol as protocol;
use tokio::runtime::Builder;

const USAGE: &str = "usage: count-request ROUNDS [PAGE], where PAGE is the path of a socket for the status page";

/// How many requests a round has.
const REQUESTS: u32 = 100_000;

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let (rounds, page) = match args {
        [rounds] => (rounds.parse::<usize>()?, None),
        [rounds, page] => (rounds.parse()?, Some(format!("unix:{page}"))),
        _ => return Err(USAGE.into()),
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio_on_forkio::in_worker(page, move |requests| {
        let round = || {
            let start = protocol::spent();
            for _ in 0..REQUESTS {
                requests.count_one();
            }
            (protocol::spent() - start) as f64 / f64::from(REQUESTS)
        };
        // The first round takes longer, because it also maps the pages of the counts.
        let figures: Vec<String> = (0..=rounds).map(|_| round().to_string()).skip(1).collect();
        println!("[{}]", figures.join(","));
    }))?;
    Ok(())
}
