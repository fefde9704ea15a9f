//! Measures the contenders in turn and prints a table of medians and paired ratios, or counts their instructions.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use forkio_benches::instructions;
use forkio_benches::rounds::{CONTENDERS, PEER, Quartiles, measure};
use forkio_benches::{Contender, Operation};

const USAGE: &str = "\
usage: side-by-side [--quick] [--rounds N] [--second-thread] [OPERATION]
       side-by-side --instructions [OPERATION]
       side-by-side --run CONTENDER TIMES OPERATION

Measures the operations whose name contains OPERATION, in N rounds (240; --quick: 24).
--second-thread keeps an idle thread about: a process with one thread is spared some atomic operations.
--instructions counts the user-level instructions of one operation, with valgrind.
--run does one operation TIMES times for one contender and measures nothing: for profilers.";

/// The contenders that differ.
const MEASURED: &[Contender] = CONTENDERS.split_at(CONTENDERS.len() - 1).0;

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
    let mut instructions = false;
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
            "--instructions" => instructions = true,
            _ if arg.starts_with('-') => return Err(USAGE.into()),
            _ => filter = arg,
        }
    }
    if rounds == 0 {
        return Err(USAGE.into());
    }
    let operations = Operation::ALL.into_iter().filter(|operation| operation.name().contains(&filter));
    if instructions {
        return Ok(count_instructions(operations)?);
    }

    // It waits until the sender is dropped with this function's other locals.
    let (_until_the_end, end) = mpsc::channel::<()>();
    if second_thread {
        thread::Builder::new().spawn(move || end.recv())?;
    }

    println!(
        "Median nanoseconds of {rounds} rounds in a process with {}; median and quartiles of the ratios to {}.\n",
        if second_thread { "a second, idle thread" } else { "one thread" },
        CONTENDERS[PEER].name
    );
    print_head(&names(MEASURED.iter()), &names(peers().map(|(_, peer)| peer)));
    for operation in operations {
        let rounds = match measure(operation, rounds) {
            Ok(rounds) => rounds,
            Err(error) => {
                println!("| {} | not measured: {error} |", operation.name());
                continue;
            }
        };
        print!("| {} ", operation.name());
        for contender in 0..MEASURED.len() {
            print!("| {:.0} ", Quartiles::of(rounds.iter().map(|round| round[contender])).median);
        }
        for (contender, _) in peers() {
            print!("| {} ", Quartiles::of(rounds.iter().map(|round| round[contender] / round[PEER])));
        }
        println!("|");
    }
    Ok(())
}

fn count_instructions(operations: impl Iterator<Item = Operation>) -> io::Result<()> {
    let program = std::env::current_exe()?;
    println!("User-level instructions of one operation, and how many more they are than those of mio.\n");
    let more = MEASURED.iter().filter(|contender| contender.name != CONTENDERS[PEER].name);
    print_head(&names(MEASURED.iter()), &names(more));
    for operation in operations {
        let counts = MEASURED.iter().map(|contender| instructions::count(&program, contender, operation));
        let counts = counts.collect::<io::Result<Vec<_>>>()?;
        print!("| {} ", operation.name());
        for count in &counts {
            print!("| {count:.1} ");
        }
        for (contender, count) in counts.iter().enumerate() {
            if contender != PEER {
                print!("| {:+.1} ({:.3}) ", count - counts[PEER], count / counts[PEER]);
            }
        }
        println!("|");
    }
    Ok(())
}

fn print_head(first: &[&str], second: &[&str]) {
    println!("| operation | {} | {} |", first.join(" | "), second.join(" | "));
    println!("|---|{}", "---:|".repeat(first.len() + second.len()));
}

fn names<'a>(contenders: impl Iterator<Item = &'a Contender>) -> Vec<&'a str> {
    contenders.map(|contender| contender.name).collect()
}

/// Who is compared with [`PEER`].
fn peers() -> impl Iterator<Item = (usize, &'static Contender)> {
    CONTENDERS.iter().enumerate().filter(|(index, _)| *index != PEER)
}

fn run(name: &str, times: u64, filter: &str) -> Result<(), Box<dyn std::error::Error>> {
    let contender = CONTENDERS.iter().find(|contender| contender.name == name).ok_or("no such contender")?;
    let mut operations = Operation::ALL.into_iter().filter(|operation| operation.name().contains(filter));
    let operation = operations.next().ok_or("no such operation")?;
    Ok((contender.prepare)(operation)?(times)?)
}
