//! What a file's own tables say about runtimes, pools and the places to probe.
//!
//! May import [`binary`](crate::binary) and the catalogue. Invariants: a probe's place is a file
//! offset, as the kernel wants it; every copy of a function is listed; the function is total, for
//! files that belong to traced processes may be hostile.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use tracer_ebpf::{limits::MAX_PROBES, probe::ProbeSpec};

use super::catalogue::{Action, At, Catalogue, CatalogueError, Names, Pool, Probe, set_chains};
use crate::{
    binary::{
        elf::{Elf, ElfError},
        go,
        pclntab::{GoTable, Version},
        rets, runtimes, rust_names,
    },
    model::Runtime,
};

/// Copies of one function that are probed; more are refused, for each costs an attachment.
const MAX_COPIES: usize = 64;

/// Of a Rust program without symbols.
const STRIPPED: &str = "symbols stripped: pool recognised by panic paths; checkouts are inferred";
/// Of a Rust program that lacks functions which its source has.
const INLINED: &str = "inlined by the compiler, as link-time optimisation does; checkouts are \
                       inferred";

/// The crate of a plain path.
fn crate_of(path: &str) -> &str {
    let path = path.strip_prefix("drop_in_place").unwrap_or(path);
    let path = path.strip_prefix('<').unwrap_or(path);
    path.split("::").next().unwrap_or(path)
}

/// The probe programs' specifications: entry `n` is for program `n`.
///
/// Equal probes share an entry, whatever function or file they are attached in.
#[derive(Clone, Debug)]
pub struct ProbeTable {
    specs: Vec<ProbeSpec>,
}

impl ProbeTable {
    /// The entries that the catalogue alone gives; those that depend on a file are added by
    /// [`inspect`].
    ///
    /// # Errors
    /// When the catalogue has more different probes than there are probe programs.
    pub fn new(catalogue: &Catalogue) -> Result<Self, CatalogueError> {
        let mut table = Self { specs: Vec::new() };
        for pool in catalogue.pools() {
            for probe in pool.probes.iter().filter(|probe| probe.accessor.is_none()) {
                table.entry(probe.spec).ok_or_else(|| CatalogueError::Content {
                    file: pool.name.clone(),
                    problem: format!(
                        "with its probes the catalogue has more than {MAX_PROBES} different ones"
                    ),
                })?;
            }
        }
        Ok(table)
    }

    /// The specifications so far; at most [`MAX_PROBES`]. Grows only at the end.
    #[must_use]
    pub fn specs(&self) -> &[ProbeSpec] {
        &self.specs
    }

    /// The entry for `spec`, made when there is none and room for one.
    fn entry(&mut self, spec: ProbeSpec) -> Option<usize> {
        if let Some(index) = self.specs.iter().position(|known| *known == spec) {
            return Some(index);
        }
        if self.specs.len() == MAX_PROBES {
            return None;
        }
        self.specs.push(spec);
        Some(self.specs.len() - 1)
    }
}

/// A place to attach a probe program at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Entry of the [`ProbeTable`] and number of the probe program.
    pub probe: usize,
    /// Function, for messages.
    pub symbol: String,
    pub file_offset: u64,
    pub at: At,
}

/// A pool recognised in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFound {
    /// Index in [`Catalogue::pools`].
    pub pool: usize,
    pub name: String,
    pub is_pool: bool,
    /// Every acquire and release passes one of `points`.
    pub observed: bool,
    /// Why not, in words.
    pub note: Option<String>,
    pub points: Vec<Point>,
}

/// What a file is and what can be probed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinaryPlan {
    /// The runtime that this file itself is; `None` says nothing about the process.
    pub runtime: Option<Runtime>,
    /// Offset of a goroutine's number in its record; `None` where it is no Go, or the version is not
    /// known.
    pub goid: Option<u32>,
    pub pools: Vec<PoolFound>,
}

/// Looks into the executable or library `data`. Entries may be added to `table`: write them to the
/// kernel side before attaching.
///
/// # Errors
/// When `data` is no x86-64 ELF file.
pub fn inspect(
    data: &[u8],
    catalogue: &Catalogue,
    table: &mut ProbeTable,
) -> Result<BinaryPlan, ElfError> {
    let elf = Elf::parse(data)?;
    let table_of_go = GoTable::parse(data).ok();
    let layout = table_of_go.as_ref().and_then(|_| go::layout(&elf));
    let goid = layout.and_then(|layout| u32::try_from(layout.goid).ok());
    let file = File::read(elf, table_of_go, catalogue);
    let mut plan = BinaryPlan { runtime: file.runtime, goid, pools: Vec::new() };
    for (index, pool) in catalogue.pools().iter().enumerate() {
        if file.has(pool) {
            plan.pools.push(file.plan(index, pool, table));
        }
    }
    Ok(plan)
}

