//! The operations in mio's vocabulary, for every crate that speaks it.

/// Defines `prepare` for the crate `$mio`.
macro_rules! mio_contender {
    ($mio:ident) => {
        use std::io::{self, Read, Write};
        use std::time::Duration;

        use $mio::net::{TcpListener, TcpStream};
        use $mio::{Events, Interest, Poll, Token, Waker};

        use crate::{Batch, MESSAGE, Operation, STORM};

        pub(crate) fn prepare(operation: Operation) -> io::Result<Batch> {
            let mut poll = Poll::new()?;
            let mut events = Events::with_capacity(64);
            let both = Interest::READABLE | Interest::WRITABLE;
            Ok(match operation {
                Operation::RegisterListener => {
                    let mut listener = TcpListener::from_std(crate::listener()?);
                    Box::new(move |times| {
                        for _ in 0..times {
                            poll.registry().register(&mut listener, Token(1), Interest::READABLE)?;
                            poll.registry().deregister(&mut listener)?;
                        }
                        Ok(())
                    })
                }
                Operation::RegisterStream => {
                    let (near, far) = crate::connection()?;
                    let mut near = TcpStream::from_std(near);
                    Box::new(move |times| {
                        let _connected = &far;
                        for _ in 0..times {
                            poll.registry().register(&mut near, Token(1), both)?;
                            poll.registry().deregister(&mut near)?;
                        }
                        Ok(())
                    })
                }
                Operation::Reregister | Operation::ReregisterChanged => {
                    let (near, far) = crate::connection()?;
                    let mut near = TcpStream::from_std(near);
                    poll.registry().register(&mut near, Token(1), Interest::READABLE)?;
                    let other = if operation == Operation::Reregister { Interest::READABLE } else { both };
                    Box::new(move |times| {
                        let _connected = &far;
                        let mut interests = (Interest::READABLE, other);
                        for _ in 0..times {
                            interests = (interests.1, interests.0);
                            poll.registry().reregister(&mut near, Token(1), interests.0)?;
                        }
                        Ok(())
                    })
                }
                Operation::PollNothing => {
                    let waker = Waker::new(poll.registry(), Token(0))?;
                    Box::new(move |times| {
                        let _idle = &waker;
                        for _ in 0..times {
                            poll.poll(&mut events, Some(Duration::ZERO))?;
                        }
                        Ok(())
                    })
                }
                Operation::WakePoll | Operation::WakeStorm => {
                    let waker = Waker::new(poll.registry(), Token(0))?;
                    let wakes = if operation == Operation::WakePoll { 1 } else { STORM };
                    Box::new(move |times| {
                        for _ in 0..times {
                            for _ in 0..wakes {
                                waker.wake()?;
                            }
                            poll.poll(&mut events, None)?;
                        }
                        Ok(())
                    })
                }
                Operation::PingPong => {
                    let (near, far) = crate::connection()?;
                    let mut ends = [TcpStream::from_std(near), TcpStream::from_std(far)];
                    for (number, end) in ends.iter_mut().enumerate() {
                        poll.registry().register(end, Token(number), Interest::READABLE)?;
                    }
                    Box::new(move |times| {
                        for _ in 0..times {
                            for (from, to) in [(0, 1), (1, 0)] {
                                let mut message = MESSAGE;
                                ends[from].write_all(&message)?;
                                loop {
                                    poll.poll(&mut events, None)?;
                                    if events.iter().any(|event| event.token() == Token(to)) {
                                        break;
                                    }
                                }
                                ends[to].read_exact(&mut message)?;
                            }
                        }
                        Ok(())
                    })
                }
                Operation::NewPoll => Box::new(|times| {
                    for _ in 0..times {
                        Poll::new()?;
                    }
                    Ok(())
                }),
                Operation::NewPollCloned => Box::new(|times| {
                    for _ in 0..times {
                        let poll = Poll::new()?;
                        poll.registry().try_clone()?;
                    }
                    Ok(())
                }),
            })
        }
    };
}
