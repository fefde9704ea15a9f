//! The settings of a run.

use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    /// The directory of the programs that are measured.
    pub(crate) programs: PathBuf,
    pub(crate) cpus: Cpus,
}

impl Plan {
    pub(crate) fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    pub(crate) fn program(&self, path: impl AsRef<Path>) -> PathBuf {
        self.programs.join(path)
    }
}

/// The CPUs of servers and load generators.
#[derive(Debug)]
pub(crate) struct Cpus {
    /// The CPUs of a server with one worker.
    pub(crate) one: Vec<usize>,
    /// The CPUs of a server with two workers or threads.
    pub(crate) two: Vec<usize>,
    /// The CPUs of the load generator beside one worker.
    pub(crate) load: Vec<usize>,
    /// The CPUs of the load generator beside two workers.
    pub(crate) load_of_two: Vec<usize>,
}

impl Cpus {
    /// Distributes the CPUs of this process. The load shares a CPU with the server only if there are too few CPUs.
    pub(crate) fn new() -> Cpus {
        let allowed = sched_getaffinity(None).unwrap_or_default();
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        Cpus::of(&allowed)
    }

    fn of(allowed: &[usize]) -> Cpus {
        let cpu = |index: usize| allowed.get(index).or(allowed.last()).copied().unwrap_or(0);
        Cpus {
            one: vec![cpu(0)],
            two: if allowed.len() > 1 { vec![cpu(0), cpu(1)] } else { vec![cpu(0)] },
            load: vec![cpu(1)],
            load_of_two: vec![cpu(2)],
        }
    }

    pub(crate) fn describe(&self) -> String {
        let list = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
        format!(
            "one worker on CPU {}, its load on {}; two workers on {}, their load on {}",
            list(&self.one),
            list(&self.load),
            list(&self.two),
            list(&self.load_of_two)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_has_a_cpu_of_its_own_if_there_are_enough() {
        let describe = |allowed: &[usize]| Cpus::of(allowed).describe();
        assert_eq!(describe(&[0, 1]), "one worker on CPU 0, its load on 1; two workers on 0 and 1, their load on 1");
        assert_eq!(describe(&[2, 5, 7]), "one worker on CPU 2, its load on 5; two workers on 2 and 5, their load on 7");
        assert_eq!(describe(&[3]), "one worker on CPU 3, its load on 3; two workers on 3, their load on 3");
    }
}
