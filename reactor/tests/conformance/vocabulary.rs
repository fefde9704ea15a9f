//! `Interest`, `Token`, `Event`, `Events` and `Source`.

use std::collections::HashSet;
use std::io::{self, Write};

use super::util::{BOTH, Loop, READ, WRITE, check_registration};
use crate::mio::event::{self, Event, Source};
use crate::mio::net::{TcpListener, UnixStream};
use crate::mio::unix::pipe;
use crate::mio::{Events, Interest, Registry, Token};

#[test]
fn interest_is_a_set() {
    const CONST: Interest = Interest::READABLE.add(Interest::WRITABLE);
    assert_eq!(CONST, READ | WRITE);
    let mut assigned = READ;
    assigned |= WRITE;
    assert_eq!(assigned, BOTH);
    assert_eq!(READ | READ, READ);

    assert!(READ.is_readable() && !READ.is_writable());
    assert!(!WRITE.is_readable() && WRITE.is_writable());
    assert!(BOTH.is_readable() && BOTH.is_writable());
    assert!(!BOTH.is_aio() && !BOTH.is_lio() && !BOTH.is_priority());

    assert_eq!(BOTH.remove(READ), Some(WRITE));
    assert_eq!(BOTH.remove(BOTH), None);
    assert_eq!(READ.remove(WRITE), Some(READ));
}

#[test]
fn interest_is_ordered_and_prints_its_members() {
    assert!(READ < WRITE && WRITE < BOTH);
    assert_eq!(format!("{READ:?}"), "READABLE");
    assert_eq!(format!("{WRITE:?}"), "WRITABLE");
    assert_eq!(format!("{BOTH:?}"), "READABLE | WRITABLE");
}

#[test]
fn token_is_a_number() {
    let token = Token(7);
    let copy = token;
    assert_eq!(usize::from(copy), token.0);
    assert!(Token(1) < Token(2));
    assert_eq!([Token(1), Token(2), Token(1)].into_iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!(format!("{token:?}"), "Token(7)");
}

#[test]
fn tokens_are_returned_unchanged() {
    let mut run = Loop::new();
    for token in [0, 1 << 31, usize::MAX] {
        let (mut sender, _receiver) = pipe::new().unwrap();
        run.register(&mut sender, token, WRITE);
        run.expect(token, Event::is_writable);
    }
}

#[test]
fn events_are_empty_before_the_first_poll() {
    let mut events = Events::with_capacity(17);
    assert_eq!(events.capacity(), 17);
    assert!(events.is_empty());
    assert_eq!(events.iter().count(), 0);
    assert_eq!(format!("{events:?}"), "[]");
    events.clear();
    assert!(events.is_empty());
    assert_eq!(events.capacity(), 17);
}

#[test]
fn events_iterate() {
    let mut run = Loop::new();
    let mut pipes: Vec<_> = (0..3).map(|_| pipe::new().unwrap()).collect();
    for (token, (sender, _)) in pipes.iter_mut().enumerate() {
        run.register(sender, token, WRITE);
    }
    run.poll.poll(&mut run.events, None).unwrap();

    let events = &run.events;
    assert!(!events.is_empty());
    assert_eq!(events.iter().size_hint(), (3, Some(3)));
    assert_eq!(events.iter().count(), 3);
    let mut iter: event::Iter<'_> = events.iter();
    let clone = iter.clone();
    assert!(iter.next().is_some());
    assert_eq!(clone.map(Event::token).collect::<HashSet<_>>(), HashSet::from([Token(0), Token(1), Token(2)]));
    assert!(format!("{:?}", events.iter()).starts_with("Iter {"));
    let mut count = 0;
    for event in events {
        assert!(event.is_writable());
        count += 1;
    }
    assert_eq!(count, 3);
    assert_eq!(format!("{events:?}"), format!("{:?}", events.iter().collect::<Vec<_>>()));

    run.events.clear();
    assert!(run.events.is_empty());
}

#[test]
fn poll_clears_events() {
    let mut run = Loop::new();
    let (mut sender, _receiver) = pipe::new().unwrap();
    run.register(&mut sender, 0, WRITE);
    run.expect(0, Event::is_writable);
    assert!(!run.events.is_empty());
    run.expect_nothing();
}

#[test]
fn event_prints_its_readiness() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    b.write_all(b"x").unwrap();
    run.register(&mut a, 7, READ);
    run.expect(7, Event::is_readable);
    let event = run.events.iter().next().unwrap().clone();
    assert_eq!(
        format!("{event:?}"),
        "Event { token: Token(7), readable: true, writable: false, error: false, read_closed: false, \
         write_closed: false, priority: false, aio: false, lio: false }"
    );
    let details = format!("{event:#?}");
    assert!(details.starts_with("Event {\n    token: Token(\n        7,\n    ),"), "{details}");
    assert!(details.contains("details: "), "{details}");
    assert!(!event.is_aio() && !event.is_lio() && !event.is_priority() && !event.is_error());
}

#[test]
fn a_box_forwards_to_its_source() {
    check_registration(&mut Box::new(TcpListener::bind(super::util::localhost()).unwrap()));
    let mut source: Box<dyn Source> = Box::new(pipe::new().unwrap().1);
    check_registration(&mut source);
}

#[test]
fn a_source_may_contain_others() {
    struct Both(UnixStream, UnixStream);

    impl Source for Both {
        fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
            self.0.register(registry, token, interests)?;
            self.1.register(registry, Token(token.0 + 1), interests)
        }

        fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
            self.0.reregister(registry, token, interests)?;
            self.1.reregister(registry, Token(token.0 + 1), interests)
        }

        fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
            self.0.deregister(registry)?;
            self.1.deregister(registry)
        }
    }

    let mut run = Loop::new();
    let (a, b) = UnixStream::pair().unwrap();
    let mut both = Both(a, b);
    run.register(&mut both, 10, READ);
    both.0.write_all(b"x").unwrap();
    run.expect(11, Event::is_readable);
    run.poll.registry().reregister(&mut both, Token(20), READ).unwrap();
    run.expect(21, Event::is_readable);
    run.poll.registry().deregister(&mut both).unwrap();
    both.1.write_all(b"x").unwrap();
    run.expect_nothing();
}
