//! A file with the supervisor's process id.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// A pid file. Dropping it removes the file, unless another process has written it since.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    owner: u32,
    /// Holds the lock that [`check`](PidFile::check) finds. The kernel releases the lock when the process ends. Children do not
    /// inherit it.
    locked: fs::File,
}

impl PidFile {
    /// Returns an error if the directory does not exist, or if the process that wrote the file still runs. The lock on
    /// the file shows whether that process runs. The id does not: another process may have the same id by now.
    pub(super) fn check(path: &Path) -> io::Result<()> {
        let Ok(mut file) = fs::File::open(path) else {
            // The server writes the file only when it is ready. Report a missing directory at once.
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            return directory.map_or(Ok(()), |directory| fs::metadata(directory).map(drop));
        };
        // Other errors mean that the file system has no locks.
        if let Err(Errno::AGAIN | Errno::ACCESS) = fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            let text = format!("it belongs to process {}, which runs", owner.trim());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(())
    }

    pub(super) fn write(path: PathBuf) -> io::Result<PidFile> {
        let owner = process::id();
        let locked = PidFile::create(&path, owner)?;
        Ok(PidFile { path, owner, locked })
    }

    /// Writes the file again if another process has replaced or removed it.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        // Do not open the file here: closing it would release the lock of this process.
        let own = self.locked.metadata()?;
        let is_own = fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
        if !is_own {
            self.locked = PidFile::create(&self.path, self.owner)?;
        }
        Ok(())
    }

    /// Writes the file under another name, and renames it: a reader never sees half of the file, and a full disk leaves the
    /// old file alone.
    fn create(path: &Path, owner: u32) -> io::Result<fs::File> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{owner}"));
        let new = path.with_file_name(name);
        let written = (|| {
            // In a directory of another user, `new` may be a symbolic link to a file that only this process may write.
            let _ = fs::remove_file(&new);
            let mut file = fs::File::create_new(&new)?;
            writeln!(file, "{owner}")?;
            file.sync_all()?;
            // Ignore an error: the file system may have no locks. Later servers then cannot tell that this one runs.
            let _ = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
            fs::rename(&new, path)?;
            Ok(file)
        })();
        if written.is_err() {
            // An incomplete file is useless. Removing fails if there is no file at all.
            let _ = fs::remove_file(&new);
        }
        written
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_own = fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == self.owner.to_string());
        // A worker drops its copy too.
        if !is_own || process::id() != self.owner {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the pid file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_unless_another_process_has_written_it() {
        let directory = std::env::temp_dir().join(format!("forkio-pid-file-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("server.pid");
        let file = PidFile::write(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(path.clone()).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists(), "the file of process 1 was removed");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "another file was left");
        PidFile::write(directory.join("missing/server.pid")).unwrap_err();
        let (other, link) = (directory.join("other"), directory.join(format!("server.pid.{}", process::id())));
        fs::write(&other, "text").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        drop(PidFile::write(path).unwrap());
        assert_eq!(fs::read_to_string(&other).unwrap(), "text", "the link was followed");
        fs::remove_dir_all(&directory).unwrap();
    }
}
