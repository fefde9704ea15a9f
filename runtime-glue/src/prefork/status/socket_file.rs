//! The files of the service worker's Unix sockets.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::serve::try_connect;
use crate::sys;

/// A socket file, and the process that made it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
    pid: u32,
}

/// The device, the inode, and the creation time, if known. A later file may get the same inode, but not the same time.
type FileIdentity = (u64, u64, Option<SystemTime>);

/// The longest path of a Unix socket, in bytes. A zero byte follows it.
const MAX_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Keep the file if a child drops its copy, or if a newer program has put its own socket at the path.
        if self.pid == std::process::id() && identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl SocketFile {
    /// Binds a Unix socket, which appears at `path` with its final permissions. Replaces an existing socket. If a process
    /// listens on the existing socket, returns an error unless `replaces_served`. If `is_private`, only this user may connect.
    pub(super) fn bind(path: &Path, is_private: bool, replaces_served: bool) -> io::Result<(UnixListener, SocketFile)> {
        let is_other = |file: Metadata| !file.file_type().is_socket();
        if std::fs::symlink_metadata(path).is_ok_and(is_other) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        if !replaces_served && is_served(path) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // The temporary name is short, because the system limits the length of the whole path. Its hash also covers the
        // path: containers that share a folder may have equal process ids.
        let mut name = DefaultHasher::new();
        (path, std::process::id()).hash(&mut name);
        let fresh = path.with_file_name(format!(".{:08x}", name.finish() as u32));
        if let Some(long) = [path, &fresh].into_iter().find(|path| path.as_os_str().len() > MAX_PATH) {
            let text = format!("{} has more than {MAX_PATH} bytes", long.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let _ = std::fs::remove_file(&fresh);
        let bind = || {
            let listener = match is_private {
                true => sys::with_umask(0o177, || UnixListener::bind(&fresh)),
                false => UnixListener::bind(&fresh),
            }?;
            listener.set_nonblocking(true)?;
            let identity = identity(&fresh)?;
            std::fs::rename(&fresh, path)?;
            Ok((listener, SocketFile { path: path.to_owned(), identity, pid: std::process::id() }))
        };
        bind().inspect_err(|_| drop(std::fs::remove_file(&fresh)))
    }
}

/// Returns whether a process listens on a socket.
fn is_served(path: &Path) -> bool {
    try_connect(path).map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |()| true)
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.created().ok()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_path() {
        let directory = std::env::temp_dir().join(format!("forkio-longest-path-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = |length: usize| directory.join("x".repeat(length - directory.as_os_str().len() - 1));
        let (_listener, file) = SocketFile::bind(&path(MAX_PATH), true, false).unwrap();
        std::os::unix::net::UnixStream::connect(path(MAX_PATH)).unwrap();
        let error = SocketFile::bind(&path(MAX_PATH + 1), true, false).unwrap_err();
        assert!(error.to_string().ends_with(&format!("more than {MAX_PATH} bytes")), "{error}");
        drop(file);
        std::fs::remove_dir(&directory).unwrap();
    }

    /// Many file systems give the inode of a removed file to the next one.
    #[test]
    fn a_later_file_is_another_one() {
        let path = std::env::temp_dir().join(format!("forkio-identity-{}", std::process::id()));
        let mut identities = Vec::new();
        for _ in 0..3 {
            std::fs::write(&path, "").expect("a file");
            identities.push(identity(&path).expect("its identity"));
            std::fs::remove_file(&path).expect("removing a file");
            // The clock of a file system advances with the kernel's ticks.
            std::thread::sleep(Duration::from_millis(20));
        }
        if identities[0].2.is_none() {
            // This file system does not know when a file was made.
            return;
        }
        assert!(identities[0] != identities[1] && identities[1] != identities[2], "{identities:?}");
    }
}
