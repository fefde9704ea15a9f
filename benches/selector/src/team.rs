//! Threads that do an operation at the same time.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock;

/// How long a turn may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Threads that wait for their turn. They end when the team is dropped.
pub(crate) struct Team {
    orders: Vec<Sender<u64>>,
    results: Receiver<io::Result<Duration>>,
    threads: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts `threads` threads. `job` makes the function that a thread calls in each turn, with a number of
    /// iterations.
    pub(crate) fn start<J>(threads: usize, mut job: impl FnMut(usize) -> io::Result<J>) -> io::Result<Team>
    where
        J: FnMut(u64) -> io::Result<()> + Send + 'static,
    {
        let (sender, results) = mpsc::channel();
        let mut team = Team { orders: Vec::new(), results, threads: Vec::new() };
        for index in 0..threads {
            let (order, orders) = mpsc::channel();
            let (mut job, results) = (job(index)?, sender.clone());
            let take_turns = move || {
                for times in orders {
                    // The receiver is gone only when the team is.
                    let _received = results.send(clock::thread_time(|| job(times)));
                }
            };
            team.threads.push(thread::Builder::new().spawn(take_turns)?);
            team.orders.push(order);
        }
        Ok(team)
    }

    /// Lets each thread do its job `times` times. Returns the mean of their processor times.
    pub(crate) fn turn(&self, times: u64) -> io::Result<Duration> {
        self.order(times)?;
        let mut spent = Duration::ZERO;
        for _ in &self.threads {
            spent += self.results.recv_timeout(LIMIT).map_err(io::Error::other)??;
        }
        Ok(self.mean(spent))
    }

    /// Like [`turn`](Team::turn), but this thread calls `beside` until the team's threads have finished.
    pub(crate) fn turn_beside(&self, times: u64, mut beside: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
        self.order(times)?;
        let (mut spent, mut finished) = (Duration::ZERO, 0);
        while finished < self.threads.len() {
            beside()?;
            for result in self.results.try_iter() {
                spent += result?;
                finished += 1;
            }
        }
        Ok(self.mean(spent))
    }

    fn order(&self, times: u64) -> io::Result<()> {
        self.orders.iter().try_for_each(|order| order.send(times)).map_err(io::Error::other)
    }

    fn mean(&self, spent: Duration) -> Duration {
        spent / self.threads.len() as u32
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.orders.clear();
        for thread in self.threads.drain(..) {
            // A job does not panic, and the result of a turn has been reported already.
            let _ended = thread.join();
        }
    }
}
