//! The pid file: while another server has it, in upgrades that fail, and on a full disk.

#[cfg(procfs)]
use std::fs;

#[cfg(procfs)]
use forkio_tests::wait_until;
use forkio_tests::{check_eq, scenarios, temporary_path};

use crate::server::Server;

scenarios!(
    /// A server does not start if the pid file belongs to another running server. It replaces the file of a killed server.
    fn of_another_server() {
        let path = temporary_path("pid");
        let option = format!("pid-file={}", path.display());
        let read = || std::fs::read_to_string(&path).expect("the pid file").trim().to_owned();
        let first = Server::start(&["before", &option]);
        let pid = first.supervisor().to_string();
        check_eq("the pid file", read(), pid.clone());
        let (code, log) = Server::begin("", &["before", &option]).end();
        check_eq("the exit code", code, 1);
        assert!(log.contains(&format!("it belongs to process {pid}, which runs")), "{log}");
        assert!(!log.contains("worker started"), "{log}");
        check_eq("the pid file", read(), pid.clone());
        // Dropping the server kills its supervisor.
        drop(first);
        check_eq("the pid file", read(), pid);
        let second = Server::start(&["before", &option]);
        check_eq("the pid file", read(), second.supervisor().to_string());
        second.stop();
        assert!(!path.exists());
    }

    /// If the directory of the pid file does not exist, the server ends before it starts workers.
    fn in_a_missing_directory() {
        let path = temporary_path("missing").join("pid");
        let log = Server::begin("", &["before", &format!("pid-file={}", path.display())]).ends_with(1);
        assert!(log.contains("cannot write the pid file"), "{log}");
        assert!(!log.contains("worker started"), "{log}");
    }

    /// If a new program ends after it has written the pid file, the old program writes the file again, and still has the lock.
    fn after_a_failed_upgrade() {
        let path = temporary_path("pid");
        let option = format!("pid-file={}", path.display());
        let server = Server::start(&["before", &option]);
        server.control("ready-panics");
        for times in 1..=2 {
            server.signal(libc::SIGUSR2);
            server.until_logged_times("the new program ended before it was ready: this one continues", times);
            let text = std::fs::read_to_string(&path).expect("the pid file");
            assert_eq!(text.trim(), server.supervisor().to_string());
        }
        let log = Server::begin("", &["before", &option]).ends_with(1);
        assert!(log.contains("it belongs to process"), "{log}");
        server.stop();
        assert!(!path.exists());
    }

    /// A stop kills a new program that has written the pid file, but has not taken over. The file then names the old program
    /// until its lame-duck period is over, and is removed at the end.
    fn after_a_stop_during_an_upgrade() {
        let path = temporary_path("pid");
        let option = format!("pid-file={}", path.display());
        let read = || std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        for options in [&["before", &option][..], &["before", &option, "endless"]] {
            let server = Server::start(options);
            let own = server.supervisor().to_string();
            server.control("ready-hangs");
            server.signal(libc::SIGUSR2);
            forkio_tests::wait_until("the new program has written its id", || read() != own);
            server.signal_until(libc::SIGTERM, "killing the new program, which is not ready");
            if options.contains(&"endless") {
                forkio_tests::wait_until("the old program has written its id", || read() == own);
                server.signal(libc::SIGQUIT);
            }
            let (_, log) = server.end();
            assert!(!path.exists(), "{log}");
        }
    }

    /// A server does not start if the disk is full. In an upgrade, the new program ends, and the old one continues to serve.
    #[cfg(procfs)]
    fn on_a_full_disk() {
        let Some(disk) = disk::SmallDisk::mount() else {
            return eprintln!("not run: this process may not mount a file system");
        };
        let path = disk.path("pid");
        let option = format!("pid-file={}", path.display());
        disk.fill();
        let log = Server::begin("", &["before", &option]).ends_with(1);
        assert!(log.contains("cannot write the pid file") && log.contains("No space left on device"), "{log}");

        disk.make_room();
        let server = Server::start(&["before", &option]);
        let text = fs::read_to_string(&path).expect("the pid file");
        assert_eq!(text.trim(), server.supervisor().to_string());
        disk.fill();
        let before = server.children();
        server.signal_until(libc::SIGUSR2, "the new program ended before it was ready: this one continues");
        assert!(server.log().contains("No space left on device"), "{}", server.log());
        assert!(before.contains(&server.pid()));
        assert_eq!(fs::read_to_string(&path).expect("the pid file"), text, "the pid file has changed");
        // A reload needs no space.
        server.signal(libc::SIGHUP);
        wait_until("a reload replaces the worker", || !before.contains(&server.pid()));
        server.stop();
        assert!(!path.exists());
    }
);

#[cfg(procfs)]
mod disk {
    use std::ffi::CString;
    use std::fs;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use forkio_tests::temporary_path;

    /// A file system of 8 KiB. Only this process and its children see it.
    pub(super) struct SmallDisk(PathBuf);

    impl SmallDisk {
        /// Mounts a file system, or returns `None` if this process may not.
        pub(super) fn mount() -> Option<SmallDisk> {
            let directory = temporary_path("disk");
            fs::create_dir(&directory).expect("a directory");
            let path = CString::new(directory.as_os_str().as_bytes()).expect("a path");
            let tmpfs = c"tmpfs".as_ptr();
            // SAFETY: the strings are valid for the calls. This process has one thread.
            let is_mounted = unsafe {
                let private = libc::MS_REC | libc::MS_PRIVATE;
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) == 0
                    && libc::mount(tmpfs, path.as_ptr(), tmpfs, 0, c"size=8k,mode=777".as_ptr().cast()) == 0
            };
            is_mounted.then_some(SmallDisk(directory))
        }

        pub(super) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        pub(super) fn fill(&self) {
            let mut file = fs::File::create(self.path("large")).expect("a file");
            while file.write_all(&[1; 4096]).is_ok() {}
        }

        pub(super) fn make_room(&self) {
            fs::remove_file(self.path("large")).expect("removing a file");
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let path = CString::new(self.0.as_os_str().as_bytes()).expect("a path");
            // SAFETY: the path is valid for the call.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
    }
}
