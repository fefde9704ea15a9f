//! Listeners that this process was started with: by socket activation, or by an upgrade.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::Listener;
use crate::sys;

/// The address and the name of each listener that this program was started with. The list is needed later, because
/// `ListenFd::from_env` removes the environment variables.
static INHERITED: Mutex<Vec<(SockAddr, String)>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<(SockAddr, String)>> {
    INHERITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the name that the environment has given to a listener, for the program that replaces this one.
pub(super) fn name_of(listener: &Listener) -> String {
    let address = SockRef::from(listener).local_addr().ok();
    known().iter().find(|(own, _)| Some(own) == address.as_ref()).map(|(_, name)| name.clone()).unwrap_or_default()
}

/// Whether the environment names listeners of this process. Without `LISTEN_PID`, the variables may be left from another process.
fn is_activated() -> bool {
    let is_own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    is_own && std::env::var("LISTEN_FDS").is_ok_and(|count| count != "0")
}

/// Whether this program was started with listeners, by a service manager or by the program that it replaces.
pub(super) fn has_inherited() -> bool {
    !known().is_empty() || is_activated()
}

/// The listeners that the environment names (`LISTEN_FDS`, `LISTEN_FDNAMES`): those of systemd's socket units, or of the
/// program that this one replaces in an upgrade. `LISTEN_PID` must be the id of this process, as `sd_listen_fds(3)` requires.
///
/// To support socket activation and upgrades, take each listener from an `Inherited`, and bind only those that it does not
/// have.
///
/// # Examples
///
/// ```no_run
/// use forkio::prefork::{Inherited, Prefork};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut inherited = Inherited::from_env()?;
/// let listener = inherited.bind_tcp("0.0.0.0:8080".parse()?)?;
/// let prefork = Prefork::new().listener(listener);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<(String, Listener)>,
}

impl Inherited {
    /// Takes the listeners and registers them with the current runtime. Call it once. Without the variables, the result is
    /// empty.
    ///
    /// # Errors
    ///
    /// If a descriptor is not a listener for TCP or a Unix stream socket, or cannot be registered.
    ///
    /// # Panics
    ///
    /// Outside a runtime with I/O enabled, like `TcpListener::from_std`, if there is a listener.
    pub fn from_env() -> io::Result<Inherited> {
        if !is_activated() {
            return Ok(Inherited::default());
        }
        // `listen_fds_with_names` sets close-on-exec.
        let names: Vec<String> = sd_notify::listen_fds_with_names()
            .map_or_else(|_| Vec::new(), |descriptors| descriptors.map(|(_, name)| name).collect());
        let mut descriptors = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..descriptors.len() {
            let name = names.get(index).cloned().unwrap_or_default();
            let listener = match descriptors.take_unix_listener(index) {
                Ok(Some(listener)) => {
                    listener.set_nonblocking(true)?;
                    Listener::Unix(UnixListener::from_std(listener)?)
                }
                _ => match descriptors.take_tcp_listener(index)? {
                    Some(listener) => {
                        listener.set_nonblocking(true)?;
                        Listener::Tcp(TcpListener::from_std(listener)?)
                    }
                    None => continue,
                },
            };
            known().push((SockRef::from(&listener).local_addr()?, name.clone()));
            listeners.push((name, listener));
        }
        Ok(Inherited { listeners })
    }

    /// Whether no listener is left: there were none, or all have been taken.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Takes the listeners that have this name: `FileDescriptorName=` of a socket unit.
    pub fn named(&mut self, name: &str) -> Vec<Listener> {
        let (taken, left) = mem::take(&mut self.listeners).into_iter().partition::<Vec<_>, _>(|(own, _)| own == name);
        self.listeners = left;
        taken.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Takes the remaining listeners.
    pub fn take_all(&mut self) -> Vec<Listener> {
        self.listeners.drain(..).map(|(_, listener)| listener).collect()
    }

    /// Takes the TCP listener at an address. Port 0 matches any port, such as the one that the replaced program got.
    pub fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let is_at = |own| is_address(own, address);
        let is_wanted = |listener: &_| matches!(listener, Listener::Tcp(own) if own.local_addr().is_ok_and(is_at));
        match self.take(is_wanted)? {
            Listener::Tcp(listener) => Some(listener),
            Listener::Unix(_) => None,
        }
    }

    /// Takes the Unix listener at a path.
    pub fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let is_at = |own: tokio::net::unix::SocketAddr| own.as_pathname() == Some(path);
        let is_wanted = |listener: &_| matches!(listener, Listener::Unix(own) if own.local_addr().is_ok_and(is_at));
        match self.take(is_wanted)? {
            Listener::Unix(listener) => Some(listener),
            Listener::Tcp(_) => None,
        }
    }

    fn take(&mut self, is_wanted: impl Fn(&Listener) -> bool) -> Option<Listener> {
        let position = self.listeners.iter().position(|(_, listener)| is_wanted(listener))?;
        Some(self.listeners.remove(position).1)
    }

    /// Takes the inherited TCP listener at an address, or binds a new one whose port workers may share
    /// ([`Distribution::ReusePort`](super::Distribution::ReusePort)).
    ///
    /// # Errors
    ///
    /// Those of socket(2), setsockopt(2), bind(2) and listen(2), and of registering the listener.
    ///
    /// # Panics
    ///
    /// Outside a runtime with I/O enabled, like `TcpListener::from_std`.
    pub fn bind_tcp(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        match self.tcp(address) {
            Some(listener) => Ok(listener),
            None => bind(address).map_err(|error| self.explain(error, address)),
        }
    }

    /// If an inherited listener at another address has the port, names that listener in the error. The operator would otherwise
    /// look for another program.
    fn explain(&self, error: io::Error, address: SocketAddr) -> io::Error {
        let mut own = self.listeners.iter().filter_map(|(_, listener)| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        });
        match own.find(|own| error.kind() == io::ErrorKind::AddrInUse && own.port() == address.port()) {
            Some(own) => {
                let text =
                    format!("{error}; this program was started with a listener at {own}: listen at that address");
                io::Error::new(error.kind(), text)
            }
            None => error,
        }
    }
}

/// Whether `own` is the wanted address. Port 0 stands for any port.
pub(super) fn is_address(own: SocketAddr, wanted: SocketAddr) -> bool {
    own == wanted || (wanted.port() == 0 && own.ip() == wanted.ip())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    sys::prepare_to_bind(&socket)?;
    socket.bind(&address.into())?;
    // The length of the queue that the documentation of `Server::backlog` states.
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_inherited_listener_that_has_the_port() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let own = listener.local_addr().unwrap();
            let mut inherited = Inherited { listeners: vec![(String::new(), listener.into())] };
            let error = inherited.bind_tcp(([0, 0, 0, 0], own.port()).into()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&format!("started with a listener at {own}")), "{error}");
        });
    }
}
