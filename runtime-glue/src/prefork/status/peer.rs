//! The users that may control the server.

use tokio::net::UnixStream;

/// Whether the process at the other end runs as root, or as the user of the supervisor. The kernel notes the user when the
/// client connects (`SO_PEERCRED`, `LOCAL_PEERCRED`).
pub(super) fn may_control(stream: &UnixStream, owner: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == owner => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refusing a user that may not control this server");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refusing a client of the control socket that has no credentials");
            false
        }
    }
}
