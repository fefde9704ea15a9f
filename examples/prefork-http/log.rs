//! The server's log and the access log. Each goes to a standard stream, or to a file, which SIGUSR1 opens again.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::access_log::{AccessLayer, Output, TARGET};
use crate::options::Options;

/// A log file, which all processes of the server append to.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path, option: &str) -> Result<LogFile, String> {
        let file = append(path).map_err(|error| {
            format!("cannot open the log file {}: {error}; choose another one with {option}", path.display())
        })?;
        Ok(LogFile { path: path.to_owned(), file: Arc::new(Mutex::new(file)) })
    }

    /// Opens the path again, in this process.
    pub(crate) fn reopen(&self) {
        match append(&self.path) {
            Ok(file) => *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file,
            Err(error) => tracing::error!(%error, path = %self.path.display(), "cannot open the log file again"),
        }
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Sets the logs up. Returns their files.
pub(crate) fn init(options: &Options) -> Result<Vec<LogFile>, String> {
    let open = |path: Option<&PathBuf>, option| path.map(|path| LogFile::open(path, option)).transpose();
    let file = open(options.log_file.as_ref(), "--log-file")?;
    let access_file = open(options.access_log_file.as_ref(), "--access-log-file")?;

    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let (writer, is_terminal) = match file.clone() {
        Some(file) => (BoxMakeWriter::new(move || Appender(file.clone())), false),
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let log = fmt::layer().with_ansi(is_terminal).with_writer(writer);
    match options.access_log {
        None => registry().with(log).with(filter).init(),
        Some(format) => {
            let output = access_file.clone().map_or(Output::Stdout, Output::File);
            let is_access = || filter_fn(|metadata| metadata.target() == TARGET);
            // `RUST_LOG` filters only the server's log.
            let access_log = AccessLayer::new(format, output).with_filter(is_access());
            registry().with(log.with_filter(filter.and(is_access().not()))).with(access_log).init();
        }
    }
    Ok([file, access_file].into_iter().flatten().collect())
}

/// Appends one event to a log file.
struct Appender(LogFile);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
