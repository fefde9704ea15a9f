//! The operations in mio's vocabulary, for every crate that speaks it.

/// Defines `prepare` for the crate `$mio`.
macro_rules! mio_contender {
    ($mio:ident) => {
        use std::io::{self, Read, Write};
        use std::os::fd::AsRawFd;
        use std::sync::Arc;
        use std::time::Duration;

        use $mio::net::{TcpListener, TcpStream, UnixStream};
        use $mio::unix::SourceFd;
        use $mio::{Events, Interest, Poll, Token, Waker};

        use crate::storm::Storm;
        use crate::{Batch, MESSAGE, Operation, STORM, STRIDE};

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
                Operation::RegisterFd => {
                    let eventfd = crate::eventfd()?;
                    Box::new(move |times| {
                        let fd = eventfd.as_raw_fd();
                        for _ in 0..times {
                            poll.registry().register(&mut SourceFd(&fd), Token(1), Interest::READABLE)?;
                            poll.registry().deregister(&mut SourceFd(&fd))?;
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
                Operation::IdleStreams => {
                    let mut streams: Vec<_> = crate::idle_streams()?.into_iter().map(UnixStream::from_std).collect();
                    for (number, stream) in streams.iter_mut().enumerate() {
                        poll.registry().register(stream, Token(number), both)?;
                    }
                    // All can be written to.
                    loop {
                        poll.poll(&mut events, Some(Duration::ZERO))?;
                        if events.is_empty() {
                            break;
                        }
                    }
                    let mut next = 0;
                    Box::new(move |times| {
                        for _ in 0..times {
                            next = (next + STRIDE) % streams.len();
                            let mut message = MESSAGE;
                            streams[next ^ 1].write_all(&message)?;
                            loop {
                                poll.poll(&mut events, None)?;
                                if events.iter().any(|event| event.token() == Token(next)) {
                                    break;
                                }
                            }
                            streams[next].read_exact(&mut message)?;
                        }
                        Ok(())
                    })
                }
                Operation::AcceptChurn => {
                    let mut listener = TcpListener::from_std(crate::listener()?);
                    let address = listener.local_addr()?;
                    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
                    Box::new(move |times| {
                        for _ in 0..times {
                            let client = crate::client(address)?;
                            poll.poll(&mut events, None)?;
                            let (mut stream, _) = listener.accept()?;
                            // As a server does, which does not know that it was the only one.
                            match listener.accept() {
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                                other => return other.map(|_| ()),
                            }
                            poll.registry().register(&mut stream, Token(1), both)?;
                            drop(client);
                            poll.poll(&mut events, None)?;
                            match stream.read(&mut [0]) {
                                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                                other => return other.map(|_| ()),
                            }
                            poll.registry().deregister(&mut stream)?;
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
                Operation::WakeStormThreads => {
                    let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
                    let storm = Storm::new(move || waker.wake())?;
                    Box::new(move |times| {
                        for _ in 0..times {
                            storm.turn()?;
                            poll.poll(&mut events, None)?;
                        }
                        Ok(())
                    })
                }
            })
        }
    };
}
