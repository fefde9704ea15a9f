//! What the programs have in common that fork when they are told to, and say what it cost.
//!
//! The C programs in `../peers/` speak the same protocol: "ready", then for each line on standard input one fork and one line
//! of JSON, a [`Cost`].

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one fork cost. Times are nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Cost {
    /// Processor time in the parent, before the fork.
    pub prepare: u64,
    /// From the call of fork(2) to the child's first instruction.
    pub fork: u64,
    /// Processor time in the child, until its queue is its own.
    pub commit: u64,
    /// Processor time in the parent, after the fork.
    pub abort: u64,
    /// Page faults in the child during commit; for a response those of both processes.
    pub faults: u64,
    /// From the beginning, prepare included, until the parent has read the child's first response.
    pub response: u64,
}

/// Memory that both processes have.
#[derive(Debug)]
pub struct SharedPage(NonNull<[AtomicU64; 4]>);

impl SharedPage {
    /// Four zeros.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub fn new() -> io::Result<SharedPage> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: makes a new mapping.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(SharedPage(page.cast())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One of the four.
    pub fn cell(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the mapping is as large, zeroed, and never unmapped.
        let cells = unsafe { self.0.as_ref() };
        &cells[index]
    }

    /// Its value.
    pub fn get(&self, index: usize) -> u64 {
        self.cell(index).load(Ordering::Acquire)
    }

    /// Sets it.
    pub fn set(&self, index: usize, value: u64) {
        self.cell(index).store(value, Ordering::Release);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`: the same clock in all processes.
pub fn now() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of processor time that this thread has spent: what does not sleep takes that, whoever else wants the
/// processor.
pub fn spent() -> u64 {
    nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes `time`. With these clocks it cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// How many page faults this process has had that needed no disk.
pub fn faults() -> u64 {
    faults_of(libc::RUSAGE_SELF)
}

/// The same, with those of its children that it has waited for.
pub fn faults_with_children() -> u64 {
    faults() + faults_of(libc::RUSAGE_CHILDREN)
}

fn faults_of(whom: i32) -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills `usage`. With these arguments it cannot fail.
    let usage = unsafe {
        libc::getrusage(whom, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt.cast_unsigned()
}

/// fork(2): 0 in the child.
///
/// # Errors
///
/// Those of fork(2).
///
/// # Safety
///
/// The process has one thread.
pub unsafe fn fork() -> io::Result<i32> {
    // SAFETY: the caller's promise.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// In a forked child: ends it in a minute, should it never hear of what it waits for.
pub fn end_in_time() {
    // SAFETY: asks for a signal, whose default action ends the process.
    unsafe { libc::alarm(60) };
}

/// Ends a forked child, at once: what it has inherited belongs to its parent.
pub fn exit(succeeded: bool) -> ! {
    // SAFETY: runs no destructors.
    unsafe { libc::_exit(if succeeded { 0 } else { 1 }) }
}

/// Waits for a child to end.
///
/// # Errors
///
/// If it did not succeed, and those of waitpid(2).
pub fn wait(child: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the kernel writes `status`.
    match unsafe { libc::waitpid(child, &mut status, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ if status != 0 => Err(io::Error::other(format!("the child failed, with status {status:#x}"))),
        _ => Ok(()),
    }
}

/// Raises the soft limit of open files to the hard one, which it returns.
///
/// # Errors
///
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes `limit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads `limit`.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

/// Makes so much memory resident, for good, in small pages: as a heap that has grown bit by bit has them.
///
/// # Errors
///
/// Those of mmap(2).
pub fn fill_memory(mebibytes: usize) -> io::Result<()> {
    if mebibytes == 0 {
        return Ok(());
    }
    let length = mebibytes << 20;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: makes a new mapping.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is that long, and nobody else knows it.
    unsafe {
        libc::madvise(memory, length, libc::MADV_NOHUGEPAGE);
        std::ptr::write_bytes(memory.cast::<u8>(), 1, length);
    }
    Ok(())
}

/// How long a request and a response are.
pub const MESSAGE: usize = 64;

/// A client that has sent its request: the connection waits to be accepted.
///
/// # Errors
///
/// Those of connecting and writing.
pub fn request(server: SocketAddr) -> io::Result<TcpStream> {
    let mut client = TcpStream::connect(server)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    client.write_all(&[1; MESSAGE])?;
    Ok(client)
}

/// Waits for the response of a server.
///
/// # Errors
///
/// Those of reading.
pub fn read_response(mut client: TcpStream) -> io::Result<()> {
    client.read_exact(&mut [0; MESSAGE])
}

/// Speaks the protocol: `fork` is called for each line on standard input, until there is no more.
///
/// # Errors
///
/// The first of `fork`, and those of the standard streams.
pub fn serve(mut fork: impl FnMut() -> io::Result<Cost>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let mut line = String::new();
    while io::stdin().lock().read_line(&mut line)? != 0 {
        serde_json::to_writer(&mut stdout, &fork()?)?;
        writeln!(stdout)?;
        stdout.flush()?;
        line.clear();
    }
    Ok(())
}

/// Makes a process end when this one does, however that ends.
pub fn end_with_this_process(command: &mut Command) -> &mut Command {
    // SAFETY: prctl(2) is async-signal-safe, and this call of it reads no memory.
    let ask = || match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: `ask` does nothing else.
    unsafe { command.pre_exec(ask) }
}
