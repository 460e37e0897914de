//! `cargo xtask bench`: what watching costs, as measured here, beside what it may cost.
//!
//! May import the tasks it builds on and, from this crate's library, the throwaway server and the
//! clients. Invariants: a slow machine never fails the task, a tracer that loses something does;
//! the kernel's run-time statistics are as before when it ends, also after Ctrl-C; throughput is
//! only compared between neighbouring runs, as the machine is not ours alone.

mod child;
mod load;
mod processor;
mod programs;
mod runtimes;
mod scale;
mod statistics;
mod table;
mod throughput;
mod tracer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use xtask::postgres::{Config, Server};
use xtask::sh;

use self::table::Table;
use crate::build;
use crate::setup::{self, Group};

/// Measure what watching costs
#[derive(clap::Args)]
pub struct Options {
    /// Length of one run; pgbench's throughput is looked at for a second at a time
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Runs of each kind, and four times as many of those looks; the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only one part
    #[arg(long)]
    only: Option<Part>,
    /// Measure this `connleak` instead of building one, to compare two
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    load: Option<Load>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Nanoseconds of program time by what a system call was
    Calls,
    /// Nanoseconds of program time under pgbench, and of Go's checkouts
    Programs,
    /// pgbench and node-postgres with and without the tracer
    Throughput,
    /// Program time of stacks, time to name them, and memory, by runtime
    Runtimes,
    /// Start with many processes, memory and many connections
    Scale,
}

/// The other half of the measurements: this program started again by itself.
#[derive(clap::Subcommand)]
enum Load {
    #[command(hide = true)]
    Load(load::Options),
}

/// What every part measures with.
struct Bench {
    connleak: PathBuf,
    server: Server,
    seconds: u32,
    rounds: u32,
    interrupted: Arc<AtomicBool>,
}

impl Bench {
    /// One step of a measurement is over.
    fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Prints the table of measurements.
pub fn run(options: &Options) -> Result<()> {
    if let Some(Load::Load(load)) = &options.load {
        return load::run(load);
    }
    ensure!(
        sh::is_root(),
        "cargo xtask bench needs root: it switches the kernel's program statistics on and off"
    );
    setup::ensure(Group::Build)?;
    setup::ensure(Group::Demo)?;
    setup::ensure(Group::Real)?;
    let connleak = match &options.binary {
        Some(binary) => binary.clone(),
        None => build::connleak(build::Options { release: true })?,
    };
    // We outlive Ctrl-C, which ends our children and with them the step that waits for them.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let server = Server::start_with(&Config { own_process_group: true, ..Config::default() })?;
    let (seconds, rounds) = (options.seconds, options.rounds);
    let bench = Bench { connleak, server, seconds, rounds, interrupted };
    bench.server.pgbench_init(1)?;
    println!("bench: {}", machine());
    let mut table = Table::default();
    let parts: &[Part] = options.only.as_slice();
    let parts = if parts.is_empty() { Part::value_variants() } else { parts };
    let measured = parts.iter().try_for_each(|part| match part {
        Part::Calls => programs::calls(&bench, &mut table),
        Part::Programs => programs::measure(&bench, &mut table),
        Part::Throughput => throughput::measure(&bench, &mut table),
        Part::Runtimes => runtimes::measure(&bench, &mut table),
        Part::Scale => scale::measure(&bench, &mut table),
    });
    println!("bench: {}", machine());
    // What was measured before a failure is told too.
    print!("\n{table}");
    measured
}

/// How large the machine is and how busy.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let minute = load.split(' ').next().unwrap_or("?");
    format!("Linux {kernel}, {cores} cores, load average {minute}")
}

/// Waits until `done` holds, looking often.
fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    const LOOKS: u32 = 6_000;
    for _ in 0..LOOKS {
        if done()? {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    bail!("not within a minute: {what}")
}
