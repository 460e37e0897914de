//! `cargo xtask test`: everything that must hold, in the order in which it is quick to know.
//!
//! A step that fails does not hide the ones behind it. What cannot run on a machine is left out by
//! name and with the reason; on a machine that can run it, nothing is skipped. The test targets
//! that not every machine can run are [`TARGETS`]: the tracer's manifest selects them by a feature,
//! so each is a step of its own and none takes the others with it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fmt, thread};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use tempfile::TempDir;
use xtask::{postgres, sh, workspace};

use crate::setup::{self, Group, Unavailable};
use crate::{build, tidy, toolchain, vm};

/// Check, lint and test everything, also on real kernels
#[derive(clap::Args)]
pub struct Options {
    /// Only one part
    #[arg(long)]
    only: Option<Part>,
    /// Beside the other parts: without what takes minutes to build.
    #[arg(long, hide = true)]
    beside: bool,
}

/// What can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What needs no root: rules, format, lints, unit tests, documentation, licences
    Unit,
    /// Real programs on this kernel; needs root
    Real,
    /// The same on further versions of Java, Python and Node.js, only when asked for; needs root
    Versions,
    /// The same by the hook on system calls, only when asked for; needs root
    Calls,
    /// The short ones of those under other kernels, in virtual machines; needs root
    Vm,
}

/// A test target of the tracer that wants more of a machine than a Rust compiler.
struct Target {
    name: &'static str,
    part: Part,
    /// What it needs.
    group: Group,
    /// What it is told; other than by `cargo test`, as it is run by itself.
    arguments: &'static [&'static str],
}

/// A run of a target's tests.
struct Run {
    arguments: Vec<&'static str>,
    /// By the hook on system calls.
    by_calls: bool,
}

/// Tests of the standard harness that wait more than they work: more of them at a time than
/// processors.
const WAITING: &[&str] = &["--test-threads", "5"];

/// Parts of the names of tests on further versions of a language and in further shapes of its code.
/// What they find is found by others too, and they take long: they run when asked for.
const FURTHER_TESTS: [&str; 12] = [
    "on_an_old_version",
    "on_a_newer_version",
    "on_another_version",
    "on_the_newest_version",
    "java_frames::a_",
    "in_3_9",
    "in_3_13",
    "in_3_15",
    "of_the_newest_go",
    "_twin_in_a_stripped_binary",
    "pool_of_r2d2_that",
    "of_r2d2_from_before",
];

/// Parts of the names of tests of what must have happened by a certain time: they run when the others
/// have ended, one at a time.
const TIMED_TESTS: [&str; 1] = ["_is_named_in_time"];

/// Parts of the names of tests that are run a second time by the hook on system calls: there, connections are
/// found by descriptors.
const CALLS_TESTS: [&str; 1] = ["descriptors::"];

/// Of what only the hooks on sockets see.
const SOCKETS_TESTS: [&str; 2] =
    ["a_session_that_is_handed_to_another_process_stays", "standby::over_tcp_"];

/// The step of all the others.
const CALLS: &str = "by system calls";

/// How those on further versions are run: fewer at a time, for they work.
const FURTHER_WORK: &[&str] = &["--test-threads", "2"];

/// The step of those.
const FURTHER: &str = "further versions";

/// The feature of the tracer that selects [`TARGETS`].
const SELECTING: &str = "real";

/// Everything, as cargo is told.
const WHOLE: [&str; 3] = ["--workspace", "--features=tracer/real", "--locked"];

/// All that the tracer's manifest selects by that feature.
const TARGETS: [Target; 5] = [
    Target { name: "symbolize", part: Part::Unit, group: Group::Programs, arguments: &[] },
    Target { name: "binaries", part: Part::Unit, group: Group::Binaries, arguments: &[] },
    Target { name: "root", part: Part::Real, group: Group::Root, arguments: WAITING },
    Target { name: REAL, part: Part::Real, group: Group::Real, arguments: WAITING },
    Target { name: CORPUS, part: Part::Real, group: Group::Real, arguments: &["--fast"] },
];

