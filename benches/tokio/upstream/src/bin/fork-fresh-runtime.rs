//! Forks, leaves the inherited runtime alone and builds a fresh one in the child, which registers everything again: what
//! is left to a program on plain tokio.

use std::error::Error;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use forked::{Cost, SharedPage, now, spent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};

const USAGE: &str = "usage: fork-fresh-runtime REGISTRATIONS MEBIBYTES";

/// Where the child writes what it measured.
const FIRST_INSTRUCTION: usize = 0;
const COMMIT: usize = 1;
const FAULTS: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [registrations, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    forked::raise_file_limit()?;
    forked::fill_memory(mebibytes.parse()?)?;
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
    Ok(forked::serve(|| fork(&streams, &page))?)
}

/// A runtime in which every stream is registered.
fn build(streams: &[Arc<UnixStream>]) -> io::Result<(Runtime, Vec<AsyncFd<Arc<UnixStream>>>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let registered = {
        let _inside = runtime.enter();
        let register = |stream: &_| {
            // SAFETY: a socket stays open, and the same, for as long as somebody holds it.
            unsafe { AsyncFd::register_with_interest(Arc::clone(stream), Interest::READABLE) }
        };
        streams.iter().map(register).collect::<Result<Vec<_>, _>>()?
    };
    Ok((runtime, registered))
}

fn fork(streams: &[Arc<UnixStream>], page: &SharedPage) -> io::Result<Cost> {
    let start = now();
    // SAFETY: this process has one thread.
    let child = unsafe { forked::fork() }?;
    if child == 0 {
        let first_instruction = now();
        forked::end_in_time();
        let faults = forked::faults();
        let begin = spent();
        let built = build(streams);
        let commit = spent() - begin;
        page.set(FAULTS, forked::faults() - faults);
        page.set(COMMIT, commit);
        page.set(FIRST_INSTRUCTION, first_instruction);
        let works = built.and_then(|(runtime, registered)| {
            let works = works(&runtime, streams, &registered);
            mem::forget((runtime, registered));
            works
        });
        forked::exit(works.unwrap_or(false));
    }
    forked::wait(child)?;
    let fork = page.get(FIRST_INSTRUCTION) - start;
    Ok(Cost { fork, commit: page.get(COMMIT), faults: page.get(FAULTS), ..Cost::default() })
}

/// In the child: whether its queue reports what it should.
fn works(runtime: &Runtime, streams: &[Arc<UnixStream>], registered: &[AsyncFd<Arc<UnixStream>>]) -> io::Result<bool> {
    let (mut writer, mut reader) = (&*streams[0], &*streams[1]);
    writer.write_all(&[0])?;
    runtime.block_on(async { registered[1].readable().await.map(|_| ()) })?;
    Ok(reader.read(&mut [0])? == 1)
}