/// A function's place: address and end.
type Range = (u64, u64);

struct File<'a> {
    elf: Elf<'a>,
    go: Option<GoTable<&'a [u8]>>,
    runtime: Option<Runtime>,
    /// The functions that the catalogue names.
    functions: BTreeMap<&'a str, BTreeSet<Range>>,
    /// Some function has a name in the symbol tables.
    has_symbols: bool,
}

impl<'a> File<'a> {
    fn read(elf: Elf<'a>, go: Option<GoTable<&'a [u8]>>, catalogue: &'a Catalogue) -> Self {
        let mut wanted = BTreeSet::new();
        let mut wanted_of_rust = BTreeSet::new();
        for pool in catalogue.pools() {
            let recognise = &pool.recognise;
            wanted.extend(recognise.any_function.iter().chain(&recognise.all_functions));
            let functions = pool.probes.iter().map(|probe| &probe.function);
            match pool.names {
                Names::Exact => wanted.extend(functions),
                Names::Rust => wanted_of_rust.extend(functions),
            }
            wanted.extend(pool.probes.iter().filter_map(|probe| probe.accessor.as_ref()));
        }
        let wanted: BTreeSet<&str> = wanted.into_iter().map(String::as_str).collect();
        let wanted_of_rust: BTreeSet<&str> =
            wanted_of_rust.into_iter().map(String::as_str).collect();
        let crates: BTreeSet<&str> = wanted_of_rust.iter().map(|path| crate_of(path)).collect();
        let mut has_symbols = false;
        let mut functions = BTreeMap::<_, BTreeSet<_>>::new();
        for function in go.iter().flat_map(GoTable::functions) {
            if let Some(&name) = wanted.get(&*function.name) {
                functions.entry(name).or_default().insert((function.start, function.end));
            }
        }
        // The symbol table's sizes leave out the padding: the Go table goes first, and alone.
        let by_go: BTreeSet<_> = functions.keys().copied().collect();
        for symbol in elf.functions() {
            let Ok(name) = str::from_utf8(symbol.name) else { continue };
            has_symbols = true;
            let end = symbol.vaddr.saturating_add(symbol.size);
            if let Some(&name) = wanted.get(name)
                && !by_go.contains(name)
            {
                functions.entry(name).or_default().insert((symbol.vaddr, end));
            }
            // Demangling costs something, and programs have tens of thousands of functions.
            if crates.iter().any(|of| name.contains(of))
                && let Some(path) = rust_names::plain_path(name)
                && let Some(&path) = wanted_of_rust.get(&*path)
            {
                functions.entry(path).or_default().insert((symbol.vaddr, end));
            }
        }
        let runtime = go.as_ref().map(|_| Runtime::Go).or_else(|| {
            elf.exported_functions().find_map(|symbol| runtimes::of_function(symbol.name))
        });
        Self { elf, go, runtime, functions, has_symbols }
    }

    fn defines(&self, function: &str) -> bool {
        self.functions.contains_key(function)
    }

    fn has(&self, pool: &Pool) -> bool {
        let recognise = &pool.recognise;
        if !recognise.is_of_code() {
            return false;
        }
        if recognise.runtime.is_some() && recognise.runtime != self.runtime {
            return false;
        }
        let any = &recognise.any_function;
        (any.is_empty() || any.iter().any(|name| self.defines(name)))
            && recognise.all_functions.iter().all(|name| self.defines(name))
            && recognise.text.as_ref().is_none_or(|text| self.mentions(text))
    }

    /// Whether the read-only data of a native executable has `text`.
    fn mentions(&self, text: &str) -> bool {
        let section = || {
            let section = self.elf.section(".rodata")?;
            let start = usize::try_from(section.offset).ok()?;
            let end = start.checked_add(usize::try_from(section.size).ok()?)?;
            self.elf.data().get(start..end)
        };
        self.runtime.is_none()
            && section().is_some_and(|data| memmem::find(data, text.as_bytes()).is_some())
    }

