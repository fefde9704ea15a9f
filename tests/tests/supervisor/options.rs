//! Options of the server that concern the kernel, the service manager or the terminal.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::ptr::null_mut;

use forkio_tests::{check_eq, scenarios, temporary_path};

use crate::server::{Server, fixture};

scenarios!(
    /// With `huge_pages`, the memory of the process that forks the workers is in huge pages, if the kernel can do that.
    #[cfg(procfs)]
    fn huge_pages() {
        for how in ["before", "template"] {
            let server = Server::start(&[how, "memory", "huge-pages"]);
            forkio_tests::wait_until("the log tells about huge pages", || {
                let log = server.log();
                log.contains("memory into huge pages")
            });
            if server.log().contains("put memory into huge pages") {
                let parent = server.ask("data").expect("an answer");
                assert!(huge_kib(&parent) >= 16 * 1024, "{} KiB", huge_kib(&parent));
            }
            server.stop();
        }
        // Some systems use huge pages for all memory.
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if !setting.contains("[always]") {
            let server = Server::start(&["before", "memory"]);
            check_eq("without the option", huge_kib(&server.supervisor().to_string()), 0);
            server.stop();
        }
    }

    /// The service manager is notified, unless `notify_service_manager` is off.
    fn notifications() {
        let path = temporary_path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        for (option, expected) in [(None, true), (Some("no-notify"), false)] {
            let how: Vec<&str> = [Some("before"), option].into_iter().flatten().collect();
            let server = Server::start_as(fixture().env("NOTIFY_SOCKET", &path), &how);
            server.stop();
            let mut received = String::new();
            let mut bytes = [0; 1024];
            loop {
                match socket.recv(&mut bytes) {
                    Ok(length) => received.push_str(&String::from_utf8_lossy(&bytes[..length])),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("receiving: {error}"),
                }
            }
            for message in ["READY=1", "STOPPING=1"] {
                check_eq(&format!("{message} with {option:?} in {received:?}"), received.contains(message), expected);
            }
        }
    }

    /// The socket of the service manager may have an abstract address.
    #[cfg(procfs)]
    fn abstract_socket_of_the_service_manager() {
        use std::os::linux::net::SocketAddrExt;

        let name = format!("forkio-supervisor-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        let server = Server::start_as(fixture().env("NOTIFY_SOCKET", format!("@{name}")), &["before"]);
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("a message");
        assert!(bytes[..length].starts_with(b"READY=1\n"), "{}", bytes[..length].escape_ascii());
        server.stop();
    }

    /// A service manager that reads no messages does not block the supervisor.
    fn service_manager_reads_no_messages() {
        let path = temporary_path("full");
        let _full = UnixDatagram::bind(&path).expect("a socket");
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a socket");
        while sender.send_to(b"message", &path).is_ok() {}
        let server = Server::start_as(fixture().env("NOTIFY_SOCKET", &path), &["before"]);
        server.until_logged("cannot notify the service manager");
        server.stop();
    }

    /// The server does not wait longer for threads than `fork_options` allows.
    fn fork_options() {
        // The thread never ends. With the default, the server would wait for 12 s each time. On a machine that stalls, a
        // shorter wait may take as long.
        let waits = (0..3).map(|_| {
            let log = Server::begin("", &["before", "thread", "wait-briefly"]).ends_with(1);
            assert!(log.contains("thread"), "{log}");
            let waited = log.lines().find_map(|line| line.strip_prefix("waited, in milliseconds: "));
            waited.expect("the fixture says how long").parse::<u64>().expect("a number")
        });
        let waited: Vec<u64> = waits.take_while(|waited| *waited >= 11_000).collect();
        assert!(waited.len() < 3, "{waited:?} ms");
    }

    /// A terminal sends SIGWINCH to the server in its foreground when the size of its window changes. The workers stay.
    fn window_of_a_terminal_changes() {
        let (mut window, mut terminal) = (-1, -1);
        // SAFETY: `openpty` writes the descriptors, which belong to this scenario.
        let (window, terminal) = unsafe {
            let opened = libc::openpty(&mut window, &mut terminal, null_mut(), null_mut(), null_mut());
            check_eq("the result of openpty", opened, 0);
            (OwnedFd::from_raw_fd(window), OwnedFd::from_raw_fd(terminal))
        };
        let terminal = terminal.as_raw_fd();
        // SAFETY: setsid(2) and ioctl(2) are system calls, which take no lock and allocate nothing.
        let be_in_foreground = move || match unsafe { (libc::setsid(), libc::ioctl(terminal, libc::TIOCSCTTY as _, 0)) }
        {
            (-1, _) | (_, -1) => Err(Error::last_os_error()),
            _ => Ok(()),
        };
        let mut command = fixture();
        // SAFETY: see `be_in_foreground`.
        let server = Server::start_as(unsafe { command.pre_exec(be_in_foreground) }, &["before"]);
        let workers = server.children();
        let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: ioctl(2) reads `size`.
        check_eq("the result of ioctl", unsafe { libc::ioctl(window.as_raw_fd(), libc::TIOCSWINSZ as _, &size) }, 0);
        server.until_logged("ignoring SIGWINCH");
        check_eq("the workers", server.children(), workers);
        server.pid();
        server.stop();
    }

    /// A variable that an upgrade has left in the environment does no harm, even if it names a descriptor that the server itself
    /// has opened.
    fn variable_of_another_upgrade() {
        for descriptor in 1..10 {
            let server = Server::start_as(fixture().env("FORKIO_UPGRADE", descriptor.to_string()), &["before"]);
            server.pid();
            server.stop();
        }
    }

    /// Listeners that the environment lists are found by name.
    fn listeners_have_names() {
        check_eq("listeners", &*listeners_of("LISTEN_PID=$$"), "web TCP, admin Unix, 0 left\n");
    }

    /// A listener of the environment keeps its name in an upgrade.
    fn listeners_keep_their_names() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let script = "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0";
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_fixture-supervisor")]);
        let server = Server::start_as(command.stdin(OwnedFd::from(tcp)), &["before"]);
        server.until_logged("serving the listener named web");
        server.signal(libc::SIGUSR2);
        server.until_logged_times("serving the listener named web", 2);
        // The new program fails, because the scenario has closed the pipe of its announcement.
        server.until_logged("this one continues");
        server.stop();
    }

    /// Like `sd_listen_fds(3)`, the server ignores listeners if `LISTEN_PID` is missing or is the id of another process.
    fn listeners_of_another_process() {
        for variable in ["", "LISTEN_PID=", "LISTEN_PID=1"] {
            check_eq(variable, &*listeners_of(variable), "0 left\n");
        }
    }
);

/// Returns what the fixture prints about two listeners of its environment. `variable` is one more assignment for the shell.
#[track_caller]
fn listeners_of(variable: &str) -> String {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let path = temporary_path("socket");
    let unix = UnixListener::bind(&path).expect("a listener");
    let script =
        format!("LISTEN_FDS=2 LISTEN_FDNAMES=admin:web {variable} exec \"$0\" none inherited 3<&0 4<&2 2>/dev/null");
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_fixture-supervisor")]);
    let command = command.stdin(OwnedFd::from(unix)).stderr(OwnedFd::from(tcp));
    let output = command.stdout(Stdio::piped()).output().expect("running the fixture");
    std::fs::remove_file(path).expect("removing the socket");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns how many KiB of a process's anonymous memory are in huge pages.
#[cfg(procfs)]
fn huge_kib(pid: &str) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the memory of a process");
    let sizes = smaps.lines().filter_map(|line| line.strip_prefix("AnonHugePages:"));
    sizes.map(|size| size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")).sum()
}
