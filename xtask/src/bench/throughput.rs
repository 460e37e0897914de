//! Throughput with and without the tracer, as ratios of neighbouring runs.
//!
//! May import its neighbours. Each is given twice: by the time on the wall, which anything else
//! that runs on the machine changes, and by processor time, which it changes little and which says
//! the same where the processors are what there is too little of. Invariant: the kernel's run-time
//! statistics are off, as they are where people work.

use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::{clients, sh, workspace};

use super::child::Talking;
use super::table::{Median, Table, Target, Unit};
use super::tracer::Tracer;
use super::{Bench, processor, until};

/// Adds its rows.
pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    with_pgbench(bench, table)?;
    with_node(bench, table)
}

/// What a run did.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Operations per second.
    wall: f64,
    /// Operations per second of processor time.
    processor: f64,
}

/// Runs compared with those before and after them, so that a drift of the machine cancels out.
#[derive(Default)]
struct Ratios {
    wall: Vec<f64>,
    processor: Vec<f64>,
}

impl Ratios {
    fn add(&mut self, before: Rate, run: Rate, after: Rate) {
        self.wall.push(2.0 * run.wall / (before.wall + after.wall));
        self.processor.push(2.0 * run.processor / (before.processor + after.processor));
    }

    fn tell(self, table: &mut Table, name: &str, target: Target) {
        table.add(name, Median::of(self.wall), Unit::Percent, target);
        let name = format!("{name}: processor time");
        table.add(&name, Median::of(self.processor), Unit::Percent, target);
    }
}

/// Transactions per second of the usual select-only load, with every core busy.
pub fn pgbench(bench: &Bench) -> Result<f64> {
    let mut pgbench = bench.server.client("pgbench")?;
    pgbench.envs(bench.server.environment());
    pgbench.args(["-n", "-S", "-M", "prepared", "-c", "8", "-j", "2"]);
    let said = sh::output(pgbench.args(["-T", &bench.seconds.to_string()]))?;
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    let tps = tps.with_context(|| format!("pgbench said no tps:\n{said}"))?;
    tps.parse().with_context(|| format!("pgbench said {tps} tps"))
}

/// A connected client that does nothing.
pub fn idle_client(bench: &Bench) -> Result<Talking> {
    let mut psql = bench.server.client("psql")?;
    psql.envs(bench.server.environment()).args(["-X", "-A", "-t", "-q"]);
    let mut psql = Talking::begin(&mut psql)?;
    psql.ask("select 1;")?;
    Ok(psql)
}

/// A run of pgbench, with what it costs the client, the server and the tracer.
fn pgbench_rate(bench: &Bench, tracer: Option<&Tracer>) -> Result<Rate> {
    bench.check()?;
    let server = bench.server.pid();
    let sessions = processor::children(server)?;
    let so_far = || -> Result<f64> {
        let ours = processor::used(std::process::id())?.children;
        let theirs = processor::used(server)?.children;
        let tracers = tracer.map(Tracer::used).transpose()?.unwrap_or_default();
        Ok((ours + theirs + tracers).as_secs_f64())
    };
    let before = so_far()?;
    let tps = pgbench(bench)?;
    // A session's time is the server's when it has ended.
    until("the server's sessions end", || Ok(processor::children(server)?.is_subset(&sessions)))?;
    let spent = so_far()? - before;
    Ok(Rate { wall: tps, processor: tps * f64::from(bench.seconds) / spent })
}

fn with_pgbench(bench: &Bench, table: &mut Table) -> Result<()> {
    let ports = [bench.server.port()];
    let idle = idle_client(bench)?;
    let pid = idle.pid().to_string();
    let traced = |more: &[&str]| -> Result<Rate> {
        let tracer = Tracer::watch(bench, &ports, more)?;
        let rate = pgbench_rate(bench, Some(&tracer))?;
        tracer.finish()?;
        Ok(rate)
    };
    // Warms the caches of files and pages.
    pgbench(bench)?;
    let (mut watched, mut others) = (Ratios::default(), Ratios::default());
    let mut noise = Ratios::default();
    let mut first = pgbench_rate(bench, None)?;
    for _ in 0..bench.rounds {
        let with = traced(&[])?;
        let second = pgbench_rate(bench, None)?;
        watched.add(first, with, second);
        let with = traced(&["--pid", &pid])?;
        let third = pgbench_rate(bench, None)?;
        others.add(second, with, third);
        noise.add(first, second, third);
        first = third;
    }
    watched.tell(table, "pgbench, watched", Target::AtLeast(0.94));
    others.tell(table, "pgbench, only another process watched", Target::AtLeast(0.98));
    noise.tell(table, "pgbench against itself", Target::None);
    Ok(())
}

fn with_node(bench: &Bench, table: &mut Table) -> Result<()> {
    let mut node = Command::new("node");
    node.arg(workspace::root().join("xtask/src/bench/checkouts.js"));
    node.env("NODE_PATH", clients::node_modules()).envs(bench.server.environment());
    let mut node = Talking::start(&mut node)?;
    let mut rate = |kind: &str| -> Result<Rate> {
        bench.check()?;
        let said = node.ask(&format!("{kind} {}", bench.seconds))?;
        let rates: Option<Vec<f64>> = said.split(' ').map(|rate| rate.parse().ok()).collect();
        match rates.as_deref() {
            Some([wall, processor]) => Ok(Rate { wall: *wall, processor: *processor }),
            _ => anyhow::bail!("the Node client said: {said}"),
        }
    };
    rate("plain")?;
    rate("wrapped")?;
    let (mut watched, mut wrapped) = (Ratios::default(), Ratios::default());
    let mut noise = Ratios::default();
    let mut first = rate("plain")?;
    for _ in 0..bench.rounds {
        let tracer = Tracer::watch(bench, &[bench.server.port()], &[])?;
        let with = rate("plain")?;
        tracer.finish()?;
        let second = rate("plain")?;
        watched.add(first, with, second);
        let with = rate("wrapped")?;
        let third = rate("plain")?;
        wrapped.add(second, with, third);
        noise.add(first, second, third);
        first = third;
    }
    watched.tell(table, "node-postgres checkouts, watched", Target::AtLeast(0.97));
    wrapped.tell(table, "node-postgres checkouts, in-process wrapper", Target::None);
    noise.tell(table, "node-postgres against itself", Target::None);
    Ok(())
}
