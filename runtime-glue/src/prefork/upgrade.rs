//! The upgrade: another program takes over the listeners.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::signals::Command;
use crate::{Child, ForkPolicy, sys};

/// The environment variable that names the descriptor on which the new program says that it is ready.
const UPGRADE: &str = "FORKIO_UPGRADE";

/// The environment variable that names the descriptor on which a new program tells process 1 that it has taken over.
const PROCESS_1: &str = "FORKIO_PROCESS_1";

/// The environment variable that names the descriptor of the status page's listener.
const PAGE: &str = "FORKIO_STATUS_PAGE";

/// The second word of [`UPGRADE`], if a service manager has given the listeners to the first program, and keeps them.
const KEPT: &str = "kept";

/// The message of a new program that is ready.
const READY: &[u8] = b"ready\n";

/// The program and arguments of this process, read when the server starts: the system may not know the path of a file
/// that has been replaced.
#[derive(Debug)]
pub(super) struct Program {
    path: io::Result<PathBuf>,
    arguments: Vec<OsString>,
}

impl Program {
    pub(super) fn of_this_process() -> Program {
        Program { path: path_of_this_process(), arguments: std::env::args_os().skip(1).collect() }
    }

    /// Starts the program again. It gets the listeners from descriptor 3 on, and the sockets of the status page and of
    /// process 1, if there are any. The new program then has until `deadline` to say that it is ready.
    pub(super) fn start(
        &self,
        listeners: &[(RawFd, String)],
        are_kept: bool,
        page: Option<RawFd>,
        process_1: Option<&Process1>,
        deadline: Option<Instant>,
    ) -> io::Result<Upgrade> {
        let path = self.path.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let (own_end, program_end) = StdUnixStream::pair()?;
        own_end.set_nonblocking(true)?;
        let channel = UnixStream::from_std(own_end)?;
        crate::set_policy(&channel, ForkPolicy::NoFork)?;
        let mut sockets = vec![(program_end.as_raw_fd(), UPGRADE, if are_kept { KEPT } else { "" })];
        sockets.extend(page.map(|page| (page, PAGE, "")));
        sockets.extend(process_1.map(|process_1| (process_1.channel.as_raw_fd(), PROCESS_1, "")));
        let pid = sys::spawn_with_descriptors(path, &self.arguments, listeners, &sockets)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        drop(program_end);
        let mut child = Child::adopt(pid).map_err(io::Error::other)?;
        if let Err(error) = child.watch() {
            // After this error, this program continues, and the new program would serve beside it.
            sys::destroy_process(pid);
            return Err(error);
        }
        Ok(Upgrade { child, channel, deadline, is_killed: false })
    }
}

/// Returns the path with which this program was started, if that is known: the path may contain a symbolic link that an
/// operator changes before an upgrade. Otherwise returns the path of the program's file.
fn path_of_this_process() -> io::Result<PathBuf> {
    let own = std::env::current_exe();
    // A shell that searches `PATH` passes on the bare name.
    let given = std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let given = given.and_then(|path| std::path::absolute(path).ok()).filter(|path| {
        let file = path.canonicalize();
        file.is_ok_and(|file| own.as_ref().is_ok_and(|own| own.canonicalize().is_ok_and(|own| own == file)))
    });
    given.map_or(own, Ok)
}

/// A new program that this one has started.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) child: Child,
    channel: UnixStream,
    pub(super) deadline: Option<Instant>,
    /// Whether the new program was killed at the deadline. It has then failed, even if it was ready before that.
    is_killed: bool,
}

/// The result of starting the new program.
#[derive(Debug)]
pub(super) enum Progress {
    Ready,
    Ended(ExitStatus),
}

