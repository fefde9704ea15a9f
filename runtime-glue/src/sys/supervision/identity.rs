//! Users and groups.

use std::ffi::{CString, c_char};
use std::io;
use std::mem::MaybeUninit;

/// A user and groups, by number.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    user: Option<libc::uid_t>,
    group: Option<libc::gid_t>,
    /// The supplementary groups of the user.
    groups: Vec<libc::gid_t>,
}

/// Looks up names. A number that is not a name is used as it is.
pub(crate) fn look_up_identity(user: Option<&str>, group: Option<&str>) -> io::Result<Identity> {
    let missing = |kind, name| io::Error::new(io::ErrorKind::NotFound, format!("there is no {kind} {name:?}"));
    let mut identity = Identity { user: None, group: None, groups: Vec::new() };
    if let Some(name) = user {
        match passwd_entry(name)? {
            Some((user, group)) => {
                identity.user = Some(user);
                identity.group = Some(group);
                identity.groups = groups_of(name, group)?;
            }
            None => identity.user = Some(name.parse().map_err(|_| missing("user", name))?),
        }
    }
    if let Some(name) = group {
        let own = match group_id(name)? {
            Some(group) => group,
            None => name.parse().map_err(|_| missing("group", name))?,
        };
        identity.group = Some(own);
        if !identity.groups.contains(&own) {
            identity.groups.push(own);
        }
    }
    if identity.groups.is_empty() {
        identity.groups.extend(identity.group);
    }
    Ok(identity)
}

/// How much memory an entry of the user and group databases may take.
const ENTRY: usize = 64 * 1024;

fn passwd_entry(name: &str) -> io::Result<Option<(libc::uid_t, libc::gid_t)>> {
    look_up(libc::getpwnam_r, name, |entry| (entry.pw_uid, entry.pw_gid))
}

fn group_id(name: &str) -> io::Result<Option<libc::gid_t>> {
    look_up(libc::getgrnam_r, name, |entry| entry.gr_gid)
}

/// getpwnam_r(3) or getgrnam_r(3).
type LookUp<E> = unsafe extern "C" fn(*const c_char, *mut E, *mut c_char, libc::size_t, *mut *mut E) -> libc::c_int;

fn look_up<E, T>(call: LookUp<E>, name: &str, read: impl FnOnce(&E) -> T) -> io::Result<Option<T>> {
    let name = CString::new(name)?;
    let mut buffer = vec![0; ENTRY];
    let mut entry = MaybeUninit::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let error = unsafe { call(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) };
    // SAFETY: the pointer is null, or refers to `entry`, which has been filled.
    match (error, unsafe { found.as_ref() }) {
        (_, Some(found)) => Ok(Some(read(found))),
        // Systems differ in how they say that there is no such entry.
        (0 | libc::ENOENT | libc::ESRCH, None) => Ok(None),
        (error, None) => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(target_os = "macos")]
type GroupOfList = libc::c_int;
#[cfg(not(target_os = "macos"))]
type GroupOfList = libc::gid_t;

fn groups_of(user: &str, group: libc::gid_t) -> io::Result<Vec<libc::gid_t>> {
    const MAX_GROUPS: usize = 65_536;
    let user = CString::new(user)?;
    let mut groups: Vec<GroupOfList> = vec![0; MAX_GROUPS];
    let mut count = MAX_GROUPS as libc::c_int;
    // SAFETY: the list has room for `count` entries.
    if unsafe { libc::getgrouplist(user.as_ptr(), group as GroupOfList, groups.as_mut_ptr(), &mut count) } == -1 {
        return Err(io::Error::other("the user is in too many groups"));
    }
    Ok(groups.into_iter().take(count as usize).map(|group| group as libc::gid_t).collect())
}

/// Becomes another user, permanently. If this process may not change its groups, but has the user and the group already, it
/// keeps its groups.
pub(crate) fn assume_identity(identity: &Identity) -> io::Result<()> {
    let check = |result: libc::c_int| if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let groups = &identity.groups;
    // The user comes last, because setuid(2) gives up the right to make the other calls.
    // SAFETY: `groups.len()` is the length of the list.
    unsafe {
        match check(libc::setgroups(groups.len() as _, groups.as_ptr())) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && has_identity(identity) => {}
            result => result?,
        }
        if let Some(group) = identity.group {
            check(libc::setgid(group))?;
        }
        if let Some(user) = identity.user {
            check(libc::setuid(user))?;
            // Check that the process cannot get root's privileges back.
            if user != 0 && libc::setuid(0) == 0 {
                return Err(io::Error::other("the process could get root's privileges back"));
            }
        }
    }
    Ok(())
}

/// Whether the process has the user and the group, if any, as its real and its effective ones.
fn has_identity(identity: &Identity) -> bool {
    // SAFETY: the calls read no memory, and always succeed.
    let (users, groups) = unsafe { ([libc::getuid(), libc::geteuid()], [libc::getgid(), libc::getegid()]) };
    users.iter().all(|user| identity.user.is_none_or(|wanted| wanted == *user))
        && groups.iter().all(|group| identity.group.is_none_or(|wanted| wanted == *group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups() {
        let root = look_up_identity(Some("root"), None).unwrap();
        assert_eq!((root.user, root.group), (Some(0), Some(0)));
        let numbers = look_up_identity(Some("12345"), Some("54321")).unwrap();
        assert_eq!((numbers.user, numbers.group, numbers.groups), (Some(12345), Some(54321), vec![54321]));
        let error = look_up_identity(Some("no such user"), None).unwrap_err();
        assert!(error.to_string().contains("no such user"), "{error}");
    }
}
