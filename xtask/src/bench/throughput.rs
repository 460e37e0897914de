//! Throughput with and without the tracer, as ratios of neighbouring runs.
//!
//! May import its neighbours. Invariant: the kernel's run-time statistics are off, as they are
//! where people work.

use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::{clients, sh, workspace};

use super::Bench;
use super::child::Talking;
use super::table::{Median, Table, Target, Unit};
use super::tracer::Tracer;

/// Adds its rows.
pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    with_pgbench(bench, table)?;
    with_node(bench, table)
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

fn with_pgbench(bench: &Bench, table: &mut Table) -> Result<()> {
    let ports = [bench.server.port()];
    let idle = idle_client(bench)?.pid().to_string();
    let run = |more: Option<&[&str]>| -> Result<f64> {
        bench.check()?;
        let Some(more) = more else { return pgbench(bench) };
        let tracer = Tracer::watch(bench, &ports, more)?;
        let tps = pgbench(bench)?;
        tracer.finish()?;
        Ok(tps)
    };
    // Warms the caches of files and pages.
    pgbench(bench)?;
    let (mut watched, mut others, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = run(None)?;
    for _ in 0..bench.rounds {
        // Each between two runs without, so that a drift of the machine cancels out.
        let with = run(Some(&[]))?;
        let between = run(None)?;
        watched.push(2.0 * with / (before + between));
        let with = run(Some(&["--pid", &idle]))?;
        let after = run(None)?;
        others.push(2.0 * with / (between + after));
        alone.push(after / between);
        before = after;
    }
    let watched = Median::of(watched);
    table.add("pgbench, watched", watched, Unit::Percent, Target::AtLeast(0.94));
    let name = "pgbench, only another process watched";
    table.add(name, Median::of(others), Unit::Percent, Target::AtLeast(0.98));
    table.add("pgbench against itself (noise)", Median::of(alone), Unit::Percent, Target::None);
    Ok(())
}

fn with_node(bench: &Bench, table: &mut Table) -> Result<()> {
    let mut node = Command::new("node");
    node.arg(workspace::root().join("xtask/src/bench/checkouts.js"));
    node.env("NODE_PATH", clients::node_modules()).envs(bench.server.environment());
    let mut node = Talking::start(&mut node)?;
    let mut rate = |kind: &str| -> Result<f64> {
        bench.check()?;
        let said = node.ask(&format!("{kind} {}", bench.seconds))?;
        said.parse().with_context(|| format!("the Node client said: {said}"))
    };
    rate("plain")?;
    rate("wrapped")?;
    let (mut watched, mut wrapped, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = rate("plain")?;
    for _ in 0..bench.rounds {
        let tracer = Tracer::watch(bench, &[bench.server.port()], &[])?;
        let with = rate("plain")?;
        tracer.finish()?;
        let between = rate("plain")?;
        watched.push(2.0 * with / (before + between));
        let with = rate("wrapped")?;
        let after = rate("plain")?;
        wrapped.push(2.0 * with / (between + after));
        alone.push(after / between);
        before = after;
    }
    let watched = Median::of(watched);
    table.add("node-postgres checkouts, watched", watched, Unit::Percent, Target::AtLeast(0.97));
    let name = "node-postgres checkouts, in-process wrapper";
    table.add(name, Median::of(wrapped), Unit::Percent, Target::None);
    let name = "node-postgres against itself (noise)";
    table.add(name, Median::of(alone), Unit::Percent, Target::None);
    Ok(())
}