/// The target of the tests on this kernel.
const REAL: &str = "real";

/// The target that runs leaky and healthy programs and prints a table of what was said of them.
const CORPUS: &str = "corpus";

/// The step of all that needs no root, beside the others.
const BESIDE: &str = "without root";

/// The step under other kernels, which runs the target `real` again.
const KERNELS: &str = "other kernels";

/// The step under the kernels between the oldest and the newest.
const FURTHER_KERNELS: &str = "further kernels";

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    LeftOut(String),
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => match error.downcast_ref::<Unavailable>() {
                Some(missing) => Self::LeftOut(missing.reason()),
                None => Self::Failed(format!("{error:#}")),
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::LeftOut(why) => write!(f, "left out: {why}"),
        }
    }
}

/// Steps that have ended.
struct Summary {
    start: Instant,
    steps: Vec<(&'static str, Outcome, Duration)>,
}

impl Summary {
    fn new() -> Self {
        Self { start: Instant::now(), steps: Vec::new() }
    }

    fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<()>) {
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = Outcome::from(run());
        let took = start.elapsed();
        println!("<== {name}: {outcome} ({:.1} s)", took.as_secs_f64());
        self.steps.push((name, outcome, took));
    }

    fn leave_out(&mut self, name: &'static str, why: &str) {
        println!("\n==> {name}: left out: {why}");
        self.steps.push((name, Outcome::LeftOut(why.to_owned()), Duration::ZERO));
    }

    /// One for each step.
    fn lines(&self) -> Vec<String> {
        let line = |(name, outcome, took): &(&str, Outcome, Duration)| {
            format!("  {name:<14} {:>6.1} s  {outcome}", took.as_secs_f64())
        };
        self.steps.iter().map(line).collect()
    }

    /// The closing summary; an error when a step failed.
    fn close(&self) -> Result<()> {
        println!("\nSummary");
        for line in self.lines() {
            println!("{line}");
        }
        let count = |wanted: fn(&Outcome) -> bool| {
            self.steps.iter().filter(|(_, outcome, _)| wanted(outcome)).count()
        };
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        println!(
            "{} passed, {failed} failed, {} left out, in {:.0} s",
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::LeftOut(_))),
            self.start.elapsed().as_secs_f64()
        );
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.steps.len());
        }
        Ok(())
    }
}

/// Runs the parts that were asked for.
///
/// When that is all of them, what needs no root runs beside what does: the former works, the latter
/// mostly waits. Both compile into one target directory, so all is compiled before.
pub fn run(options: &Options) -> Result<()> {
    let wants = |part| options.only.is_none_or(|only| only == part);
    let may_be_root = sh::is_root() || sh::which("sudo").is_some();
    let mut summary = Summary::new();
    if let Some(notice) = notice(sh::is_root(), sh::which("sudo").is_some(), options.only) {
        println!("test: {notice}");
    }
    // Nothing compiles without it.
    build::object()?;
    let beside = if options.only.is_none() && may_be_root {
        summary.step("build", || {
            thread::scope(|scope| {
                // What cannot be had is for the steps to tell, which name it.
                scope.spawn(setup::ensure_all);
                sh::run(cargo_test().arg("--no-run").current_dir(workspace::root()))
            })
        });
        Some(Beside::start(Part::Unit)?)
    } else {
        if wants(Part::Unit) {
            unit(&mut summary, options.beside);
        }
        None
    };
    if wants(Part::Real) {
        for target in TARGETS.iter().filter(|target| target.part == Part::Real) {
            summary_of_root(&mut summary, target.name, || target.test_as_root());
        }
        summary.leave_out(FURTHER, "they take long: cargo xtask test --only versions");
        summary.leave_out(CALLS, "all but some take long: cargo xtask test --only calls");
    }
    let real = target(REAL)?;
    if options.only == Some(Part::Versions) {
        let further = Target {
            part: Part::Versions,
            group: Group::Versions,
            arguments: FURTHER_WORK,
            ..*real
        };
        summary_of_root(&mut summary, FURTHER, || further.test_as_root());
    }
    if options.only == Some(Part::Calls) {
        let calls = Target { part: Part::Calls, ..*real };
        summary_of_root(&mut summary, CALLS, || calls.test_as_root());
        for name in SOCKETS_TESTS {
            summary.leave_out(name, "only the hooks on sockets see it");
        }
    }
    if wants(Part::Vm) {
        if env::consts::ARCH == "x86_64" {
            let whole = options.only.is_none();
            let run = || vm::run(&if whole { vm::Options::ends() } else { vm::Options::default() });
            summary_of_root(&mut summary, KERNELS, run);
            if whole {
                summary.leave_out(FURTHER_KERNELS, "they take long: cargo xtask test --only vm");
            }
        } else {
            summary.leave_out(KERNELS, "virtual machines are only prepared for x86-64");
        }
    }
    if let Some(beside) = beside {
        summary.step(BESIDE, || beside.finish());
    }
    summary.close()
}

