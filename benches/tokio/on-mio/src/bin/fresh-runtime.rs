//! Forks as a program on plain tokio can: the child does not use the inherited runtime. It builds a fresh one, and registers
//! everything again.

use std::error::Error;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use fork_protocol::{self as protocol, Cost, SharedPage, now, spent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};

const USAGE: &str = "usage: fresh-runtime REGISTRATIONS MEMORY";

/// The indices of the child's figures.
const FIRST_INSTRUCTION: usize = 0;
const COMMIT: usize = 1;
const FAULTS: usize = 2;

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [registrations, memory] = args else { return Err(USAGE.into()) };
    protocol::raise_file_limit()?;
    protocol::fill_memory(memory)?;
    let registrations = registrations.parse()?;
    let mut streams: Vec<Arc<UnixStream>> = Vec::with_capacity(registrations);
    while streams.len() < registrations {
        let (near, far) = UnixStream::pair()?;
        for end in [near, far] {
            end.set_nonblocking(true)?;
            streams.push(Arc::new(end));
        }
    }
    let _inherited = build(&streams)?;
    let page = SharedPage::new()?;
    Ok(protocol::serve(|| fork(&streams, &page))?)
}

/// Builds a runtime in which every stream is registered.
fn build(streams: &[Arc<UnixStream>]) -> io::Result<(Runtime, Vec<AsyncFd<Arc<UnixStream>>>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let registered = {
        let _inside = runtime.enter();
        let register = |stream: &_| {
            // SAFETY: an `Arc<UnixStream>` always gives the same descriptor, which stays open while the `Arc` lives.
            unsafe { AsyncFd::register_with_interest(Arc::clone(stream), Interest::READABLE) }
        };
        streams.iter().map(register).collect::<Result<Vec<_>, _>>()?
    };
    Ok((runtime, registered))
}

fn fork(streams: &[Arc<UnixStream>], page: &SharedPage) -> io::Result<Cost> {
    let start = now();
    // SAFETY: this process has one thread.
    let child = unsafe { protocol::fork() }?;
    if child == 0 {
        let first_instruction = now();
        protocol::end_in_time();
        let faults = protocol::faults();
        let begin = spent();
        let built = build(streams);
        let commit = spent() - begin;
        page.set(FAULTS, protocol::faults() - faults);
        page.set(COMMIT, commit);
        page.set(FIRST_INSTRUCTION, first_instruction);
        let works = built.and_then(|(runtime, registered)| {
            let works = works(&runtime, streams, &registered);
            mem::forget((runtime, registered));
            works
        });
        protocol::exit(works.unwrap_or(false));
    }
    protocol::wait(child)?;
    Ok(Cost {
        fork: Some(page.get(FIRST_INSTRUCTION) - start),
        commit: Some(page.get(COMMIT)),
        faults: Some(page.get(FAULTS)),
        ..Cost::default()
    })
}

/// Whether the child's queue reports an event.
fn works(runtime: &Runtime, streams: &[Arc<UnixStream>], registered: &[AsyncFd<Arc<UnixStream>>]) -> io::Result<bool> {
    let (mut writer, mut reader) = (&*streams[0], &*streams[1]);
    writer.write_all(&[0])?;
    runtime.block_on(async { registered[1].readable().await.map(|_| ()) })?;
    Ok(reader.read(&mut [0])? == 1)
}