impl Upgrade {
    /// Returns whether the new program is ready. Reads the socket, because the runtime may not have the event yet.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_killed && rustix::io::read(&self.channel, &mut [0; READY.len()]).is_ok_and(|length| length > 0)
    }

    /// Kills the new program because it is not ready in time.
    pub(super) fn kill(&mut self) {
        (self.deadline, self.is_killed) = (None, true);
        if let Err(error) = self.child.kill() {
            tracing::debug!(%error, "cannot kill the new program: it has ended");
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        loop {
            match self.channel.try_read(&mut [0; READY.len()]) {
                // The program has closed the channel and may still run: wait for its end or the deadline.
                Ok(0) => break,
                Ok(_) if self.is_killed => break,
                Ok(_) => return Poll::Ready(Progress::Ready),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.channel.poll_read_ready(cx).is_pending() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        let status = ready!(self.child.poll_wait(cx));
        // A program that has ended has not taken over, even if it was ready.
        Poll::Ready(Progress::Ended(status.unwrap_or_else(|_| super::supervisor::unknown_status())))
    }
}

/// A program that has taken over from process 1, or from another successor.
#[derive(Debug)]
struct Successor {
    program: Child,
    has_ended: bool,
    /// Whether process 1 has sent the stop signal to the program.
    is_told: bool,
}

/// The programs that have taken over, one after the other, from process 1.
#[derive(Debug)]
pub(super) struct Successors {
    /// The first program is a child of this process. Each later program becomes a child when the program before it ends.
    programs: VecDeque<Successor>,
    /// The socket on which each program says that it has taken over. Programs that have started, but are not ready yet, have
    /// the other end too.
    channel: UnixStream,
    /// The signal with which this process was told to stop. If the program that serves ends before it has stopped the
    /// server, another program may take over, and must stop too.
    stop: Option<i32>,
    /// How the last program ended.
    last: ExitStatus,
}

impl Successors {
    pub(super) fn new(upgrade: Upgrade) -> Successors {
        let mut successors = Successors {
            programs: VecDeque::new(),
            channel: upgrade.channel,
            stop: None,
            last: super::supervisor::unknown_status(),
        };
        successors.push(upgrade.child);
        successors
    }

    fn push(&mut self, program: Child) {
        self.programs.push_back(Successor { program, has_ended: false, is_told: false });
    }

    /// Waits until all programs have ended. Returns how the last one ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the next call continues to wait.
    pub(super) async fn end(&mut self) -> ExitStatus {
        loop {
            // A successor announces itself before its predecessor ends, so this finds every successor.
            self.update();
            self.tell_to_stop();
            if !self.programs.is_empty() {
                poll_fn(|cx| self.poll_programs(cx)).await;
                continue;
            }
            if self.stop.is_some() {
                // A program that is starting has not taken over. The kernel kills it when process 1 ends.
                return self.last;
            }
            // If the last program was killed, a program that it was starting may still take over.
            match self.channel.async_io(Interest::READABLE, || self.announced()).await {
                Ok(Some(pid)) => self.follow(pid),
                Ok(None) | Err(_) => return self.last,
            }
        }
    }

    /// Waits until one of the programs has ended. If that is the first program, removes it.
    fn poll_programs(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error means that the predecessor of the first program has killed and reaped it. The predecessor then
        // served last, and `last` has its status already.
        if let Some(Poll::Ready(status)) = self.programs.front_mut().map(|first| first.program.poll_wait(cx)) {
            self.last = status.unwrap_or(self.last);
            self.programs.pop_front();
            return Poll::Ready(());
        }
        for successor in self.programs.iter_mut().skip(1).filter(|successor| !successor.has_ended) {
            if successor.program.poll_ended(cx).is_ready() {
                successor.has_ended = true;
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads which programs have taken over.
    pub(super) fn update(&mut self) {
        while let Ok(Some(pid)) = self.announced() {
            self.follow(pid);
        }
    }

    /// Reads the id of the next program that has taken over. Returns `None` if no running program can take over.
    fn announced(&self) -> io::Result<Option<u32>> {
        let mut bytes = Process1::announcement(0);
        // The channel does not block.
        let length = rustix::io::read(&self.channel, &mut bytes)?;
        Ok((length == bytes.len()).then(|| u32::from_ne_bytes(bytes)))
    }

    fn follow(&mut self, pid: u32) {
        match Child::open(pid) {
            Ok(program) => {
                tracing::info!(pid, "another program has taken over: process 1 waits for it and passes signals on");
                self.push(program);
            }
            Err(error) => tracing::error!(%error, pid, "process 1 cannot wait for the program that has taken over"),
        }
    }

    pub(super) fn contain(&self, pid: u32) -> bool {
        self.programs.iter().any(|successor| successor.program.id() == pid)
    }

    /// Returns the program that serves: the last one that has not ended. A predecessor may have killed its successor, and
    /// then continues to serve.
    fn serving(&mut self) -> Option<&mut Successor> {
        let mut programs = self.programs.iter_mut().rev();
        // A signal to a zombie would be lost without an error.
        programs.find(|successor| successor.program.process().is_ok_and(|process| !process.has_ended().unwrap_or(true)))
    }

    /// Passes the command of a signal on to the program that serves.
    pub(super) fn pass_on(&mut self, command: Command) {
        let signal = match command {
            Command::Stop => libc::SIGTERM,
            Command::StopNow => libc::SIGQUIT,
            Command::Reload => libc::SIGHUP,
            Command::ReopenLogs => libc::SIGUSR1,
            Command::Upgrade => libc::SIGUSR2,
            Command::Grow => libc::SIGTTIN,
            Command::Shrink => libc::SIGTTOU,
            Command::RetireAll => libc::SIGWINCH,
            Command::ChildEnded => return,
        };
        self.update();
        if matches!(command, Command::Stop | Command::StopNow) {
            self.stop = Some(signal);
            self.programs.iter_mut().for_each(|successor| successor.is_told = false);
            self.tell_to_stop();
        } else if self.serving().is_none_or(|successor| successor.program.signal(signal).is_err()) {
            tracing::debug!("no program has received the signal that process 1 passes on");
        }
    }

    /// If this process was told to stop, tells the program that serves to stop, unless that program was told already.
    fn tell_to_stop(&mut self) {
        let Some(signal) = self.stop else { return };
        if let Some(successor) = self.serving().filter(|successor| !successor.is_told) {
            successor.is_told = successor.program.signal(signal).is_ok();
        }
    }
}

/// The program that this one replaces.
#[derive(Debug)]
pub(super) struct Predecessor {
    /// The socket on which this program says that it is ready.
    channel: StdUnixStream,
    /// Whether a service manager keeps the listeners open.
    pub(super) listeners_are_kept: bool,
    /// The listener of the old program's status page, if that is on TCP.
    pub(super) page: Option<TcpListener>,
    is_process_1: bool,
    process_1: Option<Process1>,
}

impl Predecessor {
    /// Returns the program that this one replaces, or `None` if there is none.
    pub(super) fn from_env() -> Option<Predecessor> {
        let value = std::env::var(UPGRADE).ok()?;
        let (descriptor, rest) = value.split_once(' ').unwrap_or((&value, ""));
        let channel = sys::take_socket(descriptor.parse().ok()?, UPGRADE)?.into();
        // While the old program runs, it is the parent of this one.
        let is_process_1 = rustix::process::getppid().is_some_and(rustix::process::Pid::is_init);
        let page = socket_of(PAGE).map(TcpListener::from);
        let process_1 = socket_of(PROCESS_1).map(|channel| Process1 { channel: channel.into() });
        Some(Predecessor { channel, listeners_are_kept: rest == KEPT, page, is_process_1, process_1 })
    }

    /// Tells the old program, and process 1 if it waits for this program, that this one is ready. The old program then retires.
    pub(super) fn announce(&self) -> io::Result<()> {
        // Tell process 1 first: the old program ends after the second message.
        if let Some(process_1) = &self.process_1 {
            process_1.announce();
        }
        match (&self.channel).write_all(READY) {
            // The old program has ended.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::warn!(%error, "cannot tell the old program that this one is ready");
                Ok(())
            }
            result => result,
        }
    }

    /// Returns process 1 if it waits for this program.
    pub(super) fn into_process_1(self) -> Option<Process1> {
        self.process_1.or_else(|| self.is_process_1.then_some(Process1 { channel: self.channel }))
    }
}

/// Process 1, which stays when another program takes over, because a container ends with it.
#[derive(Debug)]
pub(super) struct Process1 {
    channel: StdUnixStream,
}

/// Takes over the socket that an environment variable names.
fn socket_of(variable: &str) -> Option<OwnedFd> {
    let descriptor = std::env::var(variable).ok()?.trim_end().parse().ok()?;
    sys::take_socket(descriptor, variable)
}

impl Process1 {
    /// Tells process 1 that this program has taken over.
    fn announce(&self) {
        if let Err(error) = (&self.channel).write_all(&Process1::announcement(std::process::id())) {
            tracing::warn!(%error, "cannot tell process 1 that this program has taken over");
        }
    }

    fn announcement(pid: u32) -> [u8; 4] {
        pid.to_ne_bytes()
    }
}
