//! Which pools of the catalogue a process has loaded, or could load: what its executable's and
//! libraries' own tables do not tell, because the pool is a script, a jar or the process itself.
//!
//! May import `host`, `pools` and the model's plain types. Everything read here is the process's to
//! choose: reads are bounded, paths never leave the process's root, and parsing is total.
//! Invariant: only what is in the process counts as loaded; what merely lies where its runtime
//! would find it is installed, and says so.

mod java;
mod node;
mod pattern;
mod python;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::{
    host::proc::{ProcFs, Root},
    model::{Pid, PoolSeen, Presence, Runtime},
    pools::{Catalogue, Pool},
};

/// Names read of one directory.
const MAX_NAMES: usize = 8_192;

/// What is known of the process beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    pub comm: Option<&'a str>,
    pub exe: Option<&'a str>,
    pub runtime: Option<Runtime>,
    /// Pools and drivers found in its executable and libraries.
    pub found: &'a [PoolSeen],
    /// Paths of the scripts that its runtime has loaded, where that is known.
    pub scripts: Option<&'a BTreeSet<String>>,
}

/// What tells a pool, before it is named.
struct Sign {
    presence: Presence,
    how: String,
}

impl Sign {
    fn loaded(how: String) -> Self {
        Self { presence: Presence::Loaded, how }
    }

    fn installed(how: String) -> Self {
        Self { presence: Presence::Installed, how }
    }
}

/// The files of a process, read once for all pools.
struct Files<'a> {
    proc: &'a ProcFs,
    pid: Pid,
    root: Option<Root>,
    /// Mapped, and open where the runtime keeps its code open.
    paths: BTreeSet<PathBuf>,
    scripts: Option<&'a BTreeSet<String>>,
}

/// The pools and drivers of the catalogue that this process has or may have, besides those in
/// `facts.found`.
#[must_use]
pub fn pools(catalogue: &Catalogue, proc: &ProcFs, pid: Pid, facts: &Facts<'_>) -> Vec<PoolSeen> {
    let wanted = |pool: &&Pool| {
        let recognise = &pool.recognise;
        recognise.is_of_process()
            && (recognise.runtime.is_none() || recognise.runtime == facts.runtime)
            && !facts.found.iter().any(|found| found.name == pool.name)
    };
    let wanted: Vec<&Pool> = catalogue.pools().iter().filter(wanted).collect();
    let scripts = wanted.iter().any(|pool| pool.recognise.runtime.is_some());
    let files = scripts.then(|| Files::of(proc, pid, facts));
    let mut seen = Vec::new();
    let mut node = None;
    let mut python = None;
    let mut jars = None;
    for pool in wanted {
        let recognise = &pool.recognise;
        let mut sign = program(&recognise.programs, facts);
        if let (None, Some(files)) = (&sign, &files) {
            if recognise
                .needs
                .as_ref()
                .is_some_and(|needed| !facts.found.iter().any(|found| found.name == *needed))
            {
                continue;
            }
            sign = files.mapped(&recognise.files).or_else(|| {
                if !recognise.npm.is_empty() {
                    let packages = node.get_or_insert_with(|| node::Packages::of(files));
                    return packages.find(&recognise.npm, files);
                }
                if let Some(in_jar) = &recognise.in_jar {
                    let jars = jars.get_or_insert_with(|| java::names_in_jars(files));
                    return java::find(in_jar, jars);
                }
                if let Some(beside) = &recognise.beside {
                    return files.beside(beside);
                }
                if let Some(gem) = &recognise.gem {
                    return files.gem(gem);
                }
                let package = recognise.python.as_ref()?;
                let places = python.get_or_insert_with(|| python::places(files));
                python::find(package, &recognise.files, places, files)
            });
        }
        if let Some(Sign { presence, how }) = sign {
            seen.push(PoolSeen {
                name: pool.name.clone(),
                observed: false,
                note: pool.marked.as_ref().and_then(|marked| loads(proc, pid, facts, &marked.by)),
                presence,
                how: Some(how),
                pooler: pool.pooler,
                behaviour: pool.behaviour.clone(),
            });
        }
    }
    // What shows that one pool is loaded would show it of another, too.
    if facts.runtime == Some(Runtime::Node)
        && seen.iter().any(|pool| pool.presence == Presence::Loaded)
    {
        seen.retain(|pool| pool.presence == Presence::Loaded);
    }
    seen
}

