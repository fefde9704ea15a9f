//! A test harness that prepares its fixture once. Each test runs in a child that is forked from the prepared process.
//!
//! A test has the fixture as it was prepared, tasks included, and memory of its own. A test that crashes or hangs does not
//! affect the others. Three of the tests below fail on purpose.
//!
//! ```sh
//! cargo run --release --example warm-tests -- 2    # A test may take two seconds.
//! ```

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use forkio::Fork;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::timeout;

type Test = fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const TESTS: [(&str, Test); 5] = [
    ("the fixture is loaded", |fixture| Box::pin(loaded(fixture))),
    ("changes stay in the test", |fixture| Box::pin(changes(fixture))),
    ("a panic", |_| Box::pin(async { panic!("an example") })),
    ("a crash", |_| Box::pin(async { std::process::abort() })),
    ("a hang", |_| Box::pin(std::future::pending())),
];

/// The state that takes long to prepare: a store that runs as a task, and an in-memory stream to the store.
struct Fixture {
    store: BufReader<DuplexStream>,
}

impl Fixture {
    async fn prepare() -> io::Result<Fixture> {
        let (client, server) = tokio::io::duplex(4096);
        let entries = (0..100_000).map(|key| (format!("key {key}"), format!("value {key}"))).collect();
        let _detached = tokio::spawn(store(server, entries));
        let mut fixture = Fixture { store: BufReader::new(client) };
        fixture.ask("key 0").await?; // Waits until the store runs.
        Ok(fixture)
    }

    async fn ask(&mut self, line: &str) -> io::Result<String> {
        self.store.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        self.store.read_line(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    }
}

/// Answers a key with its value, and stores the value of `key=value`.
async fn store(stream: DuplexStream, mut entries: BTreeMap<String, String>) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split_once('=') {
            Some((key, value)) => entries.insert(key.into(), value.into()),
            None => entries.get(&line).cloned(),
        };
        let answer = answer.unwrap_or_default();
        lines.get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn loaded(mut fixture: Fixture) {
    assert_eq!(fixture.ask("key 99999").await.expect("an answer"), "value 99999");
    fixture.ask("key 1=changed by another test").await.expect("an answer");
}

async fn changes(mut fixture: Fixture) {
    assert_eq!(fixture.ask("key 1").await.expect("an answer"), "value 1");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<ExitCode> {
    let limit = std::env::args().nth(1).map_or(Ok(2), |seconds| seconds.parse()).map_err(io::Error::other)?;
    let mut fixture = Some(Fixture::prepare().await?);
    let mut code = ExitCode::SUCCESS;
    for (name, test) in TESTS {
        if let Err(reason) = run(test, &mut fixture, Duration::from_secs(limit)).await? {
            println!("{name}: failed, {reason}");
            code = ExitCode::FAILURE;
        } else {
            println!("{name}: ok");
        }
    }
    Ok(code)
}

/// Runs a test in a child. Returns the reason if it fails.
async fn run(test: Test, fixture: &mut Option<Fixture>, limit: Duration) -> io::Result<Result<(), String>> {
    let mut child = match forkio::fork().await? {
        Fork::Parent(child) => child,
        Fork::Child(_) => {
            let fixture = fixture.take().expect("each child runs one test");
            // A panic ends only the task, so the process can exit with a status of its own.
            let passed = tokio::spawn(test(fixture)).await.is_ok();
            std::process::exit(if passed { 0 } else { 101 })
        }
    };
    Ok(match timeout(limit, child.wait()).await {
        Ok(status) => match status? {
            status if status.success() => Ok(()),
            status => Err(status.to_string()),
        },
        Err(_) => {
            child.kill()?;
            child.wait().await?;
            Err(format!("it took more than {limit:?}"))
        }
    })
}
