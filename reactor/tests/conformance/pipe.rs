//! `unix::pipe`.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::process::{Command, Stdio};

use super::util::{
    Loop, READ, WRITE, assert_flags, assert_kind, assert_would_block, check_registration, is_nonblocking,
    making_a_child,
};
use crate::mio::event::Event;
use crate::mio::unix::pipe::{self, Receiver, Sender};

const SENDER: usize = 1;
const RECEIVER: usize = 2;

fn registered(run: &Loop) -> (Sender, Receiver) {
    let (mut sender, mut receiver) = pipe::new().unwrap();
    run.register(&mut sender, SENDER, WRITE);
    run.register(&mut receiver, RECEIVER, READ);
    (sender, receiver)
}

#[test]
fn sends_and_receives() {
    let mut run = Loop::new();
    let (mut sender, mut receiver) = registered(&run);
    assert_flags(&sender);
    assert_flags(&receiver);
    run.expect(SENDER, |event| event.is_writable() && !event.is_write_closed());
    let mut buf = [0; 16];
    assert_would_block(receiver.read(&mut buf));
    assert_eq!(sender.write(b"hello").unwrap(), 5);
    sender.flush().unwrap();
    run.expect(RECEIVER, |event| event.is_readable() && !event.is_read_closed());
    assert_eq!(receiver.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");

    // Shared references read and write in the same way.
    let (mut sender, mut receiver) = (&sender, &receiver);
    assert_eq!(sender.write(b"hi").unwrap(), 2);
    sender.flush().unwrap();
    assert_eq!(receiver.read(&mut buf).unwrap(), 2);
}

#[test]
fn sends_and_receives_vectored() {
    let (mut sender, mut receiver) = pipe::new().unwrap();
    let parts = [IoSlice::new(b"one"), IoSlice::new(b"three")];
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    let mut bufs = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
    assert_eq!(sender.write_vectored(&parts).unwrap(), 8);
    assert_eq!(receiver.read_vectored(&mut bufs).unwrap(), 8);
    assert_eq!((&sender).write_vectored(&parts).unwrap(), 8);
    assert_eq!((&receiver).read_vectored(&mut bufs).unwrap(), 8);
    assert_eq!((&head, &tail[..4]), (b"onet", &b"hree"[..]));
}

#[test]
fn receiver_sees_the_sender_close() {
    let mut run = Loop::new();
    let (mut sender, mut receiver) = registered(&run);
    sender.write_all(b"last").unwrap();
    drop(sender);
    run.expect(RECEIVER, Event::is_read_closed);
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"last");
}

#[test]
fn sender_sees_the_receiver_close() {
    let mut run = Loop::new();
    let (mut sender, receiver) = registered(&run);
    drop(receiver);
    run.expect(SENDER, Event::is_write_closed);
    assert_kind(sender.write(b"x"), ErrorKind::BrokenPipe);
}

#[test]
fn sender_is_writable_again_after_room_is_made() {
    let mut run = Loop::new();
    let (mut sender, mut receiver) = registered(&run);
    run.expect(SENDER, Event::is_writable);
    let mut sent = 0;
    loop {
        match sender.write(&[0; 4096]) {
            Ok(n) => sent += n,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    receiver.read_exact(&mut vec![0; sent]).unwrap();
    run.expect(SENDER, Event::is_writable);
}

#[test]
fn mode_can_be_changed() {
    let (sender, receiver) = pipe::new().unwrap();
    sender.set_nonblocking(false).unwrap();
    receiver.set_nonblocking(false).unwrap();
    assert!(!is_nonblocking(&sender) && !is_nonblocking(&receiver));
    sender.set_nonblocking(true).unwrap();
    receiver.set_nonblocking(true).unwrap();
    assert!(is_nonblocking(&sender) && is_nonblocking(&receiver));
}

#[test]
fn runs_other_operations() {
    let (sender, receiver) = pipe::new().unwrap();
    assert_eq!(sender.try_io(|| Ok(7)).unwrap(), 7);
    assert_would_block(receiver.try_io(|| (&receiver).read(&mut [0])));
}

#[test]
fn pipes_of_a_child_process() {
    let mut run = Loop::new();
    let guard = making_a_child();
    let mut child = Command::new("sh")
        .args(["-c", "cat; echo done >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(guard);
    let mut input = Sender::from(child.stdin.take().unwrap());
    let mut output = Receiver::from(child.stdout.take().unwrap());
    let mut errors = Receiver::from(child.stderr.take().unwrap());
    assert!(!is_nonblocking(&input) && !is_nonblocking(&output) && !is_nonblocking(&errors));
    input.set_nonblocking(true).unwrap();
    output.set_nonblocking(true).unwrap();
    errors.set_nonblocking(true).unwrap();
    run.register(&mut input, 0, WRITE);
    run.register(&mut output, 1, READ);
    run.register(&mut errors, 2, READ);

    run.expect(0, Event::is_writable);
    input.write_all(b"through the child").unwrap();
    drop(input);
    for (receiver, expected) in [(&mut output, &b"through the child"[..]), (&mut errors, b"done\n")] {
        let mut received = Vec::new();
        run.block_on(|| receiver.read_to_end(&mut received)).unwrap();
        assert_eq!(received, expected);
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn registers_and_converts() {
    let (mut sender, mut receiver) = pipe::new().unwrap();
    check_registration(&mut sender);
    check_registration(&mut receiver);
    assert!(format!("{sender:?}").starts_with("Sender {"));
    assert!(format!("{receiver:?}").starts_with("Receiver {"));

    let fds = (sender.as_raw_fd(), receiver.as_raw_fd());
    assert_eq!((sender.as_fd().as_raw_fd(), receiver.as_fd().as_raw_fd()), fds);
    let owned = (OwnedFd::from(sender), OwnedFd::from(receiver));
    let raw = (Sender::from(owned.0).into_raw_fd(), Receiver::from(owned.1).into_raw_fd());
    assert_eq!(raw, fds);
    // SAFETY: `into_raw_fd` has just handed over both descriptors, so no other code owns them.
    let (mut sender, mut receiver) = unsafe { (Sender::from_raw_fd(raw.0), Receiver::from_raw_fd(raw.1)) };
    assert_flags(&sender);
    sender.write_all(b"x").unwrap();
    assert_eq!(receiver.read(&mut [0; 2]).unwrap(), 1);
}
