//! The operations under criterion, for comparing a change with what was before it:
//! `cargo bench -- --save-baseline before`, then `cargo bench -- --baseline before`.
//!
//! To compare the contenders use `side-by-side`: criterion measures them minutes apart.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use forkio_benches::{Contender, FORKIO, LIBC, MIO, Operation, PLAIN};

fn operations(criterion: &mut Criterion) {
    for operation in Operation::ALL {
        let mut group = criterion.benchmark_group(operation.name());
        for contender in [FORKIO, PLAIN, MIO, LIBC] {
            group.bench_function(contender.name, |bencher| {
                bencher.iter_custom(|times| {
                    time(contender, operation, times)
                        .unwrap_or_else(|error| panic!("{}, {}: {error}", contender.name, operation.name()))
                });
            });
        }
        group.finish();
    }
}

fn time(contender: Contender, operation: Operation, times: u64) -> io::Result<Duration> {
    let mut batch = (contender.prepare)(operation)?;
    // The first turn allocates.
    batch(1)?;
    let start = Instant::now();
    batch(black_box(times))?;
    Ok(start.elapsed())
}

criterion_group!(benches, operations);
criterion_main!(benches);
