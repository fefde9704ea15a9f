//! The layer of `tracing` that writes the access log.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Format;
use super::line::Fields;
use crate::log::LogFile;

#[derive(Debug)]
pub(crate) enum Output {
    Stdout,
    File(LogFile),
}

impl Output {
    /// Writes a line with one system call, so that the line does not mix with those of other workers.
    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Output::File(file) => (&*file).write_all(line),
        }
    }
}

#[derive(Debug)]
pub(crate) struct AccessLayer {
    format: Format,
    output: Output,
    /// Whether the last line could not be written.
    has_failed: AtomicBool,
}

impl AccessLayer {
    pub(crate) fn new(format: Format, output: Output) -> AccessLayer {
        AccessLayer { format, output, has_failed: AtomicBool::new(false) }
    }

    fn write(&self, line: &[u8]) {
        let written = self.output.write(line);
        let has_failed = written.is_err();
        // Of several errors in a row, report the first one. Use standard error, because a layer must not create an event.
        if let (Err(error), false) = (written, self.has_failed.load(Ordering::Relaxed)) {
            let _ = writeln!(io::stderr(), "{}: cannot write the access log: {error}", crate::options::NAME);
        }
        if has_failed != self.has_failed.load(Ordering::Relaxed) {
            self.has_failed.store(has_failed, Ordering::Relaxed);
        }
    }
}

thread_local! {
    /// Buffers that all requests of this thread reuse.
    static SCRATCH: RefCell<(Fields, String)> = RefCell::default();
}

impl<S: Subscriber> Layer<S> for AccessLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        SCRATCH.with_borrow_mut(|(fields, line)| {
            fields.clear();
            event.record(fields);
            line.clear();
            self.format.write(fields, line);
            self.write(line.as_bytes());
        });
    }
}

impl Fields {
    /// Clears all fields. The strings keep their allocations.
    fn clear(&mut self) {
        for text in [&mut self.peer, &mut self.method, &mut self.path, &mut self.version] {
            text.clear();
        }
        let keep = std::mem::take(self);
        *self = Fields {
            peer: keep.peer,
            method: keep.method,
            path: keep.path,
            version: keep.version,
            ..Fields::default()
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "method" => self.method.push_str(value),
            "path" => self.path.push_str(value),
            _ => self.record_bytes(field, value.as_bytes()),
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        match field.name() {
            "referer" => self.referer = Some(value.to_owned()),
            "user_agent" => self.user_agent = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = Some(value),
            "bytes" => self.bytes = value,
            "worker" => self.worker = value,
            "pid" => self.pid = value,
            "generation" => self.generation = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration" {
            self.duration = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "peer" => &mut self.peer,
            "version" => &mut self.version,
            _ => return,
        };
        // Writing to a string does not fail.
        let _ = write!(text, "{value:?}");
    }
}
