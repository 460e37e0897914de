//! The programs that processes run: what of their pools can be probed, and probing it.
//!
//! May import `binary`, `host`, `loader`, `pools`, `recognise`, `symbolize`'s file mapping and the
//! model's types.
//! Invariants: a file is inspected and probed once, by identity of the file, for all processes
//! that map it (a uprobe belongs to an inode); a file that cannot be read or probed is a note that
//! names it, never an error.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use tracer_ebpf::{
    mark::{NO_POOL, POOLS},
    probe::ProbeSpec,
};

use crate::{
    binary::FileId,
    host::proc::ProcFs,
    ingest::decode::PoolName,
    loader::Kernel,
    model::{Pid, PoolSeen, Presence, Runtime},
    pools::{BinaryPlan, Catalogue, CatalogueError, Pool, PoolFound, ProbeTable, inspect},
    recognise::{self, Facts},
    symbolize::map_file,
};

/// Files remembered; beyond, inspection starts over.
const MAX_FILES: usize = 16_384;

/// What became of one probe point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStatus {
    /// Function in the file.
    pub symbol: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// An inspected file.
#[derive(Clone, Debug)]
struct Inspected {
    runtime: Option<Runtime>,
    goid: Option<u32>,
    pools: Vec<PoolSeen>,
}

/// How often the scripts of a process are looked for.
const MAX_SCRIPT_LOOKS: u32 = 4;

/// The files and processes looked at.
pub struct Programs {
    catalogue: Catalogue,
    table: ProbeTable,
    /// Entries of `table` that the kernel side has.
    known_specs: usize,
    files: HashMap<FileId, Inspected>,
    runtimes: HashMap<u32, Runtime>,
    /// By process, where a goroutine's record has its number.
    goids: HashMap<u32, u32>,
    /// By process, the paths of scripts that its runtime has loaded, and how often they were
    /// looked for.
    scripts: HashMap<u32, (u32, BTreeSet<String>)>,
    notes: Vec<String>,
}

impl Programs {
    /// Nothing looked at yet.
    ///
    /// # Errors
    ///
    /// When the catalogue has more probes than there are probe programs.
    pub fn new(catalogue: Catalogue) -> Result<Self, CatalogueError> {
        let table = ProbeTable::new(&catalogue)?;
        Ok(Self {
            known_specs: table.specs().len(),
            table,
            catalogue,
            files: HashMap::new(),
            runtimes: HashMap::new(),
            goids: HashMap::new(),
            scripts: HashMap::new(),
            notes: Vec::new(),
        })
    }

    /// What the probe programs do, by program.
    #[must_use]
    pub fn specs(&self) -> &[ProbeSpec] {
        self.table.specs()
    }

    /// The pools, as connections refer to them.
    #[must_use]
    pub fn pool_names(&self) -> Vec<PoolName> {
        let pools = self.catalogue.pools().iter();
        let name = |pool: &Pool| PoolName {
            name: pool.name.clone(),
            is_pool: pool.is_pool,
            joins_by_key: pool.joins_by_key(),
            sizes: pool.sizes.clone(),
        };
        pools.map(name).collect()
    }

    /// The pools that marks are about, as connections refer to them, by the byte that tells them.
    #[must_use]
    pub fn marked_pools(&self) -> [u32; POOLS] {
        std::array::from_fn(|byte| {
            let is_told = |pool: &Pool| pool.marked.as_ref().is_some_and(|it| it.place() == byte);
            let pool = self.catalogue.pools().iter().position(is_told);
            pool.and_then(|index| u32::try_from(index).ok()).unwrap_or(NO_POOL)
        })
    }

