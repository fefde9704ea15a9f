//! The sentences about the copy of a queue that watches another queue.

use std::io::Write;

use crate::Sentence;
use crate::kernel::*;
use crate::tools::*;

pub(crate) const SENTENCES: &[Sentence] = &[
    ("KQUEUE_CPONFORK", "references a kqueue opened without the KQUEUE_CPONFORK flag, the event is not copied", || {
        let (outer, inner) = (copied()?, Kqueue::new());
        inner.add_and_trigger();
        outer.change(read(&inner, EV_ADD));
        Some(in_child(|| outer.poll().is_empty()) && outer.wait().len() == 1)
    }),
    ("15.1", "the child can add a new queue at the descriptor of a watched queue that was not copied", || {
        let (outer, inner) = (copied()?, Kqueue::new());
        outer.change(read(&inner, EV_ADD));
        Some(in_child(|| {
            let fresh = Kqueue::new();
            // SAFETY: the descriptor is free, or is the fresh queue itself.
            assert_eq!(unsafe { libc::dup2(fresh.0, inner.0) }, inner.0);
            outer.change(read(&inner, EV_ADD));
            inner.add_and_trigger();
            let held = (outer.wait().len(), inner.poll().len()) == (1, 1);
            std::mem::forget(fresh);
            held
        }))
    }),
    ("15.1", "an event that watches a queue with the flag is copied", || {
        let (outer, inner) = nested()?;
        let (a, mut b) = pair();
        inner.change(read(&a, EV_ADD));
        let is_told = || outer.wait().len() == 1 && inner.wait().len() == 1;
        Some(in_both(|| b.write_all(b"x").expect("writing"), is_told) && is_told())
    }),
    ("15.1", "the copied event does not report an event that only the child's inner queue has", || {
        let (outer, inner) = nested()?;
        Some(in_child(|| {
            inner.add_and_trigger();
            outer.poll().is_empty() && inner.poll().len() == 1
        }))
    }),
    ("15.1", "the copied event reports an event that only the parent's inner queue has", || {
        let (outer, inner) = nested()?;
        let is_told = in_both(|| inner.add_and_trigger(), || outer.wait().len() == 1 && inner.poll().is_empty());
        Some(is_told && inner.poll().len() == 1)
    }),
    ("15.1", "EV_ADD of the copied event does not make it watch the child's inner queue", || {
        let (outer, inner) = nested()?;
        Some(in_child(|| {
            outer.change(read(&inner, EV_ADD));
            inner.add_and_trigger();
            outer.poll().is_empty() && inner.poll().len() == 1
        }))
    }),
    ("15.1", "EV_DELETE and EV_ADD of the copied event make it watch the child's inner queue", || {
        let (outer, inner) = nested()?;
        let watch_own = || {
            outer.change(read(&inner, EV_DELETE));
            outer.change(read(&inner, EV_ADD));
        };
        let own = in_child(|| {
            watch_own();
            inner.add_and_trigger();
            outer.wait().len() == 1 && inner.poll().len() == 1
        });
        let parents = in_both(
            || inner.add_and_trigger(),
            || {
                watch_own();
                outer.poll().is_empty()
            },
        );
        Some(own && parents)
    }),
];

/// Opens two queues that are copied on fork. The first one watches the second one.
fn nested() -> Option<(Kqueue, Kqueue)> {
    let (outer, inner) = (copied()?, copied()?);
    outer.change(read(&inner, EV_ADD));
    Some((outer, inner))
}
