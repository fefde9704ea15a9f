//! Checks the model itself: it accepts correct events, and rejects wrong ones.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use forkio_tests::scenarios;

use crate::message::{Event, Fd, Kind, Policy, Readiness, Wanted};
use crate::model::check::Polled;
use crate::model::file::FileKind;
use crate::model::fork::Fork;
use crate::model::{Holder, Model, Pid, SlotId};

const READABLE: Readiness =
    Readiness { readable: true, writable: false, read_closed: false, write_closed: false, error: false };

/// A process with a selector at descriptor 3.
fn one() -> Model {
    let mut model = Model::new();
    model.new_selector(0, 0, 3);
    model
}

fn eventfd(model: &mut Model, slot: SlotId, fd: Fd, policy: Option<Policy>) {
    model.open(0, slot, fd, Holder::Bare, FileKind::Eventfd);
    assert_eq!(model.register(0, 0, fd, None, slot, Wanted::Readable, policy), Ok(()));
}

fn pair(model: &mut Model, policies: [Option<Policy>; 2]) {
    model.open_two(0, 1, [5, 6], Kind::Pair, |_, other| FileKind::StreamEnd { other });
    for (slot, (fd, policy)) in (1..).zip([5, 6].into_iter().zip(policies)) {
        assert_eq!(model.register(0, 0, fd, Some(slot), slot, Wanted::Readable, policy), Ok(()));
    }
}

fn poll(model: &mut Model, pid: Pid, tokens: &[usize]) -> Result<Polled, String> {
    let events: Vec<_> = tokens.iter().map(|token| Event { token: *token, readiness: READABLE }).collect();
    model.poll(pid, 0, 8, &events)
}

scenarios!(
    /// The model expects an event for an arrival and for a reregistration, and no other event.
    fn events() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
        assert!(poll(&mut model, 0, &[1]).is_err(), "nothing has come");
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert!(poll(&mut model.clone(), 0, &[]).is_err(), "something has come");
        assert!(poll(&mut model.clone(), 0, &[1, 1]).is_err(), "two events for one token");
        assert!(poll(&mut model.clone(), 0, &[2]).is_err(), "an unknown token");
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Complete));
        assert!(poll(&mut model.clone(), 0, &[1]).is_err(), "events are edge-triggered");
        // Reregistering arms the registration.
        assert_eq!(model.reregister(0, 0, 5, None, 7, Wanted::Readable), Ok(()));
        assert_eq!(poll(&mut model, 0, &[7]), Ok(Polled::Complete));
        // Bytes that are read before the poll give no event.
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert_eq!(model.read(0, 1, 8), Ok(2_u64.to_ne_bytes().to_vec()));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
    }

    /// Events for which a poll has no room come with the next poll.
    fn capacity() {
        let mut model = one();
        for (slot, fd) in [(1, 5), (2, 6)] {
            eventfd(&mut model, slot, fd, None);
            assert_eq!(model.write(0, slot, 0), Ok(None));
        }
        assert_eq!(model.poll(0, 0, 1, &[Event { token: 2, readiness: READABLE }]), Ok(Polled::Complete));
        assert!(poll(&mut model.clone(), 0, &[]).is_err());
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Complete));
    }

    /// The model gives the child the registrations that each policy prescribes.
    fn policies() {
        let mut model = one();
        for (slot, (fd, policy)) in (1..).zip([(5, Policy::Inherit), (6, Policy::NoFork), (7, Policy::Sever)]) {
            eventfd(&mut model, slot, fd, Some(policy));
            assert_eq!(model.write(0, slot, 0), Ok(None));
        }
        assert_eq!(poll(&mut model, 0, &[1, 2, 3]), Ok(Polled::Complete));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.watched(0, 0), [(5, 1), (6, 2), (7, 3)]);
        assert_eq!(model.watched(1, 0), [(5, 1), (7, 3)]);
        // The parent has taken these events already. In the child the registrations are armed, and the dead endpoint
        // returns end of file.
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
        let end = Readiness { read_closed: true, write_closed: true, ..READABLE };
        let events = [Event { token: 1, readiness: READABLE }, Event { token: 3, readiness: end }];
        assert_eq!(model.poll(1, 0, 8, &events), Ok(Polled::Complete));
        assert_eq!(model.read(1, 3, 8), Ok(Vec::new()));
        // The child does not have the no-fork registration, but it can deregister the source once.
        assert_eq!(model.reregister(1, 0, 6, None, 9, Wanted::Readable), Err(ErrorKind::NotFound));
        assert_eq!(model.deregister(1, 0, 6, None), Ok(()));
        assert_eq!(model.deregister(1, 0, 6, None), Err(ErrorKind::NotFound));
        // The processes share the counter.
        assert_eq!(model.read(1, 1, 8), Ok(1_u64.to_ne_bytes().to_vec()));
        assert_eq!(model.read(0, 1, 8), Err(ErrorKind::WouldBlock));
    }

    /// A muted registration is armed in the child.
    fn muted() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        assert_eq!(model.mute(0, 5), Ok(()));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Complete));
        assert_eq!(model.unmute(0, 5), Ok(()));
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Complete));
    }

    /// A renewed pair has the pending bytes.
    fn renewed_pair() {
        let mut model = one();
        pair(&mut model, [None, Some(Policy::Renew)]);
        assert_eq!(model.write(0, 1, 9), Ok(None));
        assert_eq!(model.fork(0, 1), Fork::Made);
        for pid in [0, 1] {
            assert_eq!(poll(&mut model, pid, &[2]), Ok(Polled::Complete));
            assert_eq!(model.read(pid, 2, 8), Ok(vec![9]));
        }
        assert_eq!(model.write(1, 2, 8), Ok(None));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Complete));
        // One end of a pair cannot be renewed without the other one. The parent still has both.
        assert_eq!(model.close(1, 1), Vec::<usize>::new());
        assert_eq!(model.fork(1, 2), Fork::Refused(BTreeSet::from([6])));
        assert_eq!(model.fork(0, 2), Fork::Made);
    }

    /// The child gets its own waker and timer, pending state included. A later wake reaches only its own process.
    fn wakes_and_timers() {
        let mut model = one();
        model.new_waker(0, 1, 0, 5, 1);
        model.open(0, 2, 6, Holder::Typed { kind: Kind::Timer, with: None }, FileKind::Timerfd);
        model.wake(0, 1);
        model.arm(0, 2, true);
        assert_eq!(model.fork(0, 1), Fork::Made);
        for pid in [0, 1] {
            assert_eq!(poll(&mut model, pid, &[1]), Ok(Polled::Complete));
            assert_eq!(model.read(pid, 2, 8), Ok(1_u64.to_ne_bytes().to_vec()));
            assert_eq!(model.read(pid, 2, 8), Err(ErrorKind::WouldBlock));
        }
        model.wake(1, 1);
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Complete));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Complete));
    }

    /// A peer sees the end when the last descriptor is closed.
    fn end() {
        let mut model = one();
        model.open(0, 1, 5, Holder::Typed { kind: Kind::Stream, with: None }, FileKind::UnixStream { outside: 4 });
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.close(0, 1), Vec::<usize>::new());
        assert_eq!(model.exit(1), [4]);
    }

    /// A registration whose descriptor was closed is not inherited.
    fn closed_descriptor() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        model.duplicate(0, 1, 2, 6);
        assert_eq!(model.close(0, 1), Vec::<usize>::new());
        // The kernel watches the file until the last duplicate is closed.
        assert_eq!((model.watched(0, 0), model.process(0).is_stale(5)), (vec![(5, 1)], true));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.watched(1, 0), []);
    }
);
