//! `connleak probes`: what was recognised in a process or file, what can be probed, what cannot.
//!
//! May import `host` and `pools`. Attaches nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::{
    EXIT_NOTHING,
    args::{Format, ProbesArgs},
    output::printable,
};
use crate::{
    host::proc::ProcFs,
    model::{Pid, Runtime},
    pools::{At, Catalogue, ProbeTable, inspect},
    symbolize::map_file,
};

/// Schema of the JSON form.
const SCHEMA: &str = "connleak.probes/1";

#[derive(Serialize)]
struct Probes {
    schema: &'static str,
    processes: Vec<Process>,
    files: Vec<FileProbes>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    comm: Option<String>,
    exe: Option<String>,
    /// Indexes into `files`.
    files: Vec<usize>,
}

#[derive(Serialize)]
struct FileProbes {
    path: String,
    runtime: Option<Runtime>,
    pools: Vec<PoolProbes>,
}

#[derive(Serialize)]
struct PoolProbes {
    name: String,
    observed: bool,
    note: Option<String>,
    points: Vec<PointProbe>,
}

#[derive(Serialize)]
struct PointProbe {
    symbol: String,
    at: &'static str,
    file_offset: u64,
}

/// Runs it.
///
/// # Errors
///
/// When there is no such process or file, or the output cannot be written.
pub fn run(args: &ProbesArgs) -> anyhow::Result<u8> {
    let catalogue = Catalogue::with_files(&args.pool)?;
    let mut probes = Probes { schema: SCHEMA, processes: Vec::new(), files: Vec::new() };
    if let Some(path) = &args.file {
        let shown = path.display().to_string();
        let file = look(&catalogue, path, &shown)
            .with_context(|| format!("cannot read {shown} as an executable or library"))?;
        probes.files.push(file);
    } else {
        processes(args, &catalogue, &mut probes)?;
    }
    let mut out = stdout().lock();
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &probes)?;
            writeln!(out)?;
        }
        Format::Text => text(&probes, args.pid.is_some() || args.file.is_some(), &mut out)?,
    }
    out.flush()?;
    Ok(EXIT_NOTHING)
}

fn processes(args: &ProbesArgs, catalogue: &Catalogue, probes: &mut Probes) -> anyhow::Result<()> {
    let proc = ProcFs::at("/proc");
    let all = proc.pids().context("cannot read /proc")?;
    let pids: BTreeSet<u32> = match args.pid {
        Some(pid) if all.iter().any(|known| known.0 == pid) => BTreeSet::from([pid]),
        Some(pid) => bail!("there is no process {pid}: check the pid"),
        None => all.into_iter().map(|pid| pid.0).collect(),
    };
    for pid in pids {
        let mut files = Vec::new();
        for mapped in proc.mapped_files(Pid(pid)) {
            let shown = mapped.path.display().to_string();
            let known = probes.files.iter().position(|file| file.path == shown);
            let index = known.or_else(|| {
                probes.files.push(look(catalogue, &mapped.entry, &shown)?);
                Some(probes.files.len() - 1)
            });
            if let Some(index) = index
                && !files.contains(&index)
                && (!probes.files[index].pools.is_empty() || args.pid.is_some())
            {
                files.push(index);
            }
        }
        if args.pid.is_some() && files.is_empty() && proc.mapped_files(Pid(pid)).is_empty() {
            bail!(
                "cannot read what process {pid} has mapped: run connleak with sudo (a kernel \
                 thread has nothing mapped)"
            );
        }
        if !files.is_empty() {
            let (comm, exe) = (proc.comm(Pid(pid)), proc.exe(Pid(pid)));
            probes.processes.push(Process { pid, comm, exe, files });
        }
    }
    Ok(())
}

fn look(catalogue: &Catalogue, path: &Path, shown: &str) -> Option<FileProbes> {
    let bytes = map_file(&File::open(path).ok()?)?;
    let plan = inspect(&bytes, catalogue, &mut ProbeTable::new(catalogue).ok()?).ok()?;
    let pools = plan.pools.into_iter().map(|pool| PoolProbes {
        name: pool.name,
        observed: pool.observed,
        note: pool.note,
        points: pool
            .points
            .into_iter()
            .map(|point| PointProbe {
                symbol: point.symbol,
                at: match point.at {
                    At::Entry => "entry",
                    At::Returns => "return",
                },
                file_offset: point.file_offset,
            })
            .collect(),
    });
    Some(FileProbes { path: shown.to_owned(), runtime: plan.runtime, pools: pools.collect() })
}

fn text(probes: &Probes, asked: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for process in &probes.processes {
        let comm = process.comm.as_deref().unwrap_or("?");
        let exe = process.exe.as_deref().unwrap_or("unknown executable");
        writeln!(out, "process {} ({}) {}", process.pid, printable(comm), printable(exe))?;
        for file in process.files.iter().filter_map(|index| probes.files.get(*index)) {
            file_text(file, out)?;
        }
        writeln!(out)?;
    }
    if probes.processes.is_empty() {
        for file in &probes.files {
            file_text(file, out)?;
        }
    }
    if probes.files.iter().all(|file| file.pools.is_empty()) {
        writeln!(
            out,
            "No pool or driver that can be probed{}. Checkouts are then inferred from the wire:\n\
             Node.js, Python and Java pools have no native function to attach to.",
            if asked { "" } else { " in any process" }
        )?;
    }
    Ok(())
}

fn file_text(file: &FileProbes, out: &mut dyn Write) -> anyhow::Result<()> {
    if file.pools.is_empty() {
        return Ok(());
    }
    writeln!(out, "  {}", printable(&file.path))?;
    for pool in &file.pools {
        let how =
            if pool.observed { "checkouts are observed" } else { "checkouts are not observed" };
        writeln!(out, "    {}: {how}", pool.name)?;
        if let Some(note) = &pool.note {
            writeln!(out, "      {}", printable(note))?;
        }
        for point in &pool.points {
            writeln!(
                out,
                "      {:<6} {:#010x}  {}",
                point.at,
                point.file_offset,
                printable(&point.symbol)
            )?;
        }
    }
    Ok(())
}
