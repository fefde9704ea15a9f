//! Measures operations for all contenders in turn, each operation in a process of its own, or counts their instructions.

use std::error::Error;
use std::process::{Command, ExitCode};

use selector_benches::rounds::{CONTENDERS, PEER, Quartiles, measure};
use selector_benches::{Contender, Operation, instructions};

const USAGE: &str = "\
usage: side-by-side [--quick | --rounds N] [OPERATION]
       side-by-side --instructions [OPERATION]
       side-by-side --profile [OPERATION]
       side-by-side --json ROUNDS OPERATION
       side-by-side --run CONTENDER TIMES OPERATION

Measures the operations whose name contains OPERATION, in N rounds (240; with --quick 24). Prints the median of the
processor time, and the ratios to mio with their quartiles.

--instructions counts the user-level instructions of these operations with valgrind, where they can be counted.
--profile says from which source files the instructions come; inlined code counts where it is written.
--json measures one operation in this process and prints the figures of all rounds, for the report.
--run does one operation TIMES times for one contender and measures nothing, for profilers.
With --json and --run, OPERATION is the whole name of an operation.";

/// The contenders without the second mio, which only measures the noise.
const DIFFERENT: &[Contender] = CONTENDERS.split_at(CONTENDERS.len() - 1).0;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    selector_benches::raise_file_limit()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (rounds, filter) = match args.as_slice() {
        ["--json", rounds, name] => return print_json(rounds.parse()?, operation(name)?),
        ["--run", contender, times, name] => return do_unmeasured(contender, times.parse()?, operation(name)?),
        ["--instructions", rest @ ..] if rest.len() < 2 => return count_instructions(&rest.concat()),
        ["--profile", rest @ ..] if rest.len() < 2 => return print_profiles(&rest.concat()),
        ["--quick", rest @ ..] => ("24", rest),
        ["--rounds", rounds, rest @ ..] => (*rounds, rest),
        rest => ("240", rest),
    };
    match filter {
        [] => compare(rounds, ""),
        [filter] if !filter.starts_with('-') => compare(rounds, filter),
        _ => Err(USAGE.into()),
    }
}

fn operation(name: &str) -> Result<Operation, Box<dyn Error>> {
    let found = Operation::ALL.into_iter().find(|operation| operation.name() == name);
    found.ok_or_else(|| format!("there is no operation named {name:?}").into())
}

fn matching(filter: &str) -> impl Iterator<Item = Operation> {
    Operation::ALL.into_iter().filter(move |operation| operation.name().contains(filter))
}

fn print_json(rounds: usize, operation: Operation) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(&measure(operation, rounds)?)?);
    Ok(())
}

fn do_unmeasured(name: &str, times: u64, operation: Operation) -> Result<(), Box<dyn Error>> {
    let contender = CONTENDERS.iter().find(|contender| contender.name == name).ok_or("there is no such contender")?;
    (contender.prepare)(operation)?(times)?;
    Ok(())
}

fn compare(rounds: &str, filter: &str) -> Result<(), Box<dyn Error>> {
    rounds.parse::<usize>()?;
    println!("Median nanoseconds of processor time; ratios to mio in the same round: median (quartiles).\n");
    let compared = || CONTENDERS.iter().enumerate().filter(|(index, _)| *index != PEER);
    print_head(DIFFERENT.iter().map(|contender| contender.name), compared().map(|(_, contender)| contender.name));
    for operation in matching(filter) {
        let name = operation.name();
        print!("| {name} ");
        // Each operation gets a fresh process: in a process that has ever had a second thread, the C library uses more atomic
        // operations, and heaps grow.
        let output = Command::new(std::env::current_exe()?).args(["--json", rounds, &name]).output()?;
        if !output.status.success() {
            println!("| not measured: {} |", String::from_utf8_lossy(&output.stderr).trim());
            continue;
        }
        let rounds: Vec<[f64; CONTENDERS.len()]> = serde_json::from_slice(&output.stdout)?;
        for contender in 0..DIFFERENT.len() {
            if let Some(Quartiles { median, .. }) = Quartiles::of(rounds.iter().map(|round| round[contender])) {
                print!("| {median:.1} ");
            }
        }
        for (contender, _) in compared() {
            let ratios = rounds.iter().map(|round| round[contender] / round[PEER]);
            if let Some(Quartiles { lower, median, upper }) = Quartiles::of(ratios) {
                print!("| {median:.3} ({lower:.3} to {upper:.3}) ");
            }
        }
        println!("|");
    }
    Ok(())
}

fn count_instructions(filter: &str) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    println!("User-level instructions of one operation, and the difference to mio.\n");
    let compared = || DIFFERENT.iter().enumerate().filter(|(index, _)| *index != PEER);
    print_head(DIFFERENT.iter().map(|contender| contender.name), compared().map(|(_, contender)| contender.name));
    for operation in matching(filter).filter(|operation| operation.has_countable_instructions()) {
        let mut counts = Vec::new();
        for contender in DIFFERENT {
            counts.push(instructions::parts(&program, contender, operation)?.values().sum::<f64>());
        }
        print!("| {} ", operation.name());
        counts.iter().for_each(|count| print!("| {count:.1} "));
        for (contender, _) in compared() {
            print!("| {:+.1} ({:.3}) ", counts[contender] - counts[PEER], counts[contender] / counts[PEER]);
        }
        println!("|");
    }
    Ok(())
}

fn print_profiles(filter: &str) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    println!("| operation | contender | instructions |\n|---|---|---|");
    for operation in matching(filter).filter(|operation| operation.has_countable_instructions()) {
        for contender in DIFFERENT {
            let parts = instructions::parts(&program, contender, operation)?;
            let mut parts: Vec<_> = parts.into_iter().filter(|(_, count)| *count >= 0.5).collect();
            parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
            let parts: Vec<String> = parts.iter().map(|(part, count)| format!("{count:.0} {part}")).collect();
            println!("| {} | {} | {} |", operation.name(), contender.name, parts.join(", "));
        }
    }
    Ok(())
}

fn print_head<'a>(figures: impl Iterator<Item = &'a str>, ratios: impl Iterator<Item = &'a str>) {
    let figures = figures.map(str::to_owned);
    let names: Vec<String> = figures.chain(ratios.map(|name| format!("{name} / mio"))).collect();
    println!("| operation | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
}
