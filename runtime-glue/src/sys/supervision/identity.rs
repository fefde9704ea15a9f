//! Users and groups.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;

/// The ids of a user and of groups.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    user: Option<libc::uid_t>,
    group: Option<libc::gid_t>,
    /// The supplementary groups of the user.
    groups: Vec<libc::gid_t>,
}

/// Looks up a user and a group by name. If the database lacks the name, and the name is a number, takes the number as
/// an id. A user that the database lacks has no group, so such a user needs `group`.
pub(crate) fn look_up_identity(user: Option<&str>, group: Option<&str>) -> io::Result<Identity> {
    let missing = |kind, name| io::Error::new(io::ErrorKind::NotFound, format!("there is no {kind} {name:?}"));
    let mut identity = Identity { user: None, group: None, groups: Vec::new() };
    if let Some(name) = user {
        let number = || name.parse::<libc::uid_t>().map_err(|_| missing("user", name));
        let entry = match user_by_name(name)? {
            None => user_by_number(number()?)?,
            entry => entry,
        };
        match entry {
            Some(entry) => {
                identity.user = Some(entry.user);
                identity.group = Some(entry.group);
                identity.groups = groups_of(&entry.name, entry.group)?;
            }
            // Without a group, the process would keep its own, such as root's.
            None if group.is_none() => {
                let text = format!("the system has no entry, and so no group, of user {name}: set the group too");
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
            None => identity.user = Some(number()?),
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

/// The largest entry of the user and group databases that a look-up accepts, in bytes.
const MAX_ENTRY_SIZE: usize = 64 * 1024;

/// An entry of the user database.
struct User {
    user: libc::uid_t,
    group: libc::gid_t,
    name: CString,
}

fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = CString::new(name)?;
    look_up(libc::getpwnam_r, name.as_ptr(), read_user)
}

fn user_by_number(number: libc::uid_t) -> io::Result<Option<User>> {
    look_up(libc::getpwuid_r, number, read_user)
}

fn read_user(entry: &libc::passwd) -> User {
    // SAFETY: the entry was filled, so its name is a string.
    let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
    User { user: entry.pw_uid, group: entry.pw_gid, name }
}

fn group_id(name: &str) -> io::Result<Option<libc::gid_t>> {
    let name = CString::new(name)?;
    look_up(libc::getgrnam_r, name.as_ptr(), |entry| entry.gr_gid)
}

/// getpwnam_r(3), getpwuid_r(3) or getgrnam_r(3).
type LookUp<K, E> = unsafe extern "C" fn(K, *mut E, *mut c_char, libc::size_t, *mut *mut E) -> libc::c_int;

/// Looks up an entry with `call`, and converts it with `read`. A `key` that is a pointer must refer to a string.
fn look_up<K, E, T>(call: LookUp<K, E>, key: K, read: impl FnOnce(&E) -> T) -> io::Result<Option<T>> {
    let mut buffer = vec![0; MAX_ENTRY_SIZE];
    let mut entry = MaybeUninit::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let error = unsafe { call(key, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) };
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

fn groups_of(user: &CStr, group: libc::gid_t) -> io::Result<Vec<libc::gid_t>> {
    const MAX_GROUPS: usize = 65_536;
    let mut groups: Vec<GroupOfList> = vec![0; MAX_GROUPS];
    let mut count = MAX_GROUPS as libc::c_int;
    // SAFETY: the list has room for `count` entries.
    if unsafe { libc::getgrouplist(user.as_ptr(), group as GroupOfList, groups.as_mut_ptr(), &mut count) } == -1 {
        return Err(io::Error::other("the user is in too many groups"));
    }
    Ok(groups.into_iter().take(count as usize).map(|group| group as libc::gid_t).collect())
}

/// Becomes another user, permanently. A process that already has the user and the group keeps its supplementary groups
/// if it may not change them.
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
            if user != 0 && libc::setuid(0) == 0 {
                return Err(io::Error::other("the process could get root's privileges back"));
            }
        }
    }
    Ok(())
}

/// Checks that this process may signal processes that have become `identity`. With `CAP_SETUID` it may start them, but only
/// `CAP_KILL` lets it signal them.
#[cfg(target_os = "linux")]
pub(crate) fn may_signal(identity: &Identity) -> io::Result<()> {
    use rustix::thread::{CapabilitySet, capabilities};

    // SAFETY: the calls read no memory, and always succeed.
    let own = unsafe { [libc::getuid(), libc::geteuid()] };
    let is_other = identity.user.is_some_and(|user| !own.contains(&user));
    // If the capabilities cannot be read, start anyway: sending a signal shows whether this process may.
    let may_only_change =
        |own: CapabilitySet| own.contains(CapabilitySet::SETUID) && !own.contains(CapabilitySet::KILL);
    if is_other && capabilities(None).is_ok_and(|own| may_only_change(own.effective)) {
        let text = "the supervisor could not signal workers of another user: give it the capability CAP_KILL";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn may_signal(_identity: &Identity) -> io::Result<()> {
    Ok(())
}

/// Whether the real and the effective user and group of the process are those of `identity`.
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
        for root in ["root", "0"] {
            let root = look_up_identity(Some(root), None).unwrap();
            assert_eq!((root.user, root.group), (Some(0), Some(0)));
        }
        let numbers = look_up_identity(Some("12345"), Some("54321")).unwrap();
        assert_eq!((numbers.user, numbers.group, numbers.groups), (Some(12345), Some(54321), vec![54321]));
        let error = look_up_identity(Some("12345"), None).unwrap_err();
        assert!(error.to_string().contains("set the group too"), "{error}");
        let error = look_up_identity(Some("no such user"), None).unwrap_err();
        assert!(error.to_string().contains("no such user"), "{error}");
    }
}
