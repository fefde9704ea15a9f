//! The server, and the resources of its processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use forkio_tests::example;

use crate::{Error, WORKERS, send, until};

/// How much the resident memory of a process may grow.
const ROOM_KIB: usize = 4 * 1024;

/// How many private mappings a process may gain: the allocator makes and removes some.
const ROOM_MAPPINGS: usize = 8;

/// A process of the server's group, as this program sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// The process id in the PID namespace of the process.
    pub(crate) own_pid: u32,
    pub(crate) parent: i32,
    pub(crate) is_zombie: bool,
    /// When the process was forked, in clock ticks since boot.
    start: u64,
}

#[derive(Clone, Copy, Debug)]
struct Resources {
    descriptors: usize,
    threads: usize,
    shared_mappings: usize,
    private_mappings: usize,
    zombies: usize,
    resident_kib: usize,
}

impl Resources {
    fn of(process: Process, processes: &[Process]) -> Option<Resources> {
        let path = |name: &str| format!("/proc/{}/{name}", process.pid);
        let maps = fs::read_to_string(path("maps")).ok()?;
        let shared_mappings = maps.lines().filter(|line| line.contains(" rw-s ")).count();
        let status = fs::read_to_string(path("status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let zombies = processes.iter().filter(|child| child.parent == process.pid && child.is_zombie).count();
        Some(Resources {
            descriptors: fs::read_dir(path("fd")).ok()?.count(),
            threads: fs::read_dir(path("task")).ok()?.count(),
            shared_mappings,
            private_mappings: maps.lines().count() - shared_mappings,
            zombies,
            resident_kib: rss.trim().split(' ').next()?.parse().ok()?,
        })
    }
}

/// The number of processes, the number of files in the server's directory, and the resources of each process that outlives
/// workers, by its role.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    pub(crate) processes: usize,
    files: usize,
    roles: BTreeMap<&'static str, Resources>,
}

impl Census {
    /// Describes each difference from `before` that is a leak, or a loss of something that must remain.
    pub(crate) fn leaks(&self, before: &Census) -> Vec<String> {
        let mut leaks = Vec::new();
        let mut compare = |what: String, before: usize, after: usize, room: usize| {
            if after > before + room || room == 0 && after < before {
                leaks.push(format!("{what}: {before} before, {after} after"));
            }
        };
        compare("processes".to_owned(), before.processes, self.processes, 0);
        compare("files".to_owned(), before.files, self.files, 0);
        for (role, before) in &before.roles {
            let Some(after) = self.roles.get(role) else {
                compare(format!("processes with the role {role}"), 1, 0, 0);
                continue;
            };
            for (what, before, after, room) in [
                ("descriptors", before.descriptors, after.descriptors, 0),
                ("threads", before.threads, after.threads, 0),
                ("shared mappings", before.shared_mappings, after.shared_mappings, 0),
                ("private mappings", before.private_mappings, after.private_mappings, ROOM_MAPPINGS),
                ("zombies", before.zombies, after.zombies, 0),
                ("KiB", before.resident_kib, after.resident_kib, ROOM_KIB),
            ] {
                compare(format!("{what} of the {role}"), before, after, room);
            }
        }
        leaks
    }

