//! Runs prefork-http under load for ten minutes. Meanwhile, reloads, scales and upgrades it, and kills workers.
//!
//! ```sh
//! cargo build --release --example prefork-http
//! cargo run --release -p forkio-tests --bin prefork-soak -- [--minutes N] [ARGUMENTS OF prefork-http]
//! ```
//!
//! The run fails if a client cannot connect, if a request is lost on a worker that was not killed, if start and end differ in
//! the number of processes, zombies, descriptors or shared mappings, or if the supervisor has grown by more than 4 MiB.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const KEEP_ALIVE_CLIENTS: usize = 64;
const SHORT_CLIENTS: usize = 64;
const WORKERS: usize = 4;
const MOST_WORKERS: usize = 6;
const RELOAD: u64 = 20;
const KILL: u64 = 5;
const SCALE: u64 = 15;
const UPGRADE: u64 = 60;
/// How much the resident memory of the supervisor may grow.
const ROOM_KIB: usize = 4 * 1024;
/// How long to wait for a condition that must become true.
const LIMIT: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Soak {
    stop: AtomicBool,
    requests: AtomicU64,
    on_killed: AtomicU64,
    /// The workers that were killed, and the time of the last kill.
    killed: Mutex<(HashSet<u32>, Option<Instant>)>,
    failures: Mutex<Vec<String>>,
}

