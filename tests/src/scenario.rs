//! Defines, lists and runs scenarios.

use std::env;
use std::io::ErrorKind;
use std::iter::successors;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::limits::slowdown;
use crate::program::read_in_background;
use crate::{Process, close_inherited_descriptors, processes, try_kill};

/// The argument that makes a test binary run one scenario, or one program, in this process.
pub(crate) const RUN: &str = "--run";

/// Defines the scenarios of a module. Use it once in a module, and list the module in [`main!`](crate::main).
///
/// ```text
/// scenarios!(
///     /// Both processes accept connections from the same listener.
///     async fn both_serve() {
///         // A current-thread runtime with all drivers runs this.
///     }
///
///     /// A fork with ten thousand registrations works.
///     #[limit(300)]
///     #[cfg(epoll)]
///     fn ten_thousand_registrations() {}
/// );
/// ```
///
/// - The first line of documentation is required. It says what the scenario shows.
/// - `#[limit(seconds)]`: how long the scenario may take, if two minutes are not enough.
/// - `#[program]`: not a scenario, but a program that scenarios start with [`Program::start`](crate::Program::start).
///
/// Write parentheses around the scenarios: rustfmt does not format macros with braces.
#[macro_export]
macro_rules! scenarios {
    ($(
        #[doc = $summary:literal]
        $(#[$($attribute:tt)*])*
        $(async $(@ $async:tt)*)? fn $name:ident() $body:block
    )*) => {
        $($crate::scenario_function! {
            [#[doc = $summary]] $(#[$($attribute)*])* [$(async $(@ $async)*)?] fn $name() $body
        })*

        // If `main!` does not list the module, this constant is unused, and the build fails.
        #[deny(dead_code)]
        pub(crate) const SCENARIOS: &[&[$crate::scenario::Scenario]] = &[$(
            $crate::scenario_entry!([] [] $(#[$($attribute)*])* [$(async $(@ $async)*)?] $name)
        ),*];
    };
    ($($other:tt)*) => {
        compile_error!("a scenario is `/// What it shows.`, attributes, and `fn name() {}` or `async fn name() {}`");
    };
}

/// The function of a scenario, without the attributes that only the harness knows.
#[doc(hidden)]
#[macro_export]
macro_rules! scenario_function {
    ([$($kept:tt)*] #[limit($seconds:literal)] $($rest:tt)*) => { $crate::scenario_function! { [$($kept)*] $($rest)* } };
    ([$($kept:tt)*] #[program] $($rest:tt)*) => { $crate::scenario_function! { [$($kept)*] $($rest)* } };
    ([$($kept:tt)*] #[$($other:tt)*] $($rest:tt)*) => {
        $crate::scenario_function! { [$($kept)* #[$($other)*]] $($rest)* }
    };
    ([$($kept:tt)*] [$($async:tt)*] fn $name:ident() $body:block) => { $($kept)* $($async)* fn $name() $body };
}

/// A slice with the scenario. It is empty if a `cfg` attribute removes the scenario.
#[doc(hidden)]
#[macro_export]
macro_rules! scenario_entry {
    ([$($cfg:tt)*] [$($option:tt)*] #[limit($seconds:literal)] $($rest:tt)*) => {
        $crate::scenario_entry!([$($cfg)*] [$($option)* .with_limit($seconds)] $($rest)*)
    };
    ([$($cfg:tt)*] [$($option:tt)*] #[program] $($rest:tt)*) => {
        $crate::scenario_entry!([$($cfg)*] [$($option)* .as_program()] $($rest)*)
    };
    ([$($cfg:tt)*] [$($option:tt)*] #[cfg($($condition:tt)*)] $($rest:tt)*) => {
        $crate::scenario_entry!([$($cfg)* #[cfg($($condition)*)]] [$($option)*] $($rest)*)
    };
    ([$($cfg:tt)*] [$($option:tt)*] #[$($other:tt)*] $($rest:tt)*) => {
        $crate::scenario_entry!([$($cfg)*] [$($option)*] $($rest)*)
    };
    ([$($cfg:tt)*] [$($option:tt)*] [] $name:ident) => {
        &[$($cfg)* $crate::scenario::Scenario::new(module_path!(), stringify!($name), $name) $($option)*]
    };
    ([$($cfg:tt)*] [$($option:tt)*] [async] $name:ident) => {
        &[$($cfg)* $crate::scenario::Scenario::new(
            module_path!(),
            stringify!($name),
            || $crate::runtime::run($name()),
        ) $($option)*]
    };
}

/// Defines the `main` function of a topic: `main!(module, other_module)`, or `main!()` if this file has the scenarios.
///
/// With `project = "name"` first, the scenarios run in the program that `tests/projects/name` builds from the same
/// file.
#[macro_export]
macro_rules! main {
    () => { $crate::main!(=> None; crate); };
    (project = $project:literal) => { $crate::main!(project = $project, crate); };
    (project = $project:literal, $($modules:tt)+) => {
        $crate::main!(=> Some(($project, option_env!("CARGO_TARGET_TMPDIR").unwrap_or_default())); $($modules)+);
    };
    (=> $project:expr; $($(#[$attribute:meta])* $module:ident),+) => {
        fn main() -> std::process::ExitCode {
            $crate::scenario::main($project, &[$($(#[$attribute])* $module::SCENARIOS),+])
        }

        #[test]
        fn harness() {
            panic!("add this test to the Cargo.toml of its package, with `harness = false`");
        }
    };
    ($($(#[$attribute:meta])* $module:ident),+) => { $crate::main!(=> None; $($(#[$attribute])* $module),+); };
}

/// A scenario, or a program that scenarios start.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    module: &'static str,
    name: &'static str,
    run: fn(),
    limit: Duration,
    is_program: bool,
}

impl Scenario {
    /// Creates a scenario in `module`, which is a [`module_path!`].
    pub const fn new(module: &'static str, name: &'static str, run: fn()) -> Scenario {
        Scenario { module, name, run, limit: Duration::from_secs(120), is_program: false }
    }

    /// Sets the time limit: `#[limit(..)]` in [`scenarios!`](crate::scenarios).
    pub const fn with_limit(self, seconds: u64) -> Scenario {
        Scenario { limit: Duration::from_secs(seconds), ..self }
    }

    /// Marks a program: `#[program]` in [`scenarios!`](crate::scenarios).
    pub const fn as_program(self) -> Scenario {
        Scenario { is_program: true, ..self }
    }

    /// Returns the name without the topic: `module::name`, or `name` if the scenario is in the topic's first file.
    fn path(&self) -> String {
        match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// Runs the scenario in a process and a process group of its own. Checks that the process exits with 0, and leaves no
    /// process of the group behind.
    ///
    /// Creates `directory` for the scenario's temporary files.
    fn run_in_group(&self, executable: &Path, is_captured: bool, directory: &Path) -> Result<(), Failed> {
        std::fs::create_dir(directory)?;
        let mut command = Command::new(executable);
        command.args([RUN, &self.path()]).env("TMPDIR", directory).stdin(Stdio::null()).process_group(0);
        if is_captured {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|error| format!("starting {}: {error}", executable.display()))?;
        let readers = [child.stdout.take().map(read_in_background), child.stderr.take().map(read_in_background)];
        let deadline = self.limit * slowdown();
        let start = Instant::now();
        let mut status = None;
        while status.is_none() && start.elapsed() < deadline {
            std::thread::sleep(Duration::from_millis(2));
            status = child.try_wait()?;
        }
        let group = child.id().cast_signed();
        let left = if status.is_some() { wait_for_group(group) } else { vec!["all of them".to_owned()] };
        if !left.is_empty() {
            kill_with_descendants(group);
            let _ended = child.wait();
        }
        let output: String =
            readers.into_iter().flatten().map(|reader| reader.join().expect("reading the output")).collect();
        match status {
            None => Err(format!("the scenario still runs after {deadline:?}\n{output}").into()),
            Some(_) if !left.is_empty() => Err(format!("processes still run: {left:?}\n{output}").into()),
            Some(status) if !status.success() => Err(failure(status, &output)),
            Some(_) => Ok(()),
        }
    }
}

fn failure(status: ExitStatus, output: &str) -> Failed {
    format!("{status}\n{output}").into()
}

/// Kills the members of a group, and their descendants in other groups.
fn kill_with_descendants(group: i32) {
    let processes = processes();
    let ancestors = |process| successors(Some(process), |process: &&Process| processes.get(&process.parent));
    for process in processes.values().filter(|process| ancestors(*process).any(|ancestor| ancestor.group == group)) {
        // The process may have ended.
        let _ = try_kill(process.pid, libc::SIGKILL);
    }
}

/// Waits up to ten seconds until the members of a group have ended. Returns the processes that still run.
fn wait_for_group(group: i32) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left: Vec<_> = processes().into_values().filter(|process| process.group == group).collect();
        if left.is_empty() || start.elapsed() > Duration::from_secs(10) * slowdown() {
            return left.iter().map(|process| format!("{process:?}")).collect();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the scenarios that match the arguments. With `--run`, runs one scenario in this process. See [`main!`](crate::main).
pub fn main(project: Option<(&'static str, &'static str)>, modules: &[&'static [&'static [Scenario]]]) -> ExitCode {
    let scenarios: Vec<&'static Scenario> =
        modules.iter().flat_map(|module| module.iter()).flat_map(|entry| entry.iter()).collect();
    if env::args().nth(1).as_deref() == Some(RUN) {
        let name = env::args().nth(2).unwrap_or_default();
        let Some(scenario) = scenarios.iter().find(|scenario| scenario.path() == name) else {
            let names: Vec<_> = scenarios.iter().map(|scenario| scenario.path()).collect();
            panic!("no scenario {name:?}; the scenarios are {names:?}");
        };
        let _read_from_the_environment = slowdown();
        if !scenario.is_program {
            // A scenario that lists or counts descriptors must find only its own.
            close_inherited_descriptors();
        }
        (scenario.run)();
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let is_captured = !arguments.nocapture;
    // This function removes the directory at the end, because scenarios that fail or are killed leave files behind.
    let directory = temporary_directory();
    let trials = scenarios.into_iter().filter(|scenario| !scenario.is_program).zip(0..).map(|(scenario, number)| {
        // The name is short, because the address of a Unix socket is limited to about a hundred bytes.
        let directory = directory.join(i32::to_string(&number));
        let run = move || {
            let executable = match project {
                None => env::current_exe()?,
                Some((name, directory)) => project_executable(name, Path::new(directory))?,
            };
            scenario.run_in_group(&executable, is_captured, &directory)
        };
        Trial::test(scenario.path(), run)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let _ = std::fs::remove_dir_all(&directory);
    conclusion.exit_code()
}

/// Makes a directory for temporary files. A test binary that was killed, or one in another PID namespace, may have left a
/// directory with the same process id.
fn temporary_directory() -> PathBuf {
    let mut number = 0;
    loop {
        let directory = env::temp_dir().join(format!("forkio-{}-{number}", std::process::id()));
        match std::fs::create_dir(&directory) {
            Ok(()) => return directory,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}: {error}", directory.display()),
        }
        number += 1;
    }
}

/// Builds a crate below `tests/projects`, once, and returns the path of its program.
fn project_executable(name: &str, directory: &Path) -> Result<PathBuf, Failed> {
    static EXECUTABLE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("projects").join(name).join("Cargo.toml");
        // The target directory is separate: the `cargo` that runs this test may hold the lock of its own target directory.
        let target = directory.join(name);
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
        let output = command.arg("--target-dir").arg(&target).output().map_err(|error| format!("cargo: {error}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(target.join("debug").join(name))
        } else {
            Err(format!("cargo build: {}\n{errors}", output.status))
        }
    };
    EXECUTABLE.get_or_init(build).clone().map_err(Failed::from)
}

/// Returns the arguments of this process after `--run` and the name of the scenario or program.
pub fn arguments() -> Vec<String> {
    env::args().skip(3).collect()
}
