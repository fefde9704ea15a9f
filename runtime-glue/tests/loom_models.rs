//! Model checks: the module under test is compiled here with loom's types in place of the standard library's.

// The models use only some functions of the module.
#![allow(dead_code)]

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ptr;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// Yields: loom explores which thread continues.
    pub(crate) fn pause(_round: u32) {
        loom::thread::yield_now();
    }

    loom::thread_local! {
        static MARK: Box<u8> = Box::new(0);
    }

    pub(crate) fn this_thread() -> usize {
        MARK.with(|mark| std::ptr::from_ref::<u8>(mark).addr())
    }
}

#[path = "../src/sys/per_process.rs"]
mod per_process;

use per_process::{NotMade, PerProcess};
use sync::{AtomicPtr, AtomicUsize, Ordering};

impl<T> PerProcess<T> {
    fn new() -> PerProcess<T> {
        PerProcess { newest: AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
    }
}

/// A numbered value. loom fails if a thread reads it before it is published.
struct Value(UnsafeCell<usize>);

// SAFETY: the value is written once, before it is shared. loom checks that.
unsafe impl Sync for Value {}

impl Value {
    fn new(number: usize) -> Value {
        Value(UnsafeCell::new(number))
    }

    fn get(&self) -> usize {
        // SAFETY: no thread writes the value any more.
        self.0.with(|value| unsafe { *value })
    }
}

/// Threads of a process that ask at the same time get the same value, which is made once.
#[test]
fn threads_agree() {
    loom::model(|| {
        let cell = Arc::new(PerProcess::new());
        let made = Arc::new(AtomicUsize::new(0));
        let get = |cell: &PerProcess<Value>, made: &AtomicUsize| {
            let make = || Ok::<_, Infallible>(Value::new(made.fetch_add(1, Ordering::Relaxed)));
            cell.get_or_try_make(|| 7, make).ok().map(Value::get)
        };
        let other = {
            let (cell, made) = (Arc::clone(&cell), Arc::clone(&made));
            thread::spawn(move || get(&cell, &made))
        };
        assert_eq!(get(&cell, &made), Some(0));
        assert_eq!(other.join().unwrap(), Some(0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    });
}

/// If a value is forgotten while another thread gets it, that thread can still read it. Later calls get another value.
#[test]
fn a_forgotten_value_stays_usable() {
    loom::model(|| {
        let cell = Arc::new(PerProcess::new());
        let made = Arc::new(AtomicUsize::new(0));
        let get = |cell: &PerProcess<Value>, made: &AtomicUsize| {
            let make = || Ok::<_, Infallible>(Value::new(made.fetch_add(1, Ordering::Relaxed)));
            cell.get_or_try_make(|| 7, make).ok().map(Value::get)
        };
        assert_eq!(get(&cell, &made), Some(0));
        let other = {
            let (cell, made) = (Arc::clone(&cell), Arc::clone(&made));
            thread::spawn(move || get(&cell, &made))
        };
        assert_eq!(cell.forget(7).map(Value::get), Some(0));
        assert!(matches!(other.join().unwrap(), Some(0 | 1)));
        assert_eq!(get(&cell, &made), Some(1));
        assert_eq!(made.load(Ordering::Relaxed), 2);
    });
}

/// If one thread fails to make the value, another one makes it, in any order.
#[test]
fn another_thread_makes_the_value_after_a_failure() {
    loom::model(|| {
        let cell = Arc::new(PerProcess::new());
        let failing = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || match cell.get_or_try_make(|| 7, || Err(())) {
                Ok(value) => assert_eq!(Value::get(value), 3),
                Err(error) => assert!(matches!(error, NotMade::Failed(()))),
            })
        };
        let value = cell.get_or_try_make(|| 7, || Ok::<_, ()>(Value::new(3)));
        assert_eq!(value.ok().map(Value::get), Some(3));
        failing.join().unwrap();
    });
}

/// A thread of the parent leaves the slot in each possible state. The child's threads agree on a value, and do not wait
/// for that thread.
#[test]
fn a_child_waits_for_no_thread_of_the_parent() {
    for stage in 0..3 {
        loom::model(move || {
            let cell = Arc::new(PerProcess::new());
            match stage {
                0 => {
                    assert_eq!(cell.get_or_try_make(|| 1, || Ok::<_, ()>(Value::new(1))).ok().map(Value::get), Some(1))
                }
                1 => assert!(cell.get_or_try_make(|| 1, || Err::<Value, _>(())).is_err()),
                // The thread of the parent is in the middle of making the value.
                _ => {
                    let make = || {
                        assert!(matches!(cell.get_or_try_make(|| 1, || Err(())), Err(NotMade::InsideItself)));
                        let value = cell.get_or_try_make(|| 2, || Ok::<_, ()>(Value::new(2)));
                        assert_eq!(value.ok().map(Value::get), Some(2));
                        Err::<Value, _>(())
                    };
                    assert!(cell.get_or_try_make(|| 1, make).is_err());
                }
            }
            let other = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.get_or_try_make(|| 2, || Ok::<_, ()>(Value::new(2))).ok().map(Value::get))
            };
            let value = cell.get_or_try_make(|| 2, || Ok::<_, ()>(Value::new(2)));
            assert_eq!(value.ok().map(Value::get), Some(2));
            assert_eq!(other.join().unwrap(), Some(2));
            assert_eq!(
                cell.inherited(2).map(Value::get).collect::<Vec<_>>(),
                Vec::from_iter((stage == 0).then_some(1))
            );
        });
    }
}
