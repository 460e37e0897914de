//! `cargo xtask test`: everything that must hold, in the order in which it is quick to know.
//!
//! A step that fails does not hide the ones behind it. What cannot run on a machine is left out by
//! name and with the reason; on a machine that can run it, nothing is skipped.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::{sh, workspace};

use crate::setup::{self, Group, Unavailable};
use crate::{build, tidy, vm};

/// Check, lint and test everything, also on real kernels
#[derive(clap::Args)]
pub struct Options {
    /// Only one part
    #[arg(long)]
    only: Option<Part>,
}

/// What can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What needs no kernel: rules, format, lints, unit tests, documentation, licences
    Unit,
    /// Real programs on this kernel; needs root
    Real,
    /// The short ones of those under other kernels, in virtual machines; needs root
    Vm,
}

/// How a step ended.
enum Outcome {
    Passed,
    Failed(String),
    LeftOut(String),
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
#[derive(Default)]
struct Summary {
    steps: Vec<(&'static str, Outcome, Duration)>,
}

impl Summary {
    fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<()>) {
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = match run() {
            Ok(()) => Outcome::Passed,
            Err(error) => match error.downcast_ref::<Unavailable>() {
                Some(missing) => Outcome::LeftOut(format!("needs {}", missing.names())),
                None => Outcome::Failed(format!("{error:#}")),
            },
        };
        let took = start.elapsed();
        println!("<== {name}: {outcome} ({:.1} s)", took.as_secs_f64());
        self.steps.push((name, outcome, took));
    }

    fn leave_out(&mut self, name: &'static str, why: &str) {
        println!("\n==> {name}: left out: {why}");
        self.steps.push((name, Outcome::LeftOut(why.to_owned()), Duration::ZERO));
    }

    /// The closing summary; an error when a step failed.
    fn close(&self) -> Result<()> {
        println!("\nSummary");
        for (name, outcome, took) in &self.steps {
            println!("  {name:<14} {:>6.1} s  {outcome}", took.as_secs_f64());
        }
        let took: Duration = self.steps.iter().map(|(.., took)| *took).sum();
        let count = |wanted: fn(&Outcome) -> bool| {
            self.steps.iter().filter(|(_, outcome, _)| wanted(outcome)).count()
        };
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        println!(
            "{} passed, {failed} failed, {} left out, in {:.0} s",
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::LeftOut(_))),
            took.as_secs_f64()
        );
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.steps.len());
        }
        Ok(())
    }
}

/// Runs the parts that were asked for.
pub fn run(options: &Options) -> Result<()> {
    let wants = |part| options.only.is_none_or(|only| only == part);
    let mut summary = Summary::default();
    // Nothing compiles without it.
    build::object()?;
    if wants(Part::Unit) {
        unit(&mut summary);
    }
    if wants(Part::Real) {
        summary_of_root(&mut summary, "this kernel", real);
    }
    if wants(Part::Vm) {
        if std::env::consts::ARCH == "x86_64" {
            let run = || vm::run(&vm::Options::default());
            summary_of_root(&mut summary, "other kernels", run);
        } else {
            summary.leave_out("other kernels", "virtual machines are only prepared for x86-64");
        }
    }
    summary.close()
}

fn unit(summary: &mut Summary) {
    summary.step("tidy", || tidy::run(&tidy::Options {}));
    summary.step("format", || cargo(&["fmt", "--all", "--check"]));
    summary.step("lints", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features=tracer/real",
            "--locked",
            "--",
            "--deny=warnings",
        ])
    });
    summary.step("unit tests", || {
        setup::ensure(Group::Unit)?;
        // The same generated cases each time; `cargo test` alone tries new ones.
        let mut test = sh::cargo();
        test.args(["test", "--workspace", "--locked"]).env("PROPTEST_RNG_SEED", "20261121");
        sh::run(test.current_dir(workspace::root()))
    });
    summary.step("documentation", || {
        let mut doc = sh::cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--locked"]);
        sh::run(doc.current_dir(workspace::root()).env("RUSTDOCFLAGS", "--deny=warnings"))
    });
    if sh::which("cargo-deny").is_some() {
        // Advisories need a database from the network and change without us.
        summary.step("cargo deny", || cargo(&["deny", "check", "bans", "licenses", "sources"]));
    } else {
        summary.leave_out("cargo deny", "not installed; tidy has checked the licences");
    }
}

/// A step that needs root in the end.
fn summary_of_root(summary: &mut Summary, name: &'static str, run: impl FnOnce() -> Result<()>) {
    if sh::is_root() || sh::which("sudo").is_some() {
        summary.step(name, run);
    } else {
        summary.leave_out(name, "needs root, and there is no sudo");
    }
}

/// The tests on this kernel: built as the user, run as root.
fn real() -> Result<()> {
    setup::ensure(Group::Real)?;
    let tests = real_tests()?;
    let mut command = sh::elevated(&tests).context("needs root")?;
    // They wait more than they work: more of them at a time than processors.
    command.args(["--test-threads", "4"]);
    sh::run(command.current_dir(workspace::root().join("tracer")))
}

/// Builds the tests that need a kernel and gives the executable.
pub fn real_tests() -> Result<PathBuf> {
    let mut command = sh::cargo();
    command.args(["test", "--package", "tracer", "--features", "real", "--test", "real"]);
    command.args(["--no-run", "--locked"]);
    let built = build::executables(&mut command)?;
    let tests = built.into_iter().find(|(name, _)| name == "real");
    Ok(tests.context("cargo built no test called real")?.1)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command: Command = sh::cargo();
    sh::run(command.args(arguments).current_dir(workspace::root()))
}
