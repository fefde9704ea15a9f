//! The timer of a connection, for a client that takes too long to send a request.
//!
//! hyper's own timeout for the heads of HTTP/1 requests costs each request a timer, and one more turn of hyper's loop. Here, a
//! connection has one timer, which most requests do not set: when the timer fires, it checks the progress of the connection,
//! and is set again.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Http;
use super::activity::Activity;

/// The shortest time between two looks at a connection.
const SHORTEST: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct RequestTimer {
    sleep: Pin<Box<Sleep>>,
    /// The waker that `sleep` wakes.
    waker: Option<Waker>,
    wait: Wait,
}

/// The part of a request that the client should send next, as of the last look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The first request.
    First { until: Instant },
    /// The rest of a head. `requests` is the number of requests that came before it.
    RestOfHead { requests: usize },
    /// Another request. `idle_since` is when a look first found the connection idle with this `progress`; `None` if the worker
    /// still answers a request.
    Next { progress: usize, idle_since: Option<Instant> },
    /// The answer to the ping of an HTTP/2 connection that shuts down. `reads` is the number of reads before
    /// the shutdown.
    Answer { reads: usize },
}

/// Returns the time between two looks at a connection. A connection that becomes idle between two looks stays open longer
/// than the keep-alive timeout, by at most this time.
fn period(http: &Http) -> Duration {
    (http.keep_alive_timeout / 4).max(SHORTEST)
}

/// Returns the time in which a client must answer a ping.
fn answer_time(http: &Http) -> Duration {
    http.header_timeout.max(SHORTEST)
}

impl RequestTimer {
    /// Makes the timer of a connection that was accepted at this time.
    pub(super) fn new(http: &Http, accepted: Instant) -> RequestTimer {
        let sleep = Box::pin(sleep_until(accepted + http.header_timeout.min(period(http))));
        RequestTimer { sleep, waker: None, wait: Wait::First { until: accepted + http.header_timeout } }
    }

    fn set(&mut self, deadline: Instant) {
        self.waker = None;
        self.sleep.as_mut().reset(deadline);
    }

    /// Sets the timer again if a part of a head, or its rest, has arrived since the last poll.
    fn follow_head(&mut self, activity: &Activity) {
        let (http, requests) = (&activity.serving().http, activity.requests());
        let is_partial = requests != 0 && activity.has_partial_head();
        let (wait, time) = match self.wait {
            Wait::RestOfHead { requests: before } if is_partial && before == requests => return,
            _ if is_partial => (Wait::RestOfHead { requests }, http.header_timeout),
            Wait::RestOfHead { .. } => (Wait::Next { progress: activity.progress(), idle_since: None }, period(http)),
            _ => return,
        };
        self.wait = wait;
        self.set(Instant::now() + time);
    }

    /// Returns `Ready` if the client has taken too long. The caller then closes an HTTP/1 connection, and shuts an HTTP/2
    /// connection down. The timer continues, and returns `Ready` again if the client has vanished.
    pub(super) fn poll(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        self.follow_head(activity);
        loop {
            // The task of the connection polls this timer at each of its events, so most polls must be cheap.
            if !self.sleep.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let now = Instant::now();
            let found = self.look(activity, now);
            let (wait, deadline) = found.unwrap_or_else(|| {
                (Wait::Answer { reads: activity.reads() }, now + answer_time(&activity.serving().http))
            });
            self.wait = wait;
            self.set(deadline);
            if found.is_none() {
                return Poll::Ready(());
            }
        }
    }

    /// Returns the next state, and when to look again. `None` if the client has taken too long.
    fn look(&self, activity: &Activity, now: Instant) -> Option<(Wait, Instant)> {
        let http = &activity.serving().http;
        let before = match self.wait {
            Wait::First { until } if !activity.has_had_request() => {
                return (until > now).then_some((self.wait, until));
            }
            Wait::Answer { reads } => {
                return (!activity.is_abandoned(reads)).then_some((self.wait, now + answer_time(http)));
            }
            // The rest of the head has not arrived. Otherwise `follow_head` would have left this state.
            Wait::RestOfHead { .. } => return None,
            Wait::Next { progress, idle_since } if progress == activity.progress() => idle_since,
            Wait::First { .. } | Wait::Next { .. } => None,
        };
        let idle_since = activity.is_idle().then(|| before.unwrap_or(now));
        let next = now + period(http);
        let deadline = idle_since.map_or(next, |since| next.min(since + http.keep_alive_timeout));
        (deadline > now).then_some((Wait::Next { progress: activity.progress(), idle_since }, deadline))
    }
}
