//! Nanoseconds per run of the eBPF programs, by what a system call was.
//!
//! May import its neighbours. A program does not say why it ran, so each number comes from a
//! client that does one kind of call a known number of times, beside which the rest of the
//! machine's calls are few. What the kernel's own counting costs each run is measured with calls
//! that the hook on system calls leaves after one comparison, and subtracted.

use anyhow::{Context as _, Result, ensure};
use std::os::unix::net::UnixListener;
use std::os::unix::process::parent_id;
use std::process::Command;
use std::thread;
use std::time::Instant;
use tempfile::TempDir;
use xtask::{clients, postgres};

use super::child::Talking;
use super::statistics::{Counting, Programs, Runs};
use super::table::{Median, Table, Target, Unit};
use super::tracer::Tracer;
use super::{Bench, throughput};

/// Calls of a kind in one measurement.
const CALLS: u64 = 200_000;

/// Checkouts that tell whether all probes are attached.
const TRIED: u64 = 10;

/// Checkouts of the Go client in one measurement.
const CHECKOUTS: u64 = 20_000;

/// What counting costs on the machine the targets were set on, in nanoseconds. Other machines are
/// slower or faster at all of this, so every target is also held as a multiple of what counting
/// costs in the same run.
const COUNTING_OF_TARGETS: f64 = 35.0;

/// Adds a measure in nanoseconds, and with a target the same as multiples of `counting`, which was
/// measured just before each.
pub fn add(table: &mut Table, name: &str, nanos: &[f64], counting: &[f64], most: Option<f64>) {
    let target = most.map_or(Target::None, Target::AtMost);
    table.add(name, Median::of(nanos.iter().copied()), Unit::Nanoseconds, target);
    if let Some(most) = most {
        let times = nanos.iter().zip(counting).map(|(nanos, counting)| nanos / counting);
        let most = Target::AtMost(most / COUNTING_OF_TARGETS);
        let name = format!("{name}, to counting");
        table.add(&name, Median::of(times), Unit::Times, most);
    }
}

/// Adds its rows.
pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let _counting = Counting::on()?;
    under_pgbench(bench, table)?;
    checkouts(bench, table)
}

/// The client of [`calls`] and its other end.
struct Calls {
    client: Talking,
    _server: Talking,
}

impl Calls {
    fn start(port: u16) -> Result<Self> {
        let ours = std::env::current_exe().context("finding our own executable")?;
        let load = |role: &str| {
            let mut command = Command::new(&ours);
            command.args(["bench", "load", role, &port.to_string()]);
            Talking::start(&mut command)
        };
        let server = load("answer")?;
        Ok(Self { client: load("call")?, _server: server })
    }

    /// Nanoseconds of the hooks for a call of a kind, without what counting costs.
    fn each(&mut self, tracer: &Tracer, kind: &str, counting: f64) -> Result<f64> {
        let before = tracer.programs()?;
        self.client.tell(&format!("{kind} {CALLS}"))?;
        let runs = hooks_since(tracer, &before)?;
        Ok((runs.nanos as f64 - runs.count as f64 * counting) / CALLS as f64)
    }

    /// Of a send or receive that is not watched, a receive, a send, and a send with a stack.
    fn kinds(&mut self, tracer: &Tracer, counting: f64) -> Result<[f64; 4]> {
        let mut each = |kind| self.each(tracer, kind, counting);
        let (unwatched, receive, send) = (each("unwatched")?, each("receive")?, each("send")?);
        // Each use is answered.
        Ok([unwatched, receive, send, each("use")? - receive])
    }
}

/// A tracer that watches system calls, because a server seems to listen on a Unix socket.
struct ByCalls {
    tracer: Tracer,
    port: u16,
    _listener: UnixListener,
    _dir: TempDir,
}

impl ByCalls {
    fn start(bench: &Bench) -> Result<Self> {
        let port = postgres::free_port()?;
        let dir = tempfile::tempdir()?;
        let listener = UnixListener::bind(dir.path().join(format!(".s.PGSQL.{port}")))?;
        let tracer = Tracer::watch(bench, &[port], &[])?;
        Ok(Self { tracer, port, _listener: listener, _dir: dir })
    }

    /// What the kernel's counting costs a run: the mean of calls that the program leaves at once.
    fn counting(&self) -> Result<f64> {
        let before = self.tracer.programs()?;
        for _ in 0..CALLS {
            std::hint::black_box(parent_id());
        }
        let runs = hooks_since(&self.tracer, &before)?;
        ensure!(runs.count >= CALLS, "{CALLS} calls were made and {} seen", runs.count);
        Ok(runs.mean())
    }
}

