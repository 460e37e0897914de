//! Packages of npm as Node.js resolves them. It reads scripts and closes them, so that a package is
//! there says only that it may be used; the scripts that V8 has loaded, once they are known, or the
//! perf map, where one is written, say that it is.
//!
//! May import what `recognise` may. Follows `Module._nodeModulePaths` of Node.js as far as it finds
//! a package's directory; what inside it would be loaded is not asked.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::Deserialize;

use super::{Files, MAX_PLACES, Sign, shown};

/// Longest package.json read.
const MAX_PACKAGE_BYTES: u64 = 1 << 20;
/// Bytes read of a perf map.
const MAX_PERF_MAP_BYTES: u64 = 64 << 20;
/// Arguments looked at for the main script.
pub(super) const MAX_ARGUMENTS: usize = 64;
/// Options whose value is the next argument.
const WITH_VALUE: [&str; 12] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    "--title",
    "--stack-trace-limit",
    "--watch-path",
    "--icu-data-dir",
];
/// What a main script may be called without.
const ENDINGS: [&str; 7] = ["", ".js", ".cjs", ".mjs", ".ts", ".json", "/index.js"];

/// Where the process would look for packages.
pub(super) struct Packages {
    /// Directories of scripts: the main one's, and the working directory.
    from: Vec<PathBuf>,
    /// The main script was found.
    main: Option<PathBuf>,
    /// `NODE_PATH`.
    also: Vec<PathBuf>,
    /// What of a package the perf map names.
    named: BTreeMap<PathBuf, bool>,
}

#[derive(Deserialize)]
struct PackageJson {
    version: Option<String>,
}

impl Packages {
    pub(super) fn of(files: &Files<'_>) -> Self {
        let mut packages =
            Self { from: Vec::new(), main: None, also: Vec::new(), named: BTreeMap::new() };
        let Some(root) = &files.root else { return packages };
        let cwd = files.proc.cwd(files.pid, root);
        packages.main = cwd.as_ref().and_then(|cwd| main_script(files, cwd));
        let main = packages.main.as_deref().and_then(Path::parent).map(Path::to_owned);
        // A process that gave itself a title shows no arguments any more, and a process manager's
        // script is not the application's.
        packages.from = main.into_iter().chain(cwd.clone()).collect();
        let also = files.proc.variable(files.pid, "NODE_PATH").unwrap_or_default();
        packages.also = also
            .split(|byte| *byte == b':')
            .filter(|path| !path.is_empty())
            .take(MAX_PLACES)
            .map(|path| cwd.clone().unwrap_or_default().join(path_of(path)))
            .collect();
        packages
    }

    /// The package at the end of one of the chains.
    pub(super) fn find(&mut self, chains: &[Vec<String>], files: &Files<'_>) -> Option<Sign> {
        let mut installed = None;
        for (chain, from) in
            chains.iter().flat_map(|chain| self.from.iter().map(move |from| (chain, from)))
        {
            let mut at = Some(from.clone());
            for name in chain {
                at = at.and_then(|at| self.resolve(name, &at, files));
            }
            if let Some(package) = at {
                installed.get_or_insert((package, from.clone()));
            }
        }
        let (package, from) = installed?;
        let name = package.file_name()?.to_string_lossy().into_owned();
        let json = files.root.as_ref()?.read(&package.join("package.json"), MAX_PACKAGE_BYTES);
        let json = json.and_then(|json| serde_json::from_slice::<PackageJson>(&json).ok());
        let version = json.and_then(|json| json.version);
        let version = version.map_or_else(String::new, |version| format!(" {version}"));
        let begin = format!("{name}{version} is in {}", shown(&package));
        let inside = format!("{}/", package.display());
        if files.scripts.is_some_and(|paths| paths.iter().any(|path| path.starts_with(&inside))) {
            return Some(Sign::loaded(format!("{begin}, and scripts of it are loaded")));
        }
        if self.is_named(&package, files) {
            return Some(Sign::loaded(format!("{begin}, and functions of it are in the perf map")));
        }
        let who = match &self.main {
            Some(main) if main.parent() == Some(&from) => format!("for {}", shown(main)),
            _ => format!("for a script in the working directory {}", shown(&from)),
        };
        Some(Sign::installed(format!(
            "{begin} {who}; whether it is used is not known before a stack of the process is"
        )))
    }

    /// The package's directory, without links, as a script in `from` would find it.
    fn resolve(&self, name: &str, from: &Path, files: &Files<'_>) -> Option<PathBuf> {
        let root = files.root.as_ref()?;
        let upwards = from
            .ancestors()
            .filter(|place| !place.ends_with("node_modules"))
            .map(|place| place.join("node_modules"));
        upwards.chain(self.also.iter().cloned()).take(2 * MAX_PLACES).find_map(|place| {
            let package = root.real(&place.join(name))?;
            root.is_file(&package.join("package.json")).then_some(package)
        })
    }

    /// Whether the perf map names code of the package.
    fn is_named(&mut self, package: &Path, files: &Files<'_>) -> bool {
        if let Some(named) = self.named.get(package) {
            return *named;
        }
        let named = is_in_perf_map(package, files);
        self.named.insert(package.to_owned(), named);
        named
    }
}

/// The script that Node.js was started with, without links.
fn main_script(files: &Files<'_>, cwd: &Path) -> Option<PathBuf> {
    let root = files.root.as_ref()?;
    let arguments = files.proc.arguments(files.pid);
    let mut arguments = arguments.iter().skip(1).take(MAX_ARGUMENTS);
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.iter().any(|option| option.as_bytes() == argument) {
            arguments.next();
            continue;
        }
        if argument.starts_with(b"-") || argument.is_empty() {
            continue;
        }
        let script = cwd.join(path_of(argument));
        return ENDINGS.iter().find_map(|ending| {
            let mut path = script.clone().into_os_string();
            path.push(ending);
            let path = Path::new(&path);
            root.is_file(path).then(|| root.real(path)).flatten()
        });
    }
    None
}

fn is_in_perf_map(package: &Path, files: &Files<'_>) -> bool {
    let pid = files.proc.ns_pid(files.pid).unwrap_or(files.pid.0);
    let map = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    let Some(mut map) = files.root.as_ref().and_then(|root| root.file(&map)) else { return false };
    // Anyone may put a file of that name there.
    let owner = |metadata: std::io::Result<Metadata>| metadata.map_or(u32::MAX, |m| m.uid());
    let writer = owner(map.metadata());
    if writer != 0 && writer != owner(std::fs::metadata(files.proc.dir(files.pid))) {
        return false;
    }
    let mut wanted = package.as_os_str().as_bytes().to_vec();
    wanted.push(b'/');
    let mut left = MAX_PERF_MAP_BYTES;
    let mut chunk = vec![0; 256 << 10];
    let mut kept = 0;
    while left > 0 {
        let Ok(read) = map.read(&mut chunk[kept..]) else { return false };
        let end = kept + read;
        if memmem::find(&chunk[..end], &wanted).is_some() {
            return true;
        }
        if read == 0 {
            return false;
        }
        left = left.saturating_sub(read as u64);
        // A path may lie across two reads.
        kept = end.min(wanted.len());
        chunk.copy_within(end - kept..end, 0);
    }
    false
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
