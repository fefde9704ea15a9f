//! The names of FreeBSD's `sys/event.h`, with FreeBSD's values.

/// The type of a filter's number.
pub type Filter = i16;
/// The type of a set of flags.
pub type Flags = u16;

/// `struct kevent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Kevent {
    pub ident: usize,
    pub filter: Filter,
    pub flags: Flags,
    pub fflags: u32,
    pub data: i64,
    pub udata: *mut libc::c_void,
    pub ext: [u64; 4],
}

/// Makes a `struct kevent` like the macro `EV_SET`, from the fields that registrations use.
pub fn kevent_of(ident: usize, filter: Filter, flags: Flags, udata: usize) -> Kevent {
    Kevent { ident, filter, flags, fflags: 0, data: 0, udata: udata as _, ext: [0; 4] }
}

pub const EVFILT_READ: Filter = -1;
pub const EVFILT_WRITE: Filter = -2;
pub const EVFILT_PROC: Filter = -5;
pub const EVFILT_SIGNAL: Filter = -6;
pub const EVFILT_TIMER: Filter = -7;
pub const EVFILT_USER: Filter = -11;

pub const EV_ADD: Flags = 0x1;
pub const EV_DELETE: Flags = 0x2;
pub const EV_ENABLE: Flags = 0x4;
pub const EV_DISABLE: Flags = 0x8;
pub const EV_ONESHOT: Flags = 0x10;
pub const EV_CLEAR: Flags = 0x20;
pub const EV_RECEIPT: Flags = 0x40;
pub const EV_DISPATCH: Flags = 0x80;
pub const EV_ERROR: Flags = 0x4000;
pub const EV_EOF: Flags = 0x8000;

pub const NOTE_TRIGGER: u32 = 0x0100_0000;
pub const NOTE_FFNOP: u32 = 0;
pub const NOTE_FFAND: u32 = 0x4000_0000;
pub const NOTE_FFOR: u32 = 0x8000_0000;
pub const NOTE_FFCOPY: u32 = 0xc000_0000;
pub const NOTE_FFCTRLMASK: u32 = 0xc000_0000;
pub const NOTE_FFLAGSMASK: u32 = 0x00ff_ffff;
pub const NOTE_EXIT: u32 = 0x8000_0000;
pub const NOTE_SECONDS: u32 = 1;
pub const NOTE_MSECONDS: u32 = 2;
pub const NOTE_USECONDS: u32 = 4;
pub const NOTE_NSECONDS: u32 = 8;
pub const NOTE_ABSTIME: u32 = 16;

pub const KQUEUE_CLOEXEC: u32 = 1;
pub const KQUEUE_CPONFORK: u32 = 2;