    /// What could not be inspected or probed, in words.
    pub fn notes(&self) -> impl Iterator<Item = String> + '_ {
        self.notes.iter().cloned()
    }

    /// The runtime of a process, when its executable tells.
    #[must_use]
    pub fn runtime(&self, pid: u32) -> Option<Runtime> {
        self.runtimes.get(&pid).copied()
    }

    /// Offset of a goroutine's number in its record, where the executable's version of Go is known.
    #[must_use]
    pub fn goid(&self, pid: u32) -> Option<u32> {
        self.goids.get(&pid).copied()
    }

    /// Whether one of these pools needs larger copies of stacks from the beginning.
    #[must_use]
    pub fn have_deep_stacks(&self, pools: &[PoolSeen]) -> bool {
        let mut known = pools.iter().filter_map(|pool| self.catalogue.pool(&pool.name));
        known.any(Pool::has_deep_stacks)
    }

    /// Forgets a process that ended.
    pub fn forget(&mut self, pid: u32) {
        self.runtimes.remove(&pid);
        self.goids.remove(&pid);
        self.scripts.remove(&pid);
    }

    /// Whether the scripts of a process are known.
    pub fn knows_scripts(&self, pid: u32) -> bool {
        self.scripts.contains_key(&pid)
    }

    /// Whether they are, and are to be looked for again: it takes a while, and programs load what
    /// they load soon.
    pub fn refreshes_scripts(&self, pid: u32) -> bool {
        self.scripts.get(&pid).is_some_and(|(looks, _)| *looks < MAX_SCRIPT_LOOKS)
    }

    /// Takes note of the scripts that a process has loaded.
    pub fn set_scripts(&mut self, pid: u32, scripts: BTreeSet<String>) {
        let looks = self.scripts.get(&pid).map_or(0, |(looks, _)| *looks);
        self.scripts.insert(pid, (looks + 1, scripts));
    }

    /// Inspects and probes a process's executable; returns the pools found in it.
    pub fn look_at_executable(
        &mut self,
        pid: u32,
        proc: &ProcFs,
        kernel: &mut Kernel,
    ) -> Vec<PoolSeen> {
        let path = proc.dir(Pid(pid)).join("exe");
        let shown = proc.exe(Pid(pid)).unwrap_or_else(|| path.display().to_string());
        if let Some(inspected) = self.file(&path, &shown, kernel) {
            match inspected.runtime {
                Some(runtime) => self.runtimes.insert(pid, runtime),
                None => self.runtimes.remove(&pid),
            };
            match inspected.goid {
                Some(goid) => self.goids.insert(pid, goid),
                None => self.goids.remove(&pid),
            };
            return inspected.pools;
        }
        Vec::new()
    }

    /// Whether the process loads something that marks checkouts, as far as its arguments and environment
    /// tell.
    #[must_use]
    pub fn marks(&self, pid: u32, proc: &ProcFs) -> bool {
        let by = self.catalogue.pools().iter().filter_map(|pool| pool.marked.as_ref());
        let files: BTreeSet<&str> = by.map(|marked| marked.by.as_str()).collect();
        recognise::loads_any(&files, proc, Pid(pid))
    }

    /// Inspects and probes everything a process has mapped; returns the pools found in it.
    pub fn look_at_process(
        &mut self,
        pid: u32,
        proc: &ProcFs,
        kernel: &mut Kernel,
    ) -> Vec<PoolSeen> {
        let mut found = self.look_at_executable(pid, proc, kernel);
        for mapped in proc.mapped_files(Pid(pid)) {
            let shown = mapped.path.display().to_string();
            // Where the kernel does not let `map_files` be followed, the path in the process's own
            // root names the same file.
            let inside = mapped.path.strip_prefix("/").unwrap_or(&mapped.path);
            let root = proc.dir(Pid(pid)).join("root").join(inside);
            let path = if mapped.entry.exists() { &mapped.entry } else { &root };
            if let Some(inspected) = self.file(path, &shown, kernel) {
                for pool in inspected.pools {
                    if !found.iter().any(|known| known.name == pool.name) {
                        found.push(pool);
                    }
                }
            }
        }
        let (comm, exe) = (proc.comm(Pid(pid)), proc.exe(Pid(pid)));
        let facts = Facts {
            comm: comm.as_deref(),
            exe: exe.as_deref(),
            runtime: proc.runtime(Pid(pid), self.runtime(pid)),
            found: &found,
            scripts: self.scripts.get(&pid).map(|(_, paths)| paths),
        };
        let more = recognise::pools(&self.catalogue, proc, Pid(pid), &facts);
        found.extend(more);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn file(&mut self, path: &Path, shown: &str, kernel: &mut Kernel) -> Option<Inspected> {
        let file = File::open(path).ok()?;
        let key = FileId::of(&file.metadata().ok()?)?;
        if let Some(inspected) = self.files.get(&key) {
            return Some(inspected.clone());
        }
        // What is no ELF file (a script's interpreter has one, a data file is none) has no plan.
        let plan = map_file(&file)
            .and_then(|bytes| inspect(&bytes, &self.catalogue, &mut self.table).ok())
            .unwrap_or_default();
        // By our own descriptor: the process, and with it its links, may be gone meanwhile.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let inspected = self.probe(plan, &opened, shown, kernel);
        if self.files.len() >= MAX_FILES {
            self.files.clear();
        }
        self.files.insert(key, inspected.clone());
        Some(inspected)
    }

    /// Attaches the points of a plan; a pool counts as observed when all its points are attached.
    fn probe(
        &mut self,
        plan: BinaryPlan,
        path: &Path,
        shown: &str,
        kernel: &mut Kernel,
    ) -> Inspected {
        for (index, spec) in self.table.specs().iter().enumerate().skip(self.known_specs) {
            if let Err(error) = kernel.set_probe(index, *spec) {
                self.notes.push(format!("{shown}: {error}"));
            }
        }
        self.known_specs = self.table.specs().len();
        let mut pools = Vec::new();
        for pool in plan.pools {
            let statuses = attach(&pool, path, kernel);
            let failed = statuses.iter().find_map(|status| {
                let error = status.error.as_ref()?;
                Some(format!("{} is not probed: {error}", status.symbol))
            });
            if let Some(failed) = &failed {
                self.notes.push(format!("{shown}: {failed}"));
            }
            pools.push(PoolSeen {
                name: pool.name,
                observed: pool.observed && failed.is_none(),
                note: failed.or(pool.note),
                presence: Presence::Loaded,
                how: None,
                pooler: false,
                behaviour: self.catalogue.pools().get(pool.pool).and_then(|p| p.behaviour.clone()),
            });
        }
        Inspected { runtime: plan.runtime, goid: plan.goid, pools }
    }
}

fn attach(pool: &PoolFound, path: &Path, kernel: &mut Kernel) -> Vec<ProbeStatus> {
    let points = pool.points.iter().map(|point| ProbeStatus {
        symbol: point.symbol.clone(),
        offset: point.file_offset,
        error: kernel
            .attach_probe(point.probe, path, point.file_offset)
            .err()
            .map(|error| error.to_string()),
    });
    points.collect()
}
