//! The operations of the reactor, beside upstream mio and the bare system calls.

use std::error::Error;

use forkio_benches::rounds::{CONTENDERS, measure as measure_rounds};
use forkio_benches::{FORKIO, LIBC, MIO, Operation, PLAIN, instructions};

use crate::Plan;
use crate::data::{Data, Measure};

pub(crate) fn measure(plan: &Plan, data: &mut Data) -> Result<(), Box<dyn Error>> {
    let side_by_side = plan.program("release/side-by-side");
    // A start of valgrind takes a good part of a second.
    let counted = if plan.quick { vec![FORKIO, MIO] } else { vec![FORKIO, PLAIN, MIO, LIBC] };
    for operation in Operation::ALL {
        match measure_rounds(operation, plan.rounds(160, 8)) {
            Ok(rounds) => {
                for (contender, value) in rounds.iter().flat_map(|round| CONTENDERS.iter().zip(round)) {
                    data.add(Measure::ReactorTime, operation.name(), contender.name, *value);
                }
            }
            Err(error) => data.note(format!("{}: not measured: {error}", operation.name())),
        }
        for contender in &counted {
            match instructions::parts(&side_by_side, contender, operation) {
                Ok(parts) => {
                    data.add(Measure::Instructions, operation.name(), contender.name, parts.values().sum());
                    if [FORKIO.name, MIO.name].contains(&contender.name) {
                        data.profiles.push((operation.name(), contender.name, parts));
                    }
                }
                Err(error) => {
                    return Err(format!("instructions of {}, {}: {error}", operation.name(), contender.name).into());
                }
            }
        }
    }
    Ok(())
}
