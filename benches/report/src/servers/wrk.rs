//! wrk, which sends as many requests as the server can answer.

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::process::{Process, pin};
use crate::servers::{CONNECTIONS, Connections};

/// A running wrk. [`end`](Wrk::end) stops it. Otherwise it ends after a minute.
#[derive(Debug)]
pub(crate) struct Wrk(Process);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    pub(crate) number: f64,
    pub(crate) seconds: f64,
}

impl Wrk {
    pub(crate) fn start(server: SocketAddr, connections: Connections, cpus: &[usize]) -> Result<Wrk, Box<dyn Error>> {
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{CONNECTIONS}"), "-d60s"]);
        if connections == Connections::Short {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{server}/")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Wrk(Process::start(pin(&mut command, cpus)).map_err(|error| format!("cannot run wrk: {error}"))?))
    }

    /// Stops wrk, and reads a line such as `54321 requests in 1.50s, 6.78MB read`.
    pub(crate) fn end(&mut self) -> Result<Requests, Box<dyn Error>> {
        self.0.interrupt()?;
        let mut text = String::new();
        self.0.stdout()?.read_to_string(&mut text)?;
        if let Some(errors) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
            eprintln!("wrk: {}", errors.trim());
        }
        let line = text.lines().find_map(|line| line.trim().split_once(" requests in "));
        let (number, rest) = line.ok_or("wrk has printed no summary")?;
        let (time, _) = rest.split_once(',').ok_or("wrk has printed no time")?;
        let (seconds, unit) = time.split_at(time.trim_end_matches(char::is_alphabetic).len());
        let seconds = seconds.parse::<f64>()? * if unit == "ms" { 1e-3 } else { 1.0 };
        Ok(Requests { number: number.parse()?, seconds })
    }
}