/// One part, run by another process of ours with what the other parts leave of the processors.
struct Beside {
    child: Child,
    said: TempDir,
}

impl Beside {
    fn start(part: Part) -> Result<Self> {
        let said = TempDir::with_prefix("connleak-test-").context("making a directory")?;
        let file = File::create(said.path().join("said"))?;
        let name = part.to_possible_value().context("every part can be asked for")?;
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(env::current_exe().context("our own path")?);
        command.args(["test", "--beside", "--only", name.get_name()]);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("cannot start nice")?;
        println!("\n==> {BESIDE}: beside the next ones; what it says comes when they have ended");
        Ok(Self { child, said })
    }

    /// Waits for it and says what it said.
    fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let said = fs::read(self.said.path().join("said"))?;
        io::stdout().write_all(&said)?;
        if !status.success() {
            bail!("ended with {status}; see above");
        }
        Ok(())
    }
}

fn unit(summary: &mut Summary, beside: bool) {
    summary.step("tidy", tidy::rules);
    summary.step("format", || cargo(&["fmt", "--all", "--check"]));
    summary.step("unit tests", || {
        let names = targets_of_the_manifest(false)?;
        let tests = names.iter().flat_map(|name| ["--test", name]);
        // The same generated cases each time; `cargo test` alone tries new ones.
        let mut test = cargo_test();
        test.args(["--lib", "--bins"]).args(tests).env("PROPTEST_RNG_SEED", "20261121");
        sh::run(test.current_dir(workspace::root()))?;
        sh::run(cargo_test().arg("--doc").current_dir(workspace::root()))
    });
    summary.step("lints", || {
        let mut clippy = sh::cargo();
        clippy.args(["clippy", "--all-targets"]).args(WHOLE).args(["--", "--deny=warnings"]);
        sh::run(clippy.current_dir(workspace::root()))
    });
    summary.step("documentation", || {
        let mut doc = sh::cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--locked"]);
        sh::run(doc.current_dir(workspace::root()).env("RUSTDOCFLAGS", "--deny=warnings"))
    });
    const DEPENDENCIES: &str = "dependencies";
    if beside && toolchain::cargo_deny().is_none() {
        // Licences are among what `tidy` checks.
        let why = "cargo-deny takes minutes to build: cargo xtask test --only unit";
        summary.leave_out(DEPENDENCIES, why);
    } else {
        summary.step(DEPENDENCIES, dependencies);
    }
    for target in TARGETS.iter().filter(|target| target.part == Part::Unit) {
        summary.step(target.name, || target.test());
    }
}

fn dependencies() -> Result<()> {
    setup::ensure(Group::Licences)?;
    tidy::dependencies(&toolchain::cargo_deny().context("no cargo-deny after setup")?)
}

/// Tests of the whole workspace: one set of features, so that nothing is compiled twice.
fn cargo_test() -> Command {
    let mut command = sh::cargo();
    command.arg("test").args(WHOLE);
    command
}

