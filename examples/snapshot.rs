//! A key-value server that continues to serve while it writes a snapshot of all its keys, as Redis does.
//!
//! `save` forks. The child has the map of that moment, in pages that both processes share until one of them writes. The
//! child writes the file, on the runtime that it has inherited.
//!
//! ```sh
//! cargo run --release --example snapshot -- 127.0.0.1:7000 snapshot.txt
//! nc 127.0.0.1 7000    # then: set NAME VALUE, get NAME, fill COUNT, save
//! ```

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use forkio::{Fork, ForkPolicy};
use tokio::fs::{self, File};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};

type Map = Arc<Mutex<BTreeMap<String, String>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let listener = TcpListener::bind(args.next().as_deref().unwrap_or("127.0.0.1:7000")).await?;
    let path: Arc<str> = args.next().as_deref().unwrap_or("snapshot.txt").into();
    // Only the server accepts new connections. Open connections are severed in the child by default.
    forkio::set_policy(&listener, ForkPolicy::NoFork)?;
    println!("{}", listener.local_addr()?);
    let map = Map::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, Arc::clone(&map), Arc::clone(&path)))),
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers each line of a client.
async fn converse(stream: TcpStream, map: Map, path: Arc<str>) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let answer = match (words.as_slice(), words.get(1).map(|word| word.parse::<u32>())) {
            (["get", name], _) => with(&map, |map| map.get(*name).cloned()).unwrap_or_default(),
            (["set", name, value], _) => {
                with(&map, |map| map.insert((*name).into(), (*value).into())).unwrap_or_default()
            }
            (["fill", _], Some(Ok(count))) => {
                with(&map, |map| map.extend((0..count).map(|key| (format!("key-{key}"), format!("{key:0>200}")))));
                format!("{count} keys")
            }
            (["save"], _) => save(&map, &path).await.unwrap_or_else(|error| format!("not saved: {error}")),
            _ => "unknown: use set NAME VALUE, get NAME, fill COUNT or save".into(),
        };
        lines.get_mut().get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Calls `act` with the locked map. No task holds the lock when another task forks, because `act` does not await.
fn with<T>(map: &Map, act: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
    act(&mut map.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn save(map: &Map, path: &str) -> io::Result<String> {
    let begun = Instant::now();
    let mut child = match forkio::fork().await? {
        Fork::Parent(child) => child,
        Fork::Child(_) => {
            let written = write(map, path).await.inspect_err(|error| eprintln!("cannot write {path}: {error}"));
            std::process::exit(written.is_err().into())
        }
    };
    let forked = begun.elapsed();
    let status = child.wait().await?;
    let elapsed = begun.elapsed();
    match status.success() {
        true => Ok(format!("saved in {elapsed:.1?}, of which the server waited {forked:.1?}")),
        false => Err(io::Error::other(format!("the child ended with {status}"))),
    }
}

/// Writes a new file and renames it, so that there is a whole snapshot at any time.
async fn write(map: &Map, path: &str) -> io::Result<()> {
    let unfinished = format!("{path}.{}", std::process::id());
    let mut file = BufWriter::new(File::create(&unfinished).await?);
    for (name, value) in with(map, std::mem::take) {
        file.write_all(format!("{name} {value}\n").as_bytes()).await?;
    }
    file.flush().await?;
    file.into_inner().sync_all().await?;
    fs::rename(unfinished, path).await
}
