//! Connections of the parent's runtime.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use forkio_tests::runtime::*;

use crate::{listen, serve_each, use_everything, wait};

scenarios!(
    /// Peers see the end of a connection when the parent closes it, even while children run. Children read none of the
    /// connection's bytes.
    fn inherited_connections() {
        const CONNECTIONS: usize = 20;
        let listener = listen();
        serve_each(&listener, |mut stream| async move {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let mut peers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut peer = connect_tcp(listener.local_addr().unwrap());
                peer.write_all(b"x").unwrap();
                peer.read_exact(&mut [0]).unwrap();
                peer
            })
            .collect();
        let children: Vec<_> = [true, false]
            .into_iter()
            .map(|uses_runtime| {
                let (ready, end) = Turn::both_ways();
                let child = fork_with_threads(|| {
                    if uses_runtime {
                        use_everything();
                    }
                    ready.give();
                    end.wait();
                });
                ready.wait();
                (child, end)
            })
            .collect();
        for peer in &mut peers {
            peer.write_all(b"for the parent").unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            check_eq("the echo", read_to_end(peer).as_str(), "for the parent");
        }
        for (child, end) in children {
            end.give();
            wait(child);
        }
    }

    /// Peers see the end of connections that the parent's threads accept and close while the parent forks.
    fn connections_that_come_and_go() {
        const CHILDREN: usize = 30;
        let listener = listen();
        serve_each(&listener, |mut stream| async move { stream.write_all(b"to the end").await.unwrap() });
        let seen = AtomicUsize::new(0);
        let client = || {
            let all = read_to_end(connect_tcp(listener.local_addr().unwrap()));
            check_eq("the bytes that the client receives", all.as_str(), "to the end");
            seen.fetch_add(1, Ordering::Relaxed);
        };
        let mut children = Vec::new();
        beside_threads([client; 2], || {
            let more = |count| {
                let enough = seen.load(Ordering::Relaxed) + count;
                wait_until("connections end while the children run", || seen.load(Ordering::Relaxed) >= enough);
            };
            for _ in 0..CHILDREN {
                more(5);
                let end = Turn::new();
                let child = fork_with_threads(|| {
                    end.wait();
                    exit_now(0);
                });
                children.push((child, end));
            }
            more(50);
        });
        for (child, end) in children {
            end.give();
            wait(child);
        }
    }
);
