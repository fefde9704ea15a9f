//! Forks children that never use the selector: they exit or execute another program at once. Measures the processor time of
//! their whole lives, and of the parent meanwhile.

use std::any::Any;
use std::error::Error;
use std::io;
use std::os::unix::net;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use fork_protocol::{self as protocol, Cost, spent_with_children};

const USAGE: &str = "usage: short-lived exit|exec|command forkio|mio REGISTRATIONS";

const TRUE: &std::ffi::CStr = c"/bin/true";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [mode, library, registrations] = args else { return Err(USAGE.into()) };
    protocol::raise_file_limit()?;
    let registrations = registrations.parse()?;
    let _selector = match *library {
        "forkio" => forkio_selector(registrations)?,
        "mio" => mio_selector(registrations)?,
        _ => return Err(USAGE.into()),
    };
    match *mode {
        "exit" => protocol::serve(|| fork(|| protocol::exit(true)))?,
        "exec" => protocol::serve(|| fork(execute))?,
        "command" => protocol::serve(command)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Defines a function that makes a selector of the crate `$mio` with `registrations` registered streams.
macro_rules! selector {
    ($name:ident, $mio:ident) => {
        fn $name(registrations: usize) -> io::Result<Box<dyn Any>> {
            let poll = $mio::Poll::new()?;
            let mut streams = Vec::with_capacity(registrations);
            while streams.len() < registrations {
                let (near, far) = net::UnixStream::pair()?;
                for end in [near, far] {
                    end.set_nonblocking(true)?;
                    let mut stream = $mio::net::UnixStream::from_std(end);
                    poll.registry().register(&mut stream, $mio::Token(streams.len()), $mio::Interest::READABLE)?;
                    streams.push(stream);
                }
            }
            Ok(Box::new((poll, streams)))
        }
    };
}

selector!(forkio_selector, forkio_reactor);
selector!(mio_selector, mio);

/// Makes a plain fork(2), whose child runs `child`.
fn fork(child: fn() -> !) -> io::Result<Cost> {
    let start = spent_with_children();
    // SAFETY: this process has one thread.
    match unsafe { protocol::fork() }? {
        0 => child(),
        pid => protocol::wait(pid)?,
    }
    Ok(Cost { life: Some(spent_with_children() - start), ..Cost::default() })
}

fn execute() -> ! {
    let arguments = [TRUE.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with a null pointer, and their strings live until the call ends.
    unsafe { libc::execve(TRUE.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    protocol::exit(false)
}

/// Runs a `std::process::Command` with a `pre_exec`, which makes the standard library fork.
fn command() -> io::Result<Cost> {
    let start = spent_with_children();
    let mut command = Command::new("/bin/true");
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: the closure does nothing.
    let status = unsafe { command.pre_exec(|| Ok(())) }.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("the child ended with {status}")));
    }
    Ok(Cost { life: Some(spent_with_children() - start), ..Cost::default() })
}
