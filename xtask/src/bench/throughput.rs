//! Throughput with and without the tracer, as ratios of neighbouring runs.
//!
//! May import its neighbours. Each is given twice: by the time on the wall, which anything else
//! that runs on the machine changes, and by processor time, which it changes little and which says
//! the same where the processors are what there is too little of. Invariant: the kernel's run-time
//! statistics are off, as they are where people work.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use xtask::postgres::free_port;
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

/// The usual select-only load, with every core busy.
fn select_only(bench: &Bench) -> Result<Command> {
    let mut pgbench = bench.server.client("pgbench")?;
    pgbench.envs(bench.server.environment());
    pgbench.args(["-n", "-S", "-M", "prepared", "-j", "2"]);
    pgbench.arg(format!("--client={SESSIONS}"));
    Ok(pgbench)
}

/// Transactions per second of that load.
pub fn pgbench(bench: &Bench) -> Result<f64> {
    let mut pgbench = select_only(bench)?;
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

/// How long a load that runs all the time is looked at, with and without the tracer in turns: shorter than most
/// of what else changes its throughput, and for the same reason there are that many looks in a round.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 4;

/// After which the start or the end of a tracer takes no part of the processors any more: the kernel frees its
/// maps when it has gone.
const SETTLED: Duration = Duration::from_secs(1);

/// One pgbench that runs all the time. Which sessions are on a processor together changes from start to start,
/// and its throughput with that by more than what is measured.
struct Running<'a> {
    bench: &'a Bench,
    child: Child,
    sessions: BTreeSet<u32>,
}

/// Sessions of [`select_only`].
const SESSIONS: usize = 8;

impl<'a> Running<'a> {
    fn start(bench: &'a Bench) -> Result<Self> {
        let before = processor::children(bench.server.pid())?;
        let mut command = select_only(bench)?;
        command.args(["-T", "1000000"]).stdout(Stdio::null());
        let child = command.spawn().context("cannot start pgbench")?;
        let mut running = Self { bench, child, sessions: BTreeSet::new() };
        until("pgbench's sessions begin", || {
            running.sessions = &processor::children(bench.server.pid())? - &before;
            Ok(running.sessions.len() == SESSIONS)
        })?;
        Ok(running)
    }

    /// Processor time so far, of client, server and tracer.
    fn used(&self, tracer: Option<&Tracer>) -> Result<Duration> {
        let mut sum = processor::used(self.child.id())?;
        for session in &self.sessions {
            sum += processor::used(*session)?;
        }
        Ok(sum + tracer.map(Tracer::used).transpose()?.unwrap_or_default())
    }

    fn rate(&mut self, tracer: Option<&Tracer>) -> Result<Rate> {
        self.bench.check()?;
        thread::sleep(SETTLED);
        let (used, sent, begin) = (self.used(tracer)?, data_segments()?, Instant::now());
        thread::sleep(LOOK);
        // One for the query and one for the answer.
        let transactions = (data_segments()? - sent) as f64 / 2.0;
        let (wall, spent) = (begin.elapsed(), self.used(tracer)?.saturating_sub(used));
        ensure!(self.child.try_wait()?.is_none(), "pgbench ended early");
        Ok(Rate {
            wall: transactions / wall.as_secs_f64(),
            processor: transactions / spent.as_secs_f64(),
        })
    }

    /// Its rate while a tracer watches that.
    fn watched(&mut self, condition: &Condition<'_>) -> Result<Rate> {
        let tracer = Tracer::watch(self.bench, &[condition.port], condition.more)?;
        let rate = self.rate(Some(&tracer))?;
        tracer.finish()?;
        Ok(rate)
    }

    /// Ends it, and waits until the server has noticed.
    fn end(mut self) -> Result<()> {
        let (bench, sessions) = (self.bench, std::mem::take(&mut self.sessions));
        drop(self);
        let have_ended = || Ok(processor::children(bench.server.pid())?.is_disjoint(&sessions));
        until("the server's sessions end", have_ended)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// TCP segments with data that this network namespace has sent, by which the transactions of a load on loopback
/// are counted at any moment, where pgbench tells them once a second. What else talks over TCP counts as well.
fn data_segments() -> Result<u64> {
    const PATH: &str = "/proc/net/netstat";
    let counters = fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    sent_with_data(&counters).with_context(|| format!("{PATH} has no TCPOrigDataSent"))
}

/// A line of names and one of values for each group (kernel `net/ipv4/proc.c`).
fn sent_with_data(counters: &str) -> Option<u64> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) =
        names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPOrigDataSent")?;
    value.parse().ok()
}

fn with_pgbench(bench: &Bench, table: &mut Table) -> Result<()> {
    let idle = idle_client(bench)?;
    let pid = idle.pid().to_string();
    let other = ["--pid", pid.as_str()];
    let port = bench.server.port();
    let mut conditions = [
        Condition::new("watched", port, &[], Target::AtLeast(0.94)),
        Condition::new("only another process watched", port, &other, Target::AtLeast(0.98)),
        // What the hooks take where the programs do nothing.
        Condition::new("only another port watched", free_port()?, &other, Target::None),
    ];
    let mut running = Running::start(bench)?;
    // Warms the caches of files and pages.
    running.rate(None)?;
    let mut without = vec![running.rate(None)?];
    for _ in 0..bench.rounds * LOOKS {
        for condition in &mut conditions {
            let with = running.watched(condition)?;
            let after = running.rate(None)?;
            condition.ratios.add(without[without.len() - 1], with, after);
            without.push(after);
        }
    }
    let mut noise = Ratios::default();
    for three in without.windows(3) {
        noise.add(three[0], three[1], three[2]);
    }
    running.end()?;
    for condition in conditions {
        condition.ratios.tell(table, &format!("pgbench, {}", condition.name), condition.target);
    }
    noise.tell(table, "pgbench against itself", Target::None);
    Ok(())
}

/// What is watched beside a load.
struct Condition<'a> {
    name: &'a str,
    port: u16,
    /// More arguments of the tracer.
    more: &'a [&'a str],
    target: Target,
    ratios: Ratios,
}

impl<'a> Condition<'a> {
    fn new(name: &'a str, port: u16, more: &'a [&'a str], target: Target) -> Self {
        Self { name, port, more, target, ratios: Ratios::default() }
    }
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

#[cfg(test)]
mod tests {
    use super::sent_with_data;

    #[test]
    fn a_counter_is_the_value_below_its_name() {
        let counters = "TcpExt: SyncookiesSent TCPOrigDataSent PFMemallocDrop\nTcpExt: 0 4711 2\n\
                        IpExt: InNoRoutes TCPOrigDataSent\nIpExt: 1 2\n";
        assert_eq!(sent_with_data(counters), Some(4711));
        assert_eq!(sent_with_data("TcpExt: SyncookiesSent\nTcpExt: 7\n"), None);
        assert_eq!(sent_with_data(""), None);
    }
}
