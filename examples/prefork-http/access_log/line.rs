//! The lines of the access log.
//!
//! The client chooses four fields: the method, the path, the referer and the user agent. Each is escaped, so that a
//! client cannot begin a line, end a field or control a terminal. Each is also cut off at a limit, so that a line has
//! fewer than 4096 bytes. Linux writes such a line to a pipe as a whole (`PIPE_BUF`), between those of other workers.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{self, FormatTime};

use super::Format;

/// How many bytes a field may have in the line, after escaping.
const METHOD_LIMIT: usize = 32;
const PATH_LIMIT: usize = 1500;
const HEADER_LIMIT: usize = 1000;

/// The end of a field that was cut off.
const CUT: &str = "...";

/// The fields of an event. A field that the event lacks is empty, 0 or `None`.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) peer: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) version: String,
    pub(super) status: Option<u64>,
    pub(super) bytes: u64,
    pub(super) referer: Option<Vec<u8>>,
    pub(super) user_agent: Option<Vec<u8>>,
    pub(super) duration: f64,
    pub(super) worker: u64,
    pub(super) pid: u64,
    pub(super) generation: u64,
}

impl Format {
    pub(super) fn write(self, fields: &Fields, line: &mut String) {
        match self {
            Format::Common => write_common(fields, line),
            Format::Combined => {
                write_common(fields, line);
                for header in [&fields.referer, &fields.user_agent] {
                    line.push_str(" \"");
                    match header {
                        Some(value) => escape_as_apache(value, HEADER_LIMIT, line),
                        None => line.push('-'),
                    }
                    line.push('"');
                }
            }
            Format::Json => write_json(fields, line),
        }
        line.push('\n');
    }
}

/// Appends a line in Apache's format `%h %l %u %t "%r" %>s %b`.
fn write_common(fields: &Fields, line: &mut String) {
    // The port is at the end, and an IPv6 address is in brackets.
    let host = fields.peer.rsplit_once(':').map_or(&*fields.peer, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    line.push_str(if host.is_empty() { "-" } else { host });
    line.push_str(" - - [");
    push_apache_time(SystemTime::now(), line);
    line.push_str("] \"");
    escape_as_apache(fields.method.as_bytes(), METHOD_LIMIT, line);
    line.push(' ');
    escape_as_apache(fields.path.as_bytes(), PATH_LIMIT, line);
    line.push(' ');
    line.push_str(&fields.version);
    line.push_str("\" ");
    push_number(fields.status, line);
    line.push(' ');
    push_number(Some(fields.bytes).filter(|bytes| *bytes > 0), line);
}

fn push(line: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = line.write_fmt(text);
}

fn push_number(number: Option<u64>, line: &mut String) {
    match number {
        Some(number) => push(line, format_args!("{number}")),
        None => line.push('-'),
    }
}

/// Appends a time such as `10/Oct/2000:13:55:36 +0000`.
fn push_apache_time(time: SystemTime, line: &mut String) {
    // The text of a date looks like `Tue, 10 Oct 2000 13:55:36 GMT`. `HttpDate` panics for a time after the year 9999.
    let latest = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let date = HttpDate::from(time.clamp(UNIX_EPOCH, latest)).to_string();
    let mut words = date.split(' ').skip(1);
    for separator in ["/", "/", ":", " +0000"] {
        line.push_str(words.next().unwrap_or_default());
        line.push_str(separator);
    }
}

/// Appends bytes, escaped. Printable ASCII stays as it is, quotes and backslashes get a backslash, and other bytes become
/// `\n`, `\t` and so on, or `\xHH`.
fn escape_as_apache(bytes: &[u8], limit: usize, line: &mut String) {
    let end = line.len() + limit;
    for byte in bytes {
        let length = line.len();
        match byte {
            b'"' => line.push_str("\\\""),
            b'\\' => line.push_str("\\\\"),
            b' '..=b'~' => line.push(char::from(*byte)),
            0x08 => line.push_str("\\b"),
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            0x0b => line.push_str("\\v"),
            _ => push(line, format_args!("\\x{byte:02x}")),
        }
        if line.len() > end {
            line.truncate(length);
            return line.push_str(CUT);
        }
    }
}

fn write_json(fields: &Fields, line: &mut String) {
    line.push_str("{\"time\":\"");
    // Writing to a string does not fail.
    let _ = time::SystemTime.format_time(&mut Writer::new(line));
    line.push_str("\",\"peer\":");
    push_json(Some(fields.peer.as_bytes()).filter(|peer| !peer.is_empty()), HEADER_LIMIT, line);
    line.push_str(",\"method\":");
    push_json(Some(fields.method.as_bytes()), METHOD_LIMIT, line);
    line.push_str(",\"path\":");
    push_json(Some(fields.path.as_bytes()), PATH_LIMIT, line);
    line.push_str(",\"version\":");
    push_json(Some(fields.version.as_bytes()), METHOD_LIMIT, line);
    line.push_str(",\"status\":");
    match fields.status {
        Some(status) => push(line, format_args!("{status}")),
        None => line.push_str("null"),
    }
    push(line, format_args!(",\"bytes\":{},\"referer\":", fields.bytes));
    push_json(fields.referer.as_deref(), HEADER_LIMIT, line);
    line.push_str(",\"user_agent\":");
    push_json(fields.user_agent.as_deref(), HEADER_LIMIT, line);
    let Fields { duration, worker, pid, generation, .. } = fields;
    push(line, format_args!(",\"duration\":{duration:.6},\"worker\":{worker}"));
    push(line, format_args!(",\"pid\":{pid},\"generation\":{generation}}}"));
}

/// Appends a string, or `null`. Escapes control characters, even those above ASCII, which some terminals obey. Bytes that are
/// not UTF-8 become U+FFFD.
fn push_json(bytes: Option<&[u8]>, limit: usize, line: &mut String) {
    let Some(bytes) = bytes else { return line.push_str("null") };
    let end = line.len() + limit;
    line.push('"');
    for char in String::from_utf8_lossy(bytes).chars() {
        let length = line.len();
        match char {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            // Characters that begin a line in other programs, or that change the direction of the text.
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                push(line, format_args!("\\u{:04x}", u32::from(char)))
            }
            _ if char.is_control() => push(line, format_args!("\\u{:04x}", u32::from(char))),
            _ => line.push(char),
        }
        if line.len() > end {
            line.truncate(length);
            line.push_str(CUT);
            break;
        }
    }
    line.push('"');
}