    fn plan(&self, index: usize, pool: &Pool, table: &mut ProbeTable) -> PoolFound {
        let mut notes = Vec::new();
        let mut points = Vec::new();
        if pool.names == Names::Rust && !self.has_symbols {
            return PoolFound {
                pool: index,
                name: pool.name.clone(),
                is_pool: pool.is_pool,
                observed: false,
                note: Some(STRIPPED.to_owned()),
                points,
            };
        }
        if pool.probes.is_empty() {
            let why = pool.unobserved.as_deref();
            let why = why.unwrap_or("recognised, but it has no functions that can be probed");
            notes.push(why.to_owned());
        }
        if self.go.as_ref().is_some_and(|go| go.version() == Version::Go116) {
            notes.push("Go before 1.18 may pass arguments on the stack".to_owned());
        }
        for probe in &pool.probes {
            match self.points(probe, table) {
                Ok(found) => points.extend(found),
                Err(note) => notes.push(note),
            }
        }
        if pool.is_pool && !self.has_release(pool) {
            notes.push("no function that gives a connection back is in the file".to_owned());
        }
        if pool.names == Names::Rust && self.lacks_functions(pool) {
            notes.push(INLINED.to_owned());
        }
        notes.extend(self.escapes(pool));
        // Acquires without their releases would be leaks that are none.
        if !notes.is_empty() && pool.is_pool {
            points.clear();
        }
        let mut seen = BTreeSet::new();
        points.retain(|point: &Point| seen.insert((point.probe, point.file_offset)));
        PoolFound {
            pool: index,
            name: pool.name.clone(),
            is_pool: pool.is_pool,
            observed: pool.is_pool && notes.is_empty(),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            points,
        }
    }

    /// Some function is in the file that gives connections back, where such are known.
    fn has_release(&self, pool: &Pool) -> bool {
        let releases = pool.probes.iter().filter(|probe| probe.action == Action::Release);
        let mut defined = releases.map(|probe| self.defines(&probe.function));
        pool.probes.is_empty() || defined.any(|defined| defined)
    }

    /// A function without which a pool cannot be observed is not in the file.
    fn lacks_functions(&self, pool: &Pool) -> bool {
        let mut required = pool.probes.iter().filter(|probe| !probe.optional);
        required.any(|probe| !self.defines(&probe.function)) || !self.has_release(pool)
    }

    /// The places of a probe, or why it has none.
    fn points(&self, probe: &Probe, table: &mut ProbeTable) -> Result<Vec<Point>, String> {
        let name = &*probe.function;
        let Some(ranges) = self.functions.get(name) else {
            return if probe.optional {
                Ok(Vec::new())
            } else {
                Err(format!("{name} is not in the file"))
            };
        };
        if ranges.len() > MAX_COPIES {
            return Err(format!("{name} has {} copies", ranges.len()));
        }
        let mut spec = probe.spec;
        if let Some(accessor) = &probe.accessor {
            let chains = self.accessor_chains(accessor);
            set_chains(&mut spec, &chains).map_err(|_| format!("{accessor} cannot be read"))?;
        }
        let mut places = Vec::new();
        for &(start, end) in ranges {
            match probe.at {
                At::Entry => places.push(start),
                At::Returns => {
                    let code = self.elf.bytes(start, end).unwrap_or_default();
                    let exits =
                        rets::exits(code, start).map_err(|error| format!("{name}: {error}"))?;
                    if !exits.jumps_out.is_empty() {
                        return Err(format!("{name} ends in a jump to another function"));
                    }
                    places.extend(exits.returns);
                }
            }
        }
        let Some(entry) = table.entry(spec) else {
            return Err(format!("no probe program is left for {name}"));
        };
        places
            .into_iter()
            .map(|vaddr| {
                let file_offset = self
                    .elf
                    .file_offset(vaddr)
                    .ok_or_else(|| format!("{name} is not in the file"))?;
                Ok(Point { probe: entry, symbol: name.to_owned(), file_offset, at: probe.at })
            })
            .collect()
    }

    /// One chain for each member that the accessor looks at.
    fn accessor_chains(&self, accessor: &str) -> Vec<Vec<i32>> {
        let range = self.functions.get(accessor).and_then(|ranges| ranges.first());
        let code = range.and_then(|&(start, end)| self.elf.bytes(start, end));
        let offsets = rets::loads_from_first_argument(code.unwrap_or_default());
        offsets.into_iter().map(|offset| vec![offset]).collect()
    }

    /// Copies of acquires and releases inlined where no probe of the same action is: what
    /// profile-guided optimization does to functions that are called often.
    fn escapes(&self, pool: &Pool) -> Option<String> {
        let go = self.go.as_ref()?;
        for probe in pool.probes.iter().filter(|probe| !probe.optional) {
            if !matches!(probe.action, Action::Acquire | Action::Release) {
                continue;
            }
            let probed = |name: &str| {
                pool.probes
                    .iter()
                    .any(|other| other.action == probe.action && other.function == name)
            };
            let mut into = go.inlined_into(&probe.function).filter(|into| !probed(&into.name));
            if let Some(first) = into.next() {
                let more = match into.count() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                return Some(format!("{} is inlined into {}{more}", probe.function, first.name));
            }
        }
        None
    }
}
