//! The log: to standard error, or to a file that can be opened again after it was rotated.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A log file, which all processes of the server append to.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_owned(), file: Arc::new(Mutex::new(append(path)?)) })
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

/// Sets the log up. Without a path it goes to standard error.
pub(crate) fn init(path: Option<&Path>) -> Result<Option<LogFile>, String> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let Some(path) = path else {
        log.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init();
        return Ok(None);
    };
    let file = LogFile::open(path).map_err(|error| {
        format!("cannot open the log file {}: {error}; choose another one with --log-file", path.display())
    })?;
    let writer = file.clone();
    log.with_ansi(false).with_writer(move || Appender(writer.clone())).init();
    Ok(Some(file))
}

/// One line for the log.
struct Appender(LogFile);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