/// Says that the process was told to load this file first, or what is in this directory, which marks
/// its checkouts.
fn loads(proc: &ProcFs, pid: Pid, facts: &Facts<'_>, file: &str) -> Option<String> {
    let arguments = proc.arguments(pid);
    let told = if facts.runtime == Some(Runtime::Python) {
        let search = proc.variable(pid, "PYTHONPATH").unwrap_or_default();
        python::looks_in(file, &search, &arguments)
    } else {
        let names = |text: &[u8]| memchr::memmem::find(text, file.as_bytes()).is_some();
        proc.variable(pid, "NODE_OPTIONS").is_some_and(|options| names(&options))
            || arguments.iter().take(node::MAX_ARGUMENTS).any(|argument| names(argument))
    };
    told.then(|| format!("The process loads {file}: checkouts that it marks are observed."))
}

/// Whether the process may have been told to load one of these files first, whatever its runtime.
pub fn loads_any(files: &BTreeSet<&str>, proc: &ProcFs, pid: Pid) -> bool {
    let mut texts = proc.arguments(pid);
    texts.truncate(node::MAX_ARGUMENTS);
    texts.extend(["NODE_OPTIONS", "PYTHONPATH"].iter().filter_map(|name| proc.variable(pid, name)));
    let names = |file: &&str| {
        texts.iter().any(|text| memchr::memmem::find(text, file.as_bytes()).is_some())
    };
    files.iter().any(names)
}

/// The process runs one of these programs.
fn program(names: &[String], facts: &Facts<'_>) -> Option<Sign> {
    let exe = facts.exe.and_then(|exe| exe.rsplit('/').next());
    let name = names.iter().find(|name| [facts.comm, exe].contains(&Some(name.as_str())))?;
    Some(Sign::loaded(format!("the process is {name}")))
}

impl<'a> Files<'a> {
    fn of(proc: &'a ProcFs, pid: Pid, facts: &Facts<'a>) -> Self {
        let mut paths = proc.mapped_paths(pid);
        // Jars are read through descriptors.
        if facts.runtime == Some(Runtime::Java) {
            paths.extend(proc.open_paths(pid));
        }
        Self { proc, pid, root: proc.root_of(pid), paths, scripts: facts.scripts }
    }

    /// Mapped or open paths that end like one of these.
    fn like<'p>(&'p self, patterns: &'p [String]) -> impl Iterator<Item = &'p Path> {
        self.paths.iter().map(PathBuf::as_path).filter(move |path| {
            patterns.iter().any(|pattern| pattern::matches(pattern, path.as_os_str().as_bytes()))
        })
    }

    fn mapped(&self, patterns: &[String]) -> Option<Sign> {
        let path = self.like(patterns).next()?;
        let version = python::version_beside(path, self);
        let version = version.map_or_else(String::new, |version| format!(" ({version})"));
        Some(Sign::loaded(format!("{} is loaded{version}", shown(path))))
    }

    /// A path that the kernel shows, as the process sees it.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.as_ref().map_or_else(|| path.to_owned(), |root| root.inside(path))
    }

    fn beside(&self, beside: &crate::pools::Beside) -> Option<Sign> {
        let root = self.root.as_ref()?;
        let path = self.like(std::slice::from_ref(&beside.file)).find_map(|path| {
            let path = self.inside(path).parent()?.join(&beside.path);
            root.is_file(&path).then_some(path)
        })?;
        Some(Sign::installed(format!(
            "{} comes with a package that is loaded; whether it is used leaves no trace",
            shown(&path)
        )))
    }

    /// A gem in the directory of gems that one with native code was loaded from.
    fn gem(&self, gem: &str) -> Option<Sign> {
        let root = self.root.as_ref()?;
        let mut places = BTreeSet::new();
        for path in &self.paths {
            let path = self.inside(path);
            if path.extension().is_some_and(|extension| extension == "so")
                && let Some(place) = path.ancestors().find(|place| place.ends_with("gems"))
            {
                places.insert(place.to_owned());
            }
        }
        let found = places.iter().take(MAX_PLACES).find_map(|place| {
            let names = root.names(place, MAX_NAMES);
            let mut versions: Vec<String> = names
                .iter()
                .filter_map(|name| {
                    let version = name.to_str()?.strip_prefix(gem)?.strip_prefix('-')?;
                    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
                })
                .collect();
            versions.sort();
            Some((versions.pop()?, place))
        });
        let (version, place) = found?;
        Some(Sign::installed(format!(
            "{gem} {version} is in {}, where loaded gems are; whether it is used leaves no trace",
            shown(place)
        )))
    }
}

/// Directories looked into for installed packages.
const MAX_PLACES: usize = 32;

/// A path in a sentence: its end says more.
fn shown(path: &Path) -> String {
    const MAX: usize = 160;
    let path = path.to_string_lossy();
    let begin = path.char_indices().rev().nth(MAX).map_or(0, |(at, _)| at);
    if begin == 0 { path.into_owned() } else { format!("…{}", &path[begin..]) }
}