impl Soak {
    fn fail(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Notes a lost request on a connection made at `connected`. `worker` is the one that answered an earlier request on it.
    fn lost(&self, worker: Option<u32>, connected: Instant, error: &io::Error) {
        // `disturb` holds this lock while it notes and kills a worker.
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_on_killed = match worker {
            Some(worker) => killed.0.contains(&worker),
            // No worker has answered on this connection. A worker that was killed later may have accepted it.
            None => killed.1.is_some_and(|last| last >= connected),
        };
        let since_kill = killed.1.map(|last| last.elapsed());
        drop(killed);
        if is_on_killed {
            self.on_killed.fetch_add(1, Ordering::Relaxed);
        } else {
            let age = connected.elapsed();
            self.fail(format!(
                "a request was lost on worker {worker:?}: {error} (connected {age:?} ago, the last kill was {since_kill:?} ago)"
            ));
        }
    }

    fn client(&self, address: SocketAddr, keeps: bool) {
        while !self.stop.load(Ordering::Relaxed) {
            let connected = Instant::now();
            let stream = match TcpStream::connect_timeout(&address, LIMIT) {
                Ok(stream) => stream,
                Err(error) => {
                    self.fail(format!("cannot connect: {error}"));
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(LIMIT));
            let mut stream = BufReader::new(stream);
            let mut worker = None;
            loop {
                match request(&mut stream, keeps) {
                    Ok((pid, closes)) => {
                        self.requests.fetch_add(1, Ordering::Relaxed);
                        worker = Some(pid);
                        if closes || !keeps || self.stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    Err(error) => {
                        self.lost(worker, connected, &error);
                        break;
                    }
                }
                // Leaves processor time to the server.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Sends a request. Returns the process id of the worker, and whether it closes the connection.
fn request(stream: &mut BufReader<TcpStream>, keeps: bool) -> io::Result<(u32, bool)> {
    let connection = if keeps { "keep-alive" } else { "close" };
    write!(stream.get_mut(), "GET /pid HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n")?;
    let (mut length, mut closes, mut line) = (0, false, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if header.starts_with("http/") && !header.starts_with("http/1.1 200") {
            return Err(io::Error::other(header));
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        closes |= header == "connection: close";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let pid = String::from_utf8_lossy(&body).parse().map_err(io::Error::other)?;
    Ok((pid, closes))
}

/// The resources of a server: processes and zombies of its group, and the other resources of the supervisor alone.
#[derive(Clone, Copy, Debug)]
struct Resources {
    processes: usize,
    zombies: usize,
    descriptors: usize,
    shared_mappings: usize,
    resident_kib: usize,
}

impl Resources {
    /// Describes each difference from `before` that is a leak.
    fn leaks(&self, before: &Resources) -> Vec<String> {
        let mut leaks = Vec::new();
        for (what, before, after) in [
            ("processes", before.processes, self.processes),
            ("zombies", before.zombies, self.zombies),
            ("descriptors", before.descriptors, self.descriptors),
            ("shared mappings", before.shared_mappings, self.shared_mappings),
        ] {
            if before != after {
                leaks.push(format!("{what}: {before} before, {after} after"));
            }
        }
        if self.resident_kib > before.resident_kib + ROOM_KIB {
            leaks.push(format!("the supervisor has grown from {} to {} KiB", before.resident_kib, self.resident_kib));
        }
        leaks
    }
}

struct Server {
    first: Child,
    group: i32,
    pid_file: PathBuf,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[String]) -> Result<Server, Error> {
        use std::os::unix::process::CommandExt;
        let own = std::env::current_exe()?;
        let path = own.parent().ok_or("this program is in no directory")?.join("examples/prefork-http");
        let pid_file = std::env::temp_dir().join(format!("prefork-soak-{}.pid", std::process::id()));
        let mut first = Command::new(&path)
            .args(["--listen", "127.0.0.1:0", "--workers", &WORKERS.to_string(), "--pid-file"])
            .arg(&pid_file)
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let group = first.id() as i32;
        let mut stdout = BufReader::new(first.stdout.take().ok_or("standard output is not piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(' ').next());
        let address = address.ok_or("the server announces no address")?.parse()?;
        // The programs of later upgrades write to the same pipe.
        thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        Ok(Server { first, group, pid_file, address })
    }

    fn pid(&self) -> Option<i32> {
        fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()
    }

    fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid() {
            send(pid, signal);
        }
    }

    /// Lists the processes of the group: the process id, the parent's id, and whether the process is a zombie.
    fn processes(&self) -> Vec<(i32, i32, bool)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let stats = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
            let group: i32 = fields.next()?.parse().ok()?;
            (group == self.group).then_some((pid, parent, state == "Z"))
        });
        stats.collect()
    }

    /// Returns the server's resources, or `None` while the supervisor is being replaced.
    fn resources(&self) -> Option<Resources> {
        let pid = self.pid()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let shared_mappings = maps.lines().filter(|line| line.contains(" rw-s ")).count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_kib = rss.trim().split(' ').next()?.parse().ok()?;
        let processes = self.processes();
        let zombies = processes.iter().filter(|(_, _, zombie)| *zombie).count();
        Some(Resources { processes: processes.len(), zombies, descriptors, shared_mappings, resident_kib })
    }

    /// The workers, and the template if there is one.
    fn children(&self) -> Vec<i32> {
        let supervisor = self.pid();
        let children =
            self.processes().into_iter().filter(|(_, parent, zombie)| Some(*parent) == supervisor && !zombie);
        children.map(|(pid, ..)| pid).collect()
    }

    /// Kills a child and waits for its successor. When the supervisor forks the successor, it closes the handles of ended workers.
    fn replace_one(&self) -> Result<(), Error> {
        let before = self.children();
        let victim = *before.first().ok_or("the server has no worker")?;
        send(victim, libc::SIGKILL);
        until("a worker is replaced", || {
            let children = self.children();
            children.len() == before.len() && !children.contains(&victim)
        })
    }

    /// Upgrades the program, and waits until the new one has taken over.
    fn upgrade(&self) -> Result<(), Error> {
        let old = self.pid();
        self.signal(libc::SIGUSR2);
        until("another program has taken over", || self.pid().is_some() && self.pid() != old)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        send(-self.group, libc::SIGKILL);
        let _ = self.first.wait();
        let _ = fs::remove_file(&self.pid_file);
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, signal) };
}

fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > LIMIT {
            return Err(format!("not within {LIMIT:?}: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut minutes = 10.0;
    if arguments.first().is_some_and(|argument| argument == "--minutes") {
        minutes = arguments.get(1).ok_or("--minutes needs a number")?.parse()?;
        arguments.drain(..2);
    }
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let mut server = Server::start(&arguments)?;
    // Compare programs that an upgrade has started: they have other descriptors than the first program.
    server.upgrade()?;
    let mut before = None;
    until("the old program has ended", || {
        before = server.resources();
        // The old program is a child of this process, which must reap it.
        matches!(server.first.try_wait(), Ok(Some(_))) && before.is_some_and(|before| before.zombies == 0)
    })?;
    server.replace_one()?;
    // Gives the supervisor time to prepare its next fork.
    thread::sleep(Duration::from_secs(1));
    let before = server.resources().ok_or("the supervisor has ended")?;
    let soak = Soak::default();
    let done = thread::scope(|scope| {
        for client in 0..KEEP_ALIVE_CLIENTS + SHORT_CLIENTS {
            let (soak, address) = (&soak, server.address);
            scope.spawn(move || soak.client(address, client < KEEP_ALIVE_CLIENTS));
        }
        let done = disturb(&server, &soak, duration);
        soak.stop.store(true, Ordering::Relaxed);
        done
    });
    let done = done?;
    until("only the workers are left", || server.resources().is_some_and(|after| after.processes == before.processes))?;
    server.replace_one()?;
    let mut after = None;
    let settled = until("the server has the resources that it had at the start", || {
        after = server.resources();
        after.is_some_and(|after| after.leaks(&before).is_empty())
    });
    let after = after.ok_or("the supervisor has ended")?;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("{} requests in {:?}; {}", count(&soak.requests), duration, done);
    println!("requests lost with a killed worker: {}", count(&soak.on_killed));
    println!("before: {before:?}\nafter: {after:?}");
    let mut failures = std::mem::take(&mut *soak.failures.lock().unwrap_or_else(PoisonError::into_inner));
    if settled.is_err() {
        failures.extend(after.leaks(&before));
    }
    server.signal(libc::SIGTERM);
    until("all processes have ended", || {
        let _ = server.first.try_wait();
        server.processes().iter().all(|(_, _, zombie)| *zombie)
    })?;
    TcpListener::bind(server.address).map_err(|error| format!("the port is not free: {error}"))?;
    for failure in failures.iter().take(20) {
        println!("FAILED: {failure}");
    }
    if failures.is_empty() { Ok(()) } else { Err(format!("{} failures", failures.len()).into()) }
}

/// Reloads, scales and upgrades the server and kills workers.
fn disturb(server: &Server, soak: &Soak, duration: Duration) -> Result<String, Error> {
    let start = Instant::now();
    let (mut reloads, mut kills, mut scales, mut upgrades) = (0, 0, 0, 0);
    let mut workers = WORKERS;
    let mut random = 1_u64;
    let mut second = 0;
    while start.elapsed() < duration {
        second += 1;
        let next = start + Duration::from_secs(second);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // Upgrade in the middle of the period, so that the last program has been through reloads and kills before the final
        // check.
        if second % UPGRADE == UPGRADE / 2 {
            server.upgrade()?;
            upgrades += 1;
            workers = WORKERS;
        } else if second % RELOAD == 0 {
            server.signal(libc::SIGHUP);
            reloads += 1;
        } else if second % SCALE == 0 {
            let grows = workers < MOST_WORKERS && scales % 4 < 2;
            server.signal(if grows { libc::SIGTTIN } else { libc::SIGTTOU });
            workers = if grows { workers + 1 } else { (workers - 1).max(1) };
            scales += 1;
        }
        if second % KILL == 0 {
            let pids = server.children();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Some(victim) = pids.get((random >> 33) as usize % pids.len().max(1)) {
                let mut killed = soak.killed.lock().unwrap_or_else(PoisonError::into_inner);
                killed.0.insert(*victim as u32);
                send(*victim, libc::SIGKILL);
                killed.1 = Some(Instant::now());
                kills += 1;
            }
        }
        if let Some(failure) = soak.failures.lock().unwrap_or_else(PoisonError::into_inner).first()
            && second % 30 == 0
        {
            println!("the first failure so far: {failure}");
        }
    }
    while workers != WORKERS {
        server.signal(if workers < WORKERS { libc::SIGTTIN } else { libc::SIGTTOU });
        workers = if workers < WORKERS { workers + 1 } else { workers - 1 };
        // The kernel merges pending signals of the same kind.
        thread::sleep(Duration::from_secs(1));
    }
    Ok(format!("{reloads} reloads, {kills} kills, {scales} changes of the number of workers, {upgrades} upgrades"))
}
