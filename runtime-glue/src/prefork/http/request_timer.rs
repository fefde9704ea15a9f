//! The timer of a connection whose client takes too long to send a request.
//!
//! hyper has a timeout for the heads of HTTP/1 requests. It costs each request a timer, and one more turn of hyper's loop. This
//! timer costs a request next to nothing: only after it has fired, it checks the progress of the connection and is set
//! again.

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
    /// `None` if the limit is too far away for a clock, or if the timer has fired for the last time.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The waker that `sleep` wakes.
    waker: Option<Waker>,
    wait: Wait,
}

/// The part of a request that the client should send next, as of the last look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The first request. `None`: there is no limit.
    First { until: Option<Instant> },
    /// The rest of a head. `requests` is the number of requests that came before it.
    RestOfHead { requests: usize },
    /// Another request. `idle_since` is when a look first found the connection idle with this `progress`; `None` if the worker
    /// still answers a request.
    Next { progress: usize, idle_since: Option<Instant> },
}

/// Returns the time between two looks at a connection. A connection that becomes idle between two looks stays open longer
/// than the keep-alive timeout, by at most that time.
fn period(http: &Http) -> Duration {
    (http.keep_alive_timeout / 4).max(SHORTEST)
}

impl RequestTimer {
    /// Makes the timer of a connection that was accepted at this time.
    pub(super) fn new(http: &Http, accepted: Instant) -> RequestTimer {
        let until = accepted.checked_add(http.header_timeout);
        let mut timer = RequestTimer { sleep: None, waker: None, wait: Wait::First { until } };
        timer.set(accepted.checked_add(http.header_timeout.min(period(http))));
        timer
    }

    fn set(&mut self, deadline: Option<Instant>) {
        self.waker = None;
        match (&mut self.sleep, deadline) {
            (Some(sleep), Some(deadline)) => sleep.as_mut().reset(deadline),
            (sleep, deadline) => *sleep = deadline.map(|deadline| Box::pin(sleep_until(deadline))),
        }
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
        self.set(Instant::now().checked_add(time));
    }

    /// Returns `Ready`, once, if the client has taken too long.
    pub(super) fn poll(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        self.follow_head(activity);
        loop {
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            // The task of the connection polls this timer at each of the task's events.
            if !sleep.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if sleep.as_mut().poll(cx).is_pending() {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match self.look(activity, Instant::now()) {
                Some((wait, deadline)) => {
                    self.wait = wait;
                    self.set(deadline);
                }
                None => {
                    self.sleep = None;
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Returns the next state, and when to look again. `None` if the client has taken too long.
    fn look(&self, activity: &Activity, now: Instant) -> Option<(Wait, Option<Instant>)> {
        let http = &activity.serving().http;
        let next = now.checked_add(period(http));
        let before = match self.wait {
            Wait::First { until } if !activity.has_had_request() => {
                return until.is_none_or(|until| until > now).then_some((self.wait, until.or(next)));
            }
            // Otherwise `follow_head` would have noticed the end of the head.
            Wait::RestOfHead { .. } => return None,
            Wait::Next { progress, idle_since } if progress == activity.progress() => idle_since,
            Wait::First { .. } | Wait::Next { .. } => None,
        };
        let idle_since = activity.is_idle().then(|| before.unwrap_or(now));
        let end = idle_since.and_then(|since| since.checked_add(http.keep_alive_timeout));
        if end.is_some_and(|end| end <= now) {
            return None;
        }
        let deadline = [next, end].into_iter().flatten().min();
        Some((Wait::Next { progress: activity.progress(), idle_since }, deadline))
    }
}
