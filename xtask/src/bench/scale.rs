//! Many processes and many connections: the start, the memory, and that nothing is lost.
//!
//! May import its neighbours. The many connections are to a listener that welcomes and is silent:
//! a server would need a process for each.

use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use xtask::postgres;

use super::Bench;
use super::child::Talking;
use super::table::{Median, Table, Target, Unit};
use super::throughput::idle_client;
use super::tracer::{self, Finished, Resident, Tracer};

const PROCESSES: usize = 50;

/// Connections of one process; it has both ends, and few may open more than some thousand files.
const CONNECTIONS: usize = 1_000;
const FILES: usize = 4_096;

/// Processes with as many connections each.
const HOLDERS: usize = 10;

/// Adds its rows.
pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    start(bench, table)?;
    let (one, _) = connections(bench, 1)?;
    let name = "resident memory, 1,000 connections";
    table.add(name, one.all as f64, Unit::Mebibytes, Target::AtMost(f64::from(50 << 20)));
    table.add("  of it its own, not maps", one.own as f64, Unit::Mebibytes, Target::None);
    let (ten, finished) = connections(bench, HOLDERS)?;
    let wanted = HOLDERS * CONNECTIONS;
    let seen = finished.report["capture"]["connections_seen"].as_u64().unwrap_or(0);
    let live = finished.report["connections"].as_array().context("connections")?.len();
    ensure!(seen == wanted as u64, "{wanted} connections were opened and {seen} seen");
    ensure!(live == wanted, "{wanted} connections are live and {live} reported");
    finished.nothing_lost()?;
    let target = Target::AtLeast(wanted as f64);
    table.add("connections tracked, none lost", seen as f64, Unit::Count, target);
    let name = "resident memory, 10,000 connections";
    table.add(name, ten.all as f64, Unit::Mebibytes, Target::None);
    table.add("  of it its own, not maps", ten.own as f64, Unit::Mebibytes, Target::None);
    Ok(())
}

/// From the start of the process to its word that it watches.
fn start(bench: &Bench, table: &mut Table) -> Result<()> {
    let clients: Vec<Talking> =
        (0..PROCESSES).map(|_| idle_client(bench)).collect::<Result<_>>()?;
    let mut starts = Vec::new();
    for _ in 0..bench.rounds {
        bench.check()?;
        let tracer = Tracer::watch(bench, &[bench.server.port()], &[])?;
        starts.push(tracer.start.as_secs_f64());
        let found = &tracer.finish()?.report["capture"]["connections_found_at_start"];
        ensure!(found.as_u64() == Some(PROCESSES as u64), "of {PROCESSES} {found} were found");
    }
    drop(clients);
    let name = "start to watching, 50 processes";
    table.add(name, Median::of(starts), Unit::Seconds, Target::AtMost(1.0));
    Ok(())
}

/// Resident memory while so many processes hold their connections, and the report.
fn connections(bench: &Bench, holders: usize) -> Result<(Resident, Finished)> {
    bench.check()?;
    let ours = std::env::current_exe().context("finding our own executable")?;
    let ports: Vec<u16> = (0..holders).map(|_| postgres::free_port()).collect::<Result<_>>()?;
    let tracer = Tracer::watch(bench, &ports, &[])?;
    let mut clients = Vec::new();
    for port in &ports {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {FILES} && exec \"$@\""), "sh"]).arg(&ours);
        command.args(["bench", "load", "hold", &port.to_string(), &CONNECTIONS.to_string()]);
        clients.push(Talking::begin(&mut command)?);
    }
    for client in &mut clients {
        client.ready()?;
    }
    // By then every stack has been resolved, which is what needs memory.
    thread::sleep(tracer::THRESHOLD / 4);
    let resident = tracer.resident()?;
    Ok((resident, tracer.finish()?))
}
