//! The status page and its scoreboard without the feature `status`: the interface of `status/mod.rs` with empty bodies.

use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::Instant;

use super::PreforkError;
use super::reason::Reason;
use super::slots::Slots;
use super::supervisor::{self, Supervisor};
use crate::ForkError;

/// Without the feature, no request is timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestStart;

#[derive(Debug)]
pub(super) struct Scoreboard;

impl Scoreboard {
    pub(super) fn new(_capacity: usize, _is_shown: bool) -> io::Result<Scoreboard> {
        Ok(Scoreboard)
    }

    pub(super) fn begin(&self, _number: u64) -> RequestStart {
        RequestStart
    }

    pub(super) fn end(&self, _slot: usize, _started: RequestStart) {}

    pub(super) fn set_server(&self, _wanted: usize, _generations: (u64, Option<u64>), _is_up: bool) {}

    pub(super) fn clear(&self, slots: &Slots, slot: usize) {
        slots.clear(slot);
    }

    pub(super) fn record(&self, _worker: (usize, u32, u64), _reason: Reason, _status: ExitStatus, _uptime: Duration) {}
}

/// Without the feature, there are no options.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusOptions {}

impl StatusOptions {
    pub(super) fn is_shown(&self) -> bool {
        false
    }
}

/// There is no service worker.
#[derive(Debug)]
pub(super) enum ServiceProcess {}

impl ServiceProcess {
    pub(super) fn run(self) -> ! {
        match self {}
    }
}

#[derive(Debug)]
pub(super) enum ServiceEvent {}

#[derive(Debug)]
pub(super) struct Service;

impl Service {
    pub(super) fn new(
        _options: StatusOptions,
        _has_predecessor: bool,
        _inherited: Option<TcpListener>,
    ) -> Result<Service, PreforkError> {
        Ok(Service)
    }

    pub(super) fn for_upgrade(&self) -> Option<RawFd> {
        None
    }

    pub(super) fn begin(&mut self) {}

    pub(super) fn due(&self) -> Option<Instant> {
        None
    }

    pub(super) async fn next(&mut self) -> ServiceEvent {
        std::future::pending().await
    }

    pub(super) fn check_heartbeat(&mut self, _found: u64, _limit: Duration, _is_late: bool, _now: Instant) {}

    pub(super) fn is_child(&self, _pid: u32) -> bool {
        false
    }

    pub(super) fn signal(&self, _signal: i32) {}

    pub(super) fn stops(&mut self) {}

    pub(super) fn reload_begins(&mut self, _number: u64) {}

    pub(super) fn reload_ends(&mut self, _number: u64, _result: Result<(), &str>) {}

    pub(super) fn upgrade_ends(&mut self, _result: Result<u32, &str>) {}

    pub(super) fn release(&mut self) {}

    pub(super) async fn end(&mut self) {}
}

impl Supervisor {
    pub(super) async fn fork_service(&mut self) -> supervisor::Started {
        supervisor::Started::Nothing
    }

    pub(super) fn service_refused(&mut self, _error: ForkError) -> supervisor::Started {
        supervisor::Started::Nothing
    }

    pub(super) fn handle_service(&mut self, event: ServiceEvent) {
        match event {}
    }

    pub(super) fn advance_operations(&mut self) {}
}