/// Test targets of the workspace that the feature selects, or the others.
fn targets_of_the_manifest(selected: bool) -> Result<Vec<String>> {
    let mut metadata = sh::cargo();
    metadata.args(["metadata", "--format-version=1", "--locked", "--no-deps"]);
    let metadata = sh::output(metadata.current_dir(workspace::root()))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let is_test = |target: &&serde_json::Value| target["kind"][0] == "test";
    let is_selected = |target: &&serde_json::Value| {
        let features = target["required-features"].as_array().into_iter().flatten();
        features.into_iter().any(|feature| feature == SELECTING) == selected
    };
    let names = targets.filter(is_test).filter(is_selected);
    Ok(names.filter_map(|target| Some(target["name"].as_str()?.to_owned())).collect())
}

/// What whoever is not root should know before the first step: which of them need it, and how
/// they get it.
fn notice(is_root: bool, has_sudo: bool, only: Option<Part>) -> Option<String> {
    let of_root = TARGETS.iter().filter(|target| target.part == Part::Real);
    let steps = of_root.map(|target| (target.part, target.name)).chain([(Part::Vm, KERNELS)]);
    let steps = steps.filter(|(part, _)| only.is_none_or(|only| only == *part));
    let steps: Vec<_> = steps.map(|(_, name)| format!("`{name}`")).collect();
    if is_root || steps.is_empty() {
        return None;
    }
    let steps = steps.join(", ");
    Some(if has_sudo {
        format!(
            "{steps} need root: all is built as you, and only they are run with sudo, which may ask for a password"
        )
    } else {
        format!(
            "{steps} need root and are left out: run `cargo xtask test` as root, or install sudo"
        )
    })
}

/// A step that needs root in the end.
fn summary_of_root(summary: &mut Summary, name: &'static str, run: impl FnOnce() -> Result<()>) {
    if sh::is_root() || sh::which("sudo").is_some() {
        summary.step(name, run);
    } else {
        summary.leave_out(name, "needs root, and there is no sudo: run it as root");
    }
}

/// A data directory that the servers of all tests are copies of.
struct Prepared(TempDir);

impl Prepared {
    /// Only root can give it to whom the servers run as; otherwise each test makes its own.
    fn make() -> Result<Option<Self>> {
        if !sh::is_root() {
            return Ok(None);
        }
        let dir = postgres::directory("connleak-test-")?;
        postgres::prepare(&dir.path().join("data"))?;
        // Else nobody but root may reach it.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        Ok(Some(Self(dir)))
    }

    fn environment(&self) -> (&'static str, PathBuf) {
        (postgres::PREPARED_DATA, self.0.path().join("data"))
    }
}

impl Target {
    fn test(&self) -> Result<()> {
        setup::ensure(self.group)?;
        sh::run(self.cargo_test().current_dir(workspace::root()))
    }

    /// Built as the user, run as root.
    fn test_as_root(&self) -> Result<()> {
        setup::ensure(self.group)?;
        let tests = self.built()?;
        let prepared = Prepared::make()?;
        for Run { arguments, by_calls } in self.runs() {
            let mut command = sh::elevated(&tests).context("needs root")?;
            command.args(arguments).envs(prepared.as_ref().map(Prepared::environment));
            command.envs(by_calls.then_some((postgres::BY_CALLS, "1")));
            sh::run(command.current_dir(workspace::root().join("tracer")))?;
        }
        Ok(())
    }

