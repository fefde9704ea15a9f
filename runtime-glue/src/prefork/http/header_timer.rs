//! The timer of the header timeout, which costs a request little more than a clock reading.
//!
//! hyper makes a `Sleep` for the head of each request, and drops it when the head has arrived. If each were a timer of tokio,
//! each request would enter one into the timer wheel and remove it. Here a `Sleep` that ends early leaves its timer in the
//! wheel, for the next `Sleep` of any connection. A timer that fires too early for its new `Sleep` is set again.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// How many unused timers are kept. The waker of an unused timer keeps the memory of a task, about 1 KiB, until it fires.
const KEPT: usize = 256;

/// The header timers of one runtime.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderTimer {
    unused: Arc<Mutex<Vec<Pin<Box<tokio::time::Sleep>>>>>,
}

impl HeaderTimer {
    pub(super) fn until(&self, deadline: Instant) -> HeaderSleep {
        HeaderSleep { deadline, timer: None, timers: self.clone() }
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Pin<Box<tokio::time::Sleep>>>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for HeaderTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.until(deadline))
    }
}

/// Waits until a deadline.
#[derive(Debug)]
pub(super) struct HeaderSleep {
    deadline: Instant,
    /// The first poll takes an unused timer, or makes one.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    timers: HeaderTimer,
}

impl Sleep for HeaderSleep {}

impl Future for HeaderSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let HeaderSleep { deadline, timer, timers } = self.get_mut();
        let deadline = (*deadline).into();
        let timer = timer.get_or_insert_with(|| {
            timers.unused().pop().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(deadline)))
        });
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() == deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl Drop for HeaderSleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            let mut unused = self.timers.unused();
            if unused.len() < KEPT {
                unused.push(timer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::runtime::Builder;

    use super::*;

    /// Polls once, so that the sleep has a timer.
    async fn begin(mut sleep: HeaderSleep) {
        let _pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut sleep).poll(cx))).await;
    }

    /// A sleep that gets an unused timer ends at its own deadline, whether that is later or earlier than the timer's.
    #[test]
    fn unused_timer_is_set_again() {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let timers = HeaderTimer::default();
            for other in [Duration::from_millis(5), Duration::from_secs(3600)] {
                begin(timers.until(Instant::now() + other)).await;
                assert_eq!(timers.unused().len(), 1);
                let deadline = Instant::now() + Duration::from_millis(20);
                timers.until(deadline).await;
                assert!(Instant::now() >= deadline);
            }
        });
    }
}
