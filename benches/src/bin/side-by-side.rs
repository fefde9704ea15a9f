//! Measures the contenders in turn and prints a table of medians and paired ratios.
//!
//! A machine drifts by more than the contenders differ, so the figure that counts is a ratio of neighbours: each round
//! runs every contender once for some milliseconds, each round begins with another one, and every few rounds all make
//! their sockets and selectors anew, so that nobody keeps a lucky address. mio takes part twice: how far the median of its
//! ratio to itself is from 1 is the noise of the run. It says nothing of where this build happens to have placed the code,
//! which alone is worth up to a percent.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use forkio_benches::{Batch, Contender, FORKIO, LIBC, MIO, Operation, PLAIN, thread_time};

const USAGE: &str = "\
usage: side-by-side [--quick] [--rounds N] [--second-thread] [OPERATION]
       side-by-side --run CONTENDER TIMES OPERATION

Measures the operations whose name contains OPERATION, in N rounds (240; --quick: 24).
--second-thread keeps an idle thread about: a process with one thread is spared some atomic operations.
--run does one operation TIMES times for one contender and measures nothing: for profilers.";

/// Which contender the others are compared with.
const PEER: usize = 2;
const CONTENDERS: [Contender; 5] = [FORKIO, PLAIN, MIO, LIBC, Contender { name: "mio again", ..MIO }];

/// How long each contender runs in a round.
const TURN: Duration = Duration::from_millis(4);

/// Rounds after which everything is made anew.
const FRESH: usize = 8;

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<(), Box<dyn std::error::Error>> {
    let mut rounds = 240;
    let mut filter = String::new();
    let mut second_thread = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => rounds = 24,
            "--rounds" => rounds = args.next().ok_or(USAGE)?.parse()?,
            "--run" => {
                let [name, times, operation] = [args.next(), args.next(), args.next()].map(|arg| arg.ok_or(USAGE));
                return run(&name?, times?.parse()?, &operation?);
            }
            "--second-thread" => second_thread = true,
            _ if arg.starts_with('-') => return Err(USAGE.into()),
            _ => filter = arg,
        }
    }
    if rounds == 0 {
        return Err(USAGE.into());
    }

    // It waits until the sender is dropped with this function's other locals.
    let (_until_the_end, end) = mpsc::channel::<()>();
    if second_thread {
        thread::Builder::new().spawn(move || end.recv())?;
    }

    let names = |contenders: &mut dyn Iterator<Item = &Contender>| {
        contenders.map(|contender| contender.name).collect::<Vec<_>>().join(" | ")
    };
    let measured = &CONTENDERS[..CONTENDERS.len() - 1];
    println!(
        "Median nanoseconds of {rounds} rounds in a process with {}; median and quartiles of the ratios to {}.\n",
        if second_thread { "a second, idle thread" } else { "one thread" },
        CONTENDERS[PEER].name
    );
    println!("| operation | {} | {} |", names(&mut measured.iter()), names(&mut peers().map(|(_, peer)| peer)));
    println!("|---|{}", "---:|".repeat(measured.len() + peers().count()));
    for operation in Operation::ALL.into_iter().filter(|operation| operation.name().contains(&filter)) {
        let rounds = measure(operation, rounds)?;
        print!("| {} ", operation.name());
        for contender in 0..measured.len() {
            print!("| {:.0} ", Quartiles::of(rounds.iter().map(|round| round[contender])).median);
        }
        for (contender, _) in peers() {
            print!("| {} ", Quartiles::of(rounds.iter().map(|round| round[contender] / round[PEER])));
        }
        println!("|");
    }
    Ok(())
}

/// Who is compared with [`PEER`].
fn peers() -> impl Iterator<Item = (usize, &'static Contender)> {
    CONTENDERS.iter().enumerate().filter(|(index, _)| *index != PEER)
}

/// Nanoseconds per operation: for each round, those of each contender.
fn measure(operation: Operation, rounds: usize) -> io::Result<Vec<[f64; CONTENDERS.len()]>> {
    let times = times_in_a_turn(operation)?;
    let mut batches = Vec::new();
    let mut results = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let in_turn = (0..CONTENDERS.len()).map(|turn| (turn + round) % CONTENDERS.len());
        if round % FRESH == 0 {
            batches.clear();
            batches.resize_with(CONTENDERS.len(), || None);
            for index in in_turn.clone() {
                let mut batch = (CONTENDERS[index].prepare)(operation)?;
                batch(times.div_ceil(8))?;
                batches[index] = Some(batch);
            }
        }
        let mut result = [0.0; CONTENDERS.len()];
        for index in in_turn {
            if let Some(batch) = &mut batches[index] {
                result[index] = time(batch, times)?.as_nanos() as f64 / times as f64;
            }
        }
        results.push(result);
    }
    Ok(results)
}

/// How often the peer does the operation in a turn: the same number for everyone.
fn times_in_a_turn(operation: Operation) -> io::Result<u64> {
    let mut batch = (CONTENDERS[PEER].prepare)(operation)?;
    let mut times = 1;
    loop {
        let took = time(&mut batch, times)?;
        if took >= TURN / 4 {
            return Ok((times as f64 * TURN.as_secs_f64() / took.as_secs_f64()).ceil() as u64);
        }
        times *= 2;
    }
}

fn time(batch: &mut Batch, times: u64) -> io::Result<Duration> {
    let start = thread_time()?;
    batch(times)?;
    Ok(thread_time()? - start)
}

fn run(name: &str, times: u64, filter: &str) -> Result<(), Box<dyn std::error::Error>> {
    let contender = CONTENDERS.iter().find(|contender| contender.name == name).ok_or("no such contender")?;
    let mut operations = Operation::ALL.into_iter().filter(|operation| operation.name().contains(filter));
    let operation = operations.next().ok_or("no such operation")?;
    Ok((contender.prepare)(operation)?(times)?)
}

struct Quartiles {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Quartiles {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Quartiles {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.lower, self.upper)
    }
}