    /// Each time that it runs. Of the tests on this kernel those on further versions are a part of their
    /// own.
    fn runs(&self) -> Vec<Run> {
        let without = |names: &[&[&'static str]]| -> Vec<&'static str> {
            names.concat().into_iter().flat_map(|name| ["--skip", name]).collect()
        };
        let run = |by_calls, arguments: &[&[&'static str]]| Run {
            arguments: arguments.concat(),
            by_calls,
        };
        match self.part {
            Part::Versions => vec![run(false, &[self.arguments, &FURTHER_TESTS])],
            Part::Calls => {
                let skipped = without(&[&FURTHER_TESTS, &TIMED_TESTS, &SOCKETS_TESTS]);
                vec![run(true, &[self.arguments, &skipped])]
            }
            Part::Real if self.name == REAL => vec![
                run(false, &[self.arguments, &without(&[&FURTHER_TESTS, &TIMED_TESTS])]),
                run(true, &[self.arguments, &CALLS_TESTS, &without(&[&SOCKETS_TESTS])]),
                run(false, &[&["--test-threads", "1"], &TIMED_TESTS]),
            ],
            _ => vec![run(false, &[self.arguments])],
        }
    }

    fn built(&self) -> Result<PathBuf> {
        let built = build::executables(self.cargo_test().arg("--no-run"))?;
        let tests = built.into_iter().find(|(name, _)| name == self.name);
        Ok(tests.with_context(|| format!("cargo built no test called {}", self.name))?.1)
    }

    fn cargo_test(&self) -> Command {
        let mut command = cargo_test();
        command.args(["--test", self.name]);
        command
    }
}

/// Builds the tests that need a kernel and gives the executable.
pub fn real_tests() -> Result<PathBuf> {
    target(REAL)?.built()
}

/// Runs the corpus, or of all of it the scenarios of these names.
pub fn corpus(group: Group, arguments: &[String]) -> Result<()> {
    let corpus = target(CORPUS)?;
    build::object()?;
    setup::ensure(group)?;
    let mut command = sh::elevated(&corpus.built()?)
        .context("the corpus needs root: run it as root, or install sudo")?;
    let prepared = Prepared::make()?;
    command.args(arguments).envs(prepared.as_ref().map(Prepared::environment));
    sh::run(command.current_dir(workspace::root().join("tracer")))
}

fn target(name: &str) -> Result<&'static Target> {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.with_context(|| format!("no target {name}"))
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command: Command = sh::cargo();
    sh::run(command.args(arguments).current_dir(workspace::root()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn unfetched() -> anyhow::Error {
        Unavailable::Download { what: "go-newest", why: "apt-get ended with 100".to_owned() }.into()
    }

    #[test]
    fn every_target_that_the_manifest_selects_is_a_step() {
        let mut selected = targets_of_the_manifest(true).unwrap();
        let mut steps = TARGETS.map(|target| target.name);
        selected.sort_unstable();
        steps.sort_unstable();
        assert_eq!(selected, steps);
        let others = targets_of_the_manifest(false).unwrap();
        assert!(others.contains(&"replay".to_owned()), "{others:?}");
    }

    #[test]
    fn only_what_needs_a_toolchain_is_left_out_with_it_and_the_summary_says_why() {
        let mut summary = Summary::new();
        summary.step("before", || Ok(()));
        summary.step("binaries", || Err(unfetched().context("setup")));
        summary.step("behind", || Ok(()));
        let outcomes: Vec<_> = summary.steps.iter().map(|(_, outcome, _)| outcome).collect();
        let why = "go-newest cannot be fetched: apt-get ended with 100";
        let left_out = Outcome::LeftOut(why.to_owned());
        assert_eq!(outcomes, [&Outcome::Passed, &left_out, &Outcome::Passed]);
        assert_eq!(summary.lines()[1].split_once("  left out: ").unwrap().1, why);
        summary.close().unwrap();
    }

    #[test]
    fn whoever_is_not_root_is_told_first_what_needs_it() {
        let with_sudo = notice(false, true, None).unwrap();
        assert!(
            with_sudo.starts_with("`root`, `real`, `corpus`, `other kernels` need root: "),
            "{with_sudo}"
        );
        assert!(with_sudo.contains("run with sudo"), "{with_sudo}");
        let without = notice(false, false, Some(Part::Vm)).unwrap();
        assert!(without.starts_with("`other kernels` need root and are left out"), "{without}");
        assert_eq!(notice(true, false, None), None);
        assert_eq!(notice(false, false, Some(Part::Unit)), None);
    }

    #[test]
    fn a_failure_is_no_reason_to_leave_something_out() {
        let mut summary = Summary::new();
        summary.step("binaries", || Err(anyhow!("test failed")));
        summary.step("behind", || Err(unfetched()));
        assert_eq!(summary.steps[0].1, Outcome::Failed("test failed".to_owned()));
        assert_eq!(summary.close().unwrap_err().to_string(), "1 of 2 steps failed");
    }
}