    /// Describes the resident memory of each role.
    pub(crate) fn memory(&self) -> String {
        let roles = self.roles.iter().map(|(role, own)| format!("{role} {} KiB", own.resident_kib));
        roles.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) arguments: Vec<String>,
    pub(crate) is_unix: bool,
    pub(crate) has_page: bool,
    /// Whether the server is process 1 of a PID namespace.
    pub(crate) is_process_1: bool,
}

pub(crate) struct Server {
    pub(crate) first: Child,
    group: i32,
    /// The directory of all files of the server.
    directory: PathBuf,
    is_process_1: bool,
    loads: bool,
    /// `IP:PORT`, or `unix:` and a path.
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(start: &Start) -> Result<Server, Error> {
        use std::os::unix::process::CommandExt;
        let path = example("prefork-http");
        let directory = std::env::temp_dir().join(format!("prefork-soak-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let file = |name: &str| directory.join(name).display().to_string();
        let mut command = Command::new(if start.is_process_1 { "unshare".as_ref() } else { path.as_path() });
        if start.is_process_1 {
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(&path);
        }
        let listen = if start.is_unix { format!("unix:{}", file("socket")) } else { "127.0.0.1:0".to_owned() };
        command.args(["--listen", &listen, "--workers", &WORKERS.to_string(), "--pid-file", &file("pid")]);
        if start.has_page {
            command.args(["--status", &format!("unix:{}", file("page")), "--control", &file("control")]);
        }
        let mut first = command
            .args(&start.arguments)
            .env("RUST_LOG", "error")
            .env("TMPDIR", &directory)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let group = first.id() as i32;
        let mut stdout = BufReader::new(first.stdout.take().ok_or("standard output is not piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(' ').next());
        let address = address.ok_or("the server announces no address")?.to_owned();
        // The programs of later upgrades write to the same pipe.
        thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        let loads = start.arguments.iter().any(|argument| argument == "--load-in-template");
        Ok(Server { first, group, directory, is_process_1: start.is_process_1, loads, address })
    }

    /// Returns the address of a Unix socket in the server's directory.
    pub(crate) fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.directory.join(name).display())
    }

    /// Reads the id that the supervisor has written into its pid file.
    pub(crate) fn own_pid(&self) -> Option<u32> {
        fs::read_to_string(self.directory.join("pid")).ok()?.trim().parse().ok()
    }

    fn supervisor(&self, processes: &[Process]) -> Option<Process> {
        let own_pid = self.own_pid()?;
        processes.iter().find(|process| process.own_pid == own_pid && self.is_of_server(process)).copied()
    }

    /// Whether a process of the group belongs to the server. `unshare` does not.
    fn is_of_server(&self, process: &Process) -> bool {
        !(self.is_process_1 && process.pid == self.group)
    }

    /// Signals the supervisor, or process 1, which passes signals on.
    pub(crate) fn signal(&self, signal: i32) {
        let processes = self.processes();
        let process_1 = processes.iter().find(|process| self.is_process_1 && process.own_pid == 1).copied();
        if let Some(process) = process_1.or_else(|| self.supervisor(&processes)) {
            send(process.pid, signal);
        }
    }

    /// Lists the processes of the group.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
            if fields.get(2)?.parse() != Ok(self.group) {
                return None;
            }
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let own_pid = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?;
            Some(Process {
                pid,
                own_pid: own_pid.parse().ok()?,
                parent: fields.get(1)?.parse().ok()?,
                is_zombie: *fields.first()? == "Z",
                start: fields.get(19)?.parse().ok()?,
            })
        });
        processes.collect()
    }

    /// Returns the server's resources, or `None` while the supervisor is being replaced.
    pub(crate) fn census(&self) -> Option<Census> {
        let processes = self.processes();
        let supervisor = self.supervisor(&processes)?;
        let mut roles = BTreeMap::from([("supervisor", Resources::of(supervisor, &processes)?)]);
        if let Some(process) = processes.iter().find(|process| self.is_process_1 && process.own_pid == 1) {
            roles.insert("process 1", Resources::of(*process, &processes)?);
        }
        let children = processes.iter().filter(|process| process.parent == supervisor.pid && !process.is_zombie);
        let (services, mut others): (Vec<Process>, Vec<_>) = children.partition(|process| is_service(process.pid));
        if let [service] = services[..] {
            roles.insert("service worker", Resources::of(service, &processes)?);
        }
        others.sort_by_key(|process| process.start);
        // Without a reload, the template is older than its workers.
        if let (true, Some(template)) = (self.loads, others.first()) {
            roles.insert("template", Resources::of(*template, &processes)?);
        }
        let files = fs::read_dir(&self.directory).ok()?.count();
        Some(Census { processes: processes.len(), files, roles })
    }

    /// Returns the workers, and the template and the service worker if the server has them.
    pub(crate) fn children(&self) -> Vec<Process> {
        let processes = self.processes();
        let supervisor = self.supervisor(&processes).map(|supervisor| supervisor.pid);
        processes.into_iter().filter(|process| Some(process.parent) == supervisor && !process.is_zombie).collect()
    }

    /// Kills a worker and waits for its successor. When the supervisor forks the successor, it closes the handles of ended
    /// workers.
    pub(crate) fn replace_one(&self) -> Result<(), Error> {
        let before = self.children();
        let newest = before.iter().filter(|process| !is_service(process.pid)).max_by_key(|process| process.start);
        let victim = newest.ok_or("the server has no worker")?.pid;
        send(victim, libc::SIGKILL);
        until("a worker is replaced", || {
            let children = self.children();
            children.len() == before.len() && children.iter().all(|process| process.pid != victim)
        })
    }

    /// Upgrades the program, and waits until the new one has taken over.
    pub(crate) fn upgrade(&self) -> Result<(), Error> {
        let old = self.own_pid();
        self.signal(libc::SIGUSR2);
        until("another program has taken over", || self.own_pid().is_some() && self.own_pid() != old)
    }

    /// Lists the files that the server has left. There must be no such file.
    pub(crate) fn files_left(&self) -> io::Result<Vec<String>> {
        let files = fs::read_dir(&self.directory)?;
        files.map(|file| Ok(format!("the server has left the file {}", file?.path().display()))).collect()
    }

    /// Whether the first program has ended, which this function then reaps. As process 1, the first program stays, and
    /// `unshare` waits for it.
    pub(crate) fn has_only_the_new_program(&mut self) -> bool {
        self.is_process_1 || matches!(self.first.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        send(-self.group, libc::SIGKILL);
        let _ = self.first.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether a process is a service worker: one of its threads has that name.
fn is_service(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).any(|name| name == "service\n")
}