/// By what a system call was, and which hooks see it.
pub fn calls(bench: &Bench, table: &mut Table) -> Result<()> {
    let _counting = Counting::on()?;
    let by_calls = ByCalls::start(bench)?;
    let port = postgres::free_port()?;
    let tracer = Tracer::watch(bench, &[port], &[])?;
    let (mut called, mut moved) = (Calls::start(by_calls.port)?, Calls::start(port)?);
    let (mut countings, mut by_call, mut by_socket) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        bench.check()?;
        let counting = by_calls.counting()?;
        countings.push(counting);
        by_call.push(called.kinds(&by_calls.tracer, counting)?);
        by_socket.push(moved.kinds(&tracer, counting)?);
    }
    drop((called, moved));
    by_calls.tracer.finish()?.nothing_lost()?;
    tracer.finish()?.nothing_lost()?;
    let name = "what the kernel's counting costs, subtracted below";
    add(table, name, &countings, &countings, None);
    let rows = [
        ("send or receive, not watched", 100.0),
        ("receive, watched", 300.0),
        ("send, watched, no stack copy", 300.0),
        ("send, watched, with a stack copy", 1_000.0),
    ];
    for (hooks, measured) in [("", &by_socket), (", by system call", &by_call)] {
        for (kind, (name, most)) in rows.into_iter().enumerate() {
            let values: Vec<f64> = measured.iter().map(|kinds| kinds[kind]).collect();
            add(table, &format!("{name}{hooks}"), &values, &countings, Some(most));
        }
    }
    Ok(())
}

/// What the kernel's counting costs a run, measured in between with a tracer of its own.
pub fn counting(bench: &Bench) -> Result<f64> {
    let by_calls = ByCalls::start(bench)?;
    let counting = by_calls.counting()?;
    by_calls.tracer.finish()?;
    Ok(counting)
}

/// The runs of all programs on tracepoints.
pub fn hooks_since(tracer: &Tracer, before: &Programs) -> Result<Runs> {
    let (tracepoints, _) = tracer.programs()?.since(before);
    ensure!(!tracepoints.is_empty(), "no program on a tracepoint is loaded");
    Ok(tracepoints.into_iter().fold(Runs::default(), |sum, runs| Runs {
        count: sum.count + runs.count,
        nanos: sum.nanos + runs.nanos,
    }))
}

/// The hooks in a real mix: caches are cold, and the kinds mixed. Their mean, and its share
/// of the time of all cores, all of which are busy.
fn under_pgbench(bench: &Bench, table: &mut Table) -> Result<()> {
    let idle = throughput::idle_client(bench)?;
    let others = ["--pid".to_owned(), idle.pid().to_string()];
    let others = others.each_ref().map(String::as_str);
    let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
    for (pgbench, more) in [("which is not watched", &others[..]), ("which is watched", &[])] {
        let tracer = Tracer::watch(bench, &[bench.server.port()], more)?;
        let (mut means, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            bench.check()?;
            let counting = counting(bench)?;
            let (before, begin) = (tracer.programs()?, Instant::now());
            throughput::pgbench(bench)?;
            let time = begin.elapsed().as_nanos() as f64 * cores;
            let runs = hooks_since(&tracer, &before)?;
            means.push(runs.mean() - counting);
            shares.push((runs.mean() - counting) * runs.count as f64 / time);
        }
        let name = format!("any run of a hook under pgbench, {pgbench}");
        table.add(&name, Median::of(means), Unit::Nanoseconds, Target::None);
        let name = format!("share of the processors' time, pgbench {pgbench}");
        table.add(&name, Median::of(shares), Unit::Percent, Target::None);
        for line in tracer.finish()?.said.lines().filter(|line| line.contains("program ")) {
            println!("bench: {line}");
        }
    }
    Ok(())
}

/// Acquire and release as the pool probes of Go's `database/sql` see them.
fn checkouts(bench: &Bench, table: &mut Table) -> Result<()> {
    let tracer = Tracer::watch(bench, &[bench.server.port()], &[])?;
    let mut command = Command::new(clients::go_dir().join("client"));
    command.envs(bench.server.environment());
    let mut client = Talking::start(&mut command)?;
    // The first checkout connects, and with that the process is looked at.
    client.tell("healthy conn 1")?;
    super::until("connleak probes acquire and release of the Go client", || {
        let before = tracer.programs()?;
        client.tell(&format!("hammer 1 {TRIED} conn"))?;
        let (_, uprobes) = tracer.programs()?.since(&before);
        Ok(uprobes.iter().filter(|runs| runs.count >= TRIED).count() >= 2)
    })?;
    let (mut pairs, mut countings) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        bench.check()?;
        let counting = counting(bench)?;
        let before = tracer.programs()?;
        client.tell(&format!("hammer 1 {CHECKOUTS} conn"))?;
        let (_, uprobes) = tracer.programs()?.since(&before);
        let seen = uprobes.iter().map(|runs| runs.count).max().unwrap_or(0);
        ensure!(seen >= CHECKOUTS, "{CHECKOUTS} checkouts were made and {seen} seen");
        let net = uprobes.iter().map(|runs| runs.nanos as f64 - counting * runs.count as f64);
        pairs.push(net.sum::<f64>() / CHECKOUTS as f64);
        countings.push(counting);
    }
    drop(client);
    tracer.finish()?;
    add(table, "acquire and release, Go database/sql", &pairs, &countings, Some(2_000.0));
    Ok(())
}
