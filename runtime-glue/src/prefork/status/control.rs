//! How the supervisor runs the service worker, and carries out the commands of operators.

use std::time::Duration;

use tokio::net::UnixStream;

use super::process::{Service, ServiceEvent};
use super::service::ServiceProcess;
use crate::prefork::reason::Reason;
use crate::prefork::supervisor::{Outcome, Started, Supervisor};
use crate::prefork::worker::ExitOnDrop;
use crate::{Fork, ForkError, ForkPolicy};

/// How many commands may wait for their results. The service worker must not fill the supervisor's memory.
pub(super) const MOST_OPERATIONS: usize = 100;

/// Why a server that stops carries out no command.
pub(super) const STOPPING: &str = "the server is stopping";

/// A command that is being carried out.
#[derive(Debug)]
pub(super) struct Operation {
    id: u64,
    command: Command,
}

/// A command of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// `generation` is `None` until the reload begins.
    Reload {
        generation: Option<u64>,
    },
    Scale {
        workers: usize,
    },
    /// `pid` is `None` until the worker has been found.
    Retire {
        index: usize,
        pid: Option<u32>,
    },
    Upgrade,
}

impl Command {
    fn parse(text: &str) -> Option<Command> {
        let mut words = text.split(' ');
        let command = match (words.next()?, words.next()) {
            ("reload", None) => Command::Reload { generation: None },
            ("scale", Some(workers)) => Command::Scale { workers: workers.parse().ok()? },
            ("retire", Some(index)) => Command::Retire { index: index.parse().ok()?, pid: None },
            ("upgrade", None) => Command::Upgrade,
            _ => return None,
        };
        words.next().is_none().then_some(command)
    }
}

impl Service {
    /// Ends the operations for which `ends` returns a result.
    fn finish(&mut self, ends: impl Fn(Command) -> Option<Result<String, String>>) {
        let mut said = Vec::new();
        self.operations.retain(|operation| {
            let result = ends(operation.command);
            match &result {
                Some(Ok(text)) => said.push(format!("done {} {text}", operation.id)),
                Some(Err(text)) => said.push(format!("failed {} {text}", operation.id)),
                None => {}
            }
            result.is_none()
        });
        for line in said {
            self.say(&line);
        }
    }

    /// Ends all operations, because the server stops.
    pub(in crate::prefork) fn stops(&mut self) {
        self.finish(|_| Some(Err(STOPPING.to_owned())));
    }

    pub(in crate::prefork) fn reload_begins(&mut self, number: u64) {
        for operation in &mut self.operations {
            if let Command::Reload { generation: generation @ None } = &mut operation.command {
                *generation = Some(number);
            }
        }
    }

    pub(in crate::prefork) fn reload_ends(&mut self, number: u64, result: Result<(), &str>) {
        self.finish(|command| {
            let is_it = command == Command::Reload { generation: Some(number) };
            is_it.then(|| result.map(|()| format!("generation {number} serves")).map_err(str::to_owned))
        });
    }

    pub(in crate::prefork) fn upgrade_ends(&mut self, result: Result<u32, &str>) {
        self.finish(|command| {
            (command == Command::Upgrade).then(|| match result {
                Ok(pid) => Ok(format!("process {pid} serves")),
                Err(reason) => Err(format!("the old program continues to serve: {reason}")),
            })
        });
    }
}

impl Supervisor {
    pub(in crate::prefork) async fn fork_service(&mut self) -> Started {
        if !self.service.try_open() {
            return Started::MaybeMore;
        }
        let supervisor = std::process::id();
        let channel = std::os::unix::net::UnixStream::pair().and_then(|(own_end, child_end)| {
            own_end.set_nonblocking(true)?;
            child_end.set_nonblocking(true)?;
            let own_end = UnixStream::from_std(own_end)?;
            crate::set_policy(&own_end, ForkPolicy::NoFork)?;
            Ok((own_end, child_end))
        });
        let (own_end, child_end) = match channel {
            Ok(channel) => channel,
            Err(error) => return self.service_refused(ForkError::Inspect(error)),
        };
        let mut guard = None;
        let first = || guard = Some(ExitOnDrop);
        let forked = self.settings.fork_options.clone().wait_for_threads(Duration::ZERO).fork_with(first).await;
        match forked {
            Ok(Fork::Parent(mut child)) => {
                if let Err(error) = child.watch() {
                    let _ = child.kill();
                    return self.service_refused(ForkError::Watch(error));
                }
                self.common.scoreboard.service_starts();
                tracing::info!(pid = child.id(), "service worker started");
                self.service.started(child, own_end);
                Started::MaybeMore
            }
            Ok(Fork::Child(_)) => {
                self.workers.clear();
                Started::Child(Box::new(Outcome::Service(ServiceProcess {
                    guard: guard.unwrap_or_else(|| ExitOnDrop),
                    supervisor,
                    channel: child_end,
                    page: self.service.page.take(),
                    control: self.service.control.take(),
                    common: self.common.clone(),
                    signals: self.take_signals(),
                    settings: self.settings.worker.clone(),
                })))
            }
            Err(ForkError::Threads(_)) => Started::MaybeMore,
            Err(error) => self.service_refused(error),
        }
    }

