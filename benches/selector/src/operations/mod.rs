//! The operations, written once over [`Library`].

mod connections;
mod polls;
mod registrations;
mod wakes;

use std::io;

use crate::library::Library;
use crate::{Batch, Operation, Source, clock};

pub(crate) fn prepare<L: Library>(operation: Operation) -> io::Result<Batch> {
    match operation {
        Operation::Register(Source::Listener, threads) => registrations::listener::<L>(threads),
        Operation::Register(Source::Udp, threads) => registrations::udp::<L>(threads),
        Operation::Register(Source::Stream, _) => registrations::stream::<L>(),
        Operation::Register(Source::Descriptor, _) => registrations::descriptor::<L>(),
        Operation::RegisterAndDrop(threads) => registrations::dropped::<L>(threads),
        Operation::Reregister => registrations::again::<L>(false),
        Operation::ReregisterChanged => registrations::again::<L>(true),
        Operation::NewPoll => registrations::new_poll::<L>(),
        Operation::CloneRegistry => registrations::clone_registry::<L>(),
        Operation::PollNothing => polls::nothing::<L>(),
        Operation::PollReady => polls::ready::<L>(),
        Operation::PingPong => polls::ping_pong::<L>(),
        Operation::IdleStreams => polls::idle_streams::<L>(),
        Operation::Accept => connections::accept::<L>(),
        Operation::AcceptChurn => connections::churn::<L>(),
        Operation::WakeAwake => wakes::awake::<L>(),
        Operation::WakePoll => wakes::then_poll::<L>(1),
        Operation::WakeStorm => wakes::then_poll::<L>(wakes::STORM),
        Operation::WakeStormThreads => wakes::storm_of_threads::<L>(),
        Operation::WakeBusy => wakes::busy::<L>(),
        Operation::WakeBlocked => wakes::blocked::<L>(),
    }
}

/// Makes a batch that repeats `once`, and counts all the processor time that this process uses meanwhile.
fn repeat(mut once: impl FnMut() -> io::Result<()> + 'static) -> io::Result<Batch> {
    Ok(Box::new(move |times| clock::process_time(|| (0..times).try_for_each(|_| once()))))
}
