//! `connleak probes`: what was recognised in a process or file, what can be probed, what cannot.
//!
//! May import `host`, `pools`, `recognise` and the report's words. Attaches nothing.

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
    model::{Pid, PoolSeen, Presence, Runtime},
    pools::{At, Catalogue, ProbeTable, inspect},
    recognise::{self, Facts},
    report::{inference, standing},
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
    runtime: Option<Runtime>,
    /// Indexes into `files`.
    files: Vec<usize>,
    /// Recognised by what the process has loaded or could load.
    pools: Vec<ProcessPool>,
}

#[derive(Serialize)]
struct ProcessPool {
    name: String,
    presence: Presence,
    how: Option<String>,
    note: Option<String>,
    inference: Option<String>,
    #[serde(skip)]
    standing: &'static str,
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
    inference: Option<String>,
    points: Vec<PointProbe>,
}

#[derive(Serialize)]
struct PointProbe {
    symbol: String,
    at: &'static str,
    file_offset: u64,
}

impl PoolProbes {
    /// The pool as a report would have it.
    fn seen(&self, catalogue: &Catalogue) -> PoolSeen {
        PoolSeen {
            name: self.name.clone(),
            observed: self.observed,
            note: self.note.clone(),
            presence: Presence::Loaded,
            how: None,
            pooler: false,
            behaviour: catalogue.pool(&self.name).and_then(|pool| pool.behaviour.clone()),
        }
    }
}

impl ProcessPool {
    fn of(seen: &PoolSeen) -> Self {
        Self {
            name: seen.name.clone(),
            presence: seen.presence,
            how: seen.how.clone(),
            note: seen.note.clone(),
            inference: inference(seen),
            standing: standing(seen),
        }
    }
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
        let mut runtime = None;
        for mapped in proc.mapped_files(Pid(pid)) {
            let shown = mapped.path.display().to_string();
            let known = probes.files.iter().position(|file| file.path == shown);
            let index = known.or_else(|| {
                probes.files.push(look(catalogue, &mapped.entry, &shown)?);
                Some(probes.files.len() - 1)
            });
            // The executable is mapped first.
            runtime = runtime.or(index.and_then(|index| probes.files[index].runtime));
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
        let (comm, exe) = (proc.comm(Pid(pid)), proc.exe(Pid(pid)));
        let runtime = proc.runtime(Pid(pid), runtime);
        let found: Vec<PoolSeen> = files
            .iter()
            .flat_map(|index| &probes.files[*index].pools)
            .map(|pool| pool.seen(catalogue))
            .collect();
        let facts = Facts {
            comm: comm.as_deref(),
            exe: exe.as_deref(),
            runtime,
            found: &found,
            scripts: None,
        };
        let mut seen = recognise::pools(catalogue, &proc, Pid(pid), &facts);
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        let pools: Vec<ProcessPool> = seen.iter().map(ProcessPool::of).collect();
        if !files.is_empty() || !pools.is_empty() {
            probes.processes.push(Process { pid, comm, exe, runtime, files, pools });
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
        inference: None,
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
    let mut pools: Vec<PoolProbes> = pools.collect();
    for pool in &mut pools {
        pool.inference = inference(&pool.seen(catalogue));
    }
    Some(FileProbes { path: shown.to_owned(), runtime: plan.runtime, pools })
}

fn text(probes: &Probes, asked: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for process in &probes.processes {
        let comm = process.comm.as_deref().unwrap_or("?");
        let exe = process.exe.as_deref().unwrap_or("unknown executable");
        writeln!(out, "process {} ({}) {}", process.pid, printable(comm), printable(exe))?;
        for file in process.files.iter().filter_map(|index| probes.files.get(*index)) {
            file_text(file, out)?;
        }
        for pool in &process.pools {
            writeln!(out, "  {}: {}", printable(&pool.name), pool.standing)?;
            for words in [&pool.how, &pool.note, &pool.inference].into_iter().flatten() {
                writeln!(out, "      {}", printable(words))?;
            }
        }
        if process.pools.is_empty() && process.files.iter().all(|at| probes.files[*at].is_bare()) {
            writeln!(
                out,
                "  No pool is recognised: nothing is assumed of how it opens and closes \
                 connections."
            )?;
        }
        writeln!(out)?;
    }
    if probes.processes.is_empty() {
        for file in &probes.files {
            file_text(file, out)?;
        }
    }
    let nothing = probes.files.iter().all(FileProbes::is_bare);
    if nothing && probes.processes.iter().all(|process| process.pools.is_empty()) {
        writeln!(
            out,
            "No pool or driver is recognised{}. Checkouts are then inferred from the wire.",
            if asked { "" } else { " in any process" }
        )?;
    }
    Ok(())
}

impl FileProbes {
    /// Nothing is recognised in it.
    fn is_bare(&self) -> bool {
        self.pools.is_empty()
    }
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
        for words in [&pool.note, &pool.inference].into_iter().flatten() {
            writeln!(out, "      {}", printable(words))?;
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