    /// Schedules another attempt to fork the service worker.
    pub(in crate::prefork) fn service_refused(&mut self, error: ForkError) -> Started {
        let delay = self.service.failed();
        tracing::error!(%error, ?delay, "cannot start the service worker yet: trying again");
        Started::MaybeMore
    }

    pub(in crate::prefork) fn handle_service(&mut self, event: ServiceEvent) {
        let line = match event {
            ServiceEvent::Ended(status) => return self.service.ended(status),
            ServiceEvent::Measure => return self.measure_next(),
            ServiceEvent::Said(line) => line,
        };
        let request = line.strip_prefix("control ").and_then(|rest| rest.split_once(' '));
        match request.and_then(|(id, text)| Some((id.parse().ok()?, text))) {
            None if line == "memory" => self.begin_measurement(),
            None => tracing::error!(line, "unknown line from the service worker"),
            Some((id, text)) => {
                tracing::info!(command = text, "command of an operator");
                match self.begin(text) {
                    Ok(command) => {
                        self.service.say(&format!("accepted {id}"));
                        self.service.operations.push(Operation { id, command });
                    }
                    Err(error) => self.service.say(&format!("failed {id} {error}")),
                }
            }
        }
    }

    fn begin(&mut self, text: &str) -> Result<Command, String> {
        if !self.service.has_control() {
            return Err("this server has no control socket".to_owned());
        }
        if self.service.operations.len() >= MOST_OPERATIONS {
            return Err("too many commands are waiting for their results".to_owned());
        }
        let mut command = Command::parse(text).ok_or_else(|| format!("there is no command {text:?}"))?;
        match &mut command {
            Command::Reload { .. } => self.request_reload()?,
            Command::Scale { workers } => self.scale(*workers)?,
            Command::Retire { index, pid } => {
                let number = self.number();
                let worker = self.workers.iter_mut().find(|worker| worker.index == *index && worker.is_ready());
                let worker = worker.filter(|worker| worker.index < number);
                let worker = worker.ok_or_else(|| format!("there is no worker {index} that is ready"))?;
                worker.end_reason.get_or_insert(Reason::Operator);
                *pid = Some(worker.child.id());
            }
            Command::Upgrade => self.start_upgrade()?,
        }
        Ok(command)
    }

    /// Reports the results of `scale` and `retire` commands that have ended.
    pub(in crate::prefork) fn advance_operations(&mut self) {
        if self.service.operations.is_empty() {
            return;
        }
        self.show_state();
        let (wanted, workers) = (self.number(), &self.workers);
        self.service.finish(|command| match command {
            Command::Scale { workers: number } if number != wanted => {
                Some(Err("another command or a signal has changed the number of workers".to_owned()))
            }
            Command::Scale { workers: number } => {
                let has_worker = |index| workers.iter().any(|worker| worker.index == index && worker.is_ready());
                let has_surplus = workers.iter().any(|worker| worker.index >= number && worker.is_active());
                (!has_surplus && (0..number).all(has_worker)).then(|| Ok(format!("{number} workers serve")))
            }
            Command::Retire { index, .. } if index >= wanted => {
                Some(Err("another command or a signal has changed the number of workers".to_owned()))
            }
            Command::Retire { index, pid } => {
                let pid = pid?;
                let is_active = workers.iter().any(|worker| worker.child.id() == pid && worker.is_active());
                let successor = workers.iter().find(|worker| worker.index == index && worker.is_ready());
                let text = |successor: u32| Ok(format!("process {successor} is worker {index}, and {pid} drains"));
                successor.filter(|_| !is_active).map(|successor| text(successor.child.id()))
            }
            Command::Reload { .. } | Command::Upgrade => None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        for (text, command) in [
            ("reload", Some(Command::Reload { generation: None })),
            ("scale 4", Some(Command::Scale { workers: 4 })),
            ("retire 0", Some(Command::Retire { index: 0, pid: None })),
            ("upgrade", Some(Command::Upgrade)),
            ("scale", None),
            ("scale -1", None),
            ("scale 4 5", None),
            ("reload now", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(text), command, "{text}");
        }
    }
}
