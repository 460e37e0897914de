//! Packages that a Python process could import. Python code is read and its files are closed again,
//! so of packages without native code nothing more can be known.
//!
//! May import what `recognise` may.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::node::MAX_ARGUMENTS;
use super::{Files, MAX_NAMES, MAX_PLACES, Sign, pattern, shown};

/// Directories that packages are installed in.
const SITES: [&str; 2] = ["site-packages", "dist-packages"];

/// Where the process would find packages: where it has loaded some from, its virtual environment,
/// and what its environment names.
pub(super) fn places(files: &Files<'_>) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::new();
    let Some(root) = &files.root else { return places };
    for path in &files.paths {
        let path = files.inside(path);
        if path.extension().is_some_and(|extension| extension == "so")
            && let Some(site) = site_of(&path)
        {
            places.insert(site.to_owned());
        }
    }
    let mut prefixes = Vec::new();
    // The program's own name, not what its link leads to, is in the environment's directory.
    if let Some(program) = files.proc.arguments(files.pid).into_iter().next() {
        let program = path_of(&program);
        let directory = files.proc.cwd(files.pid, root).unwrap_or_default().join(program);
        prefixes.extend(directory.ancestors().nth(2).map(Path::to_owned));
    }
    let environment = files.proc.variable(files.pid, "VIRTUAL_ENV");
    prefixes.extend(environment.map(|path| path_of(&path)));
    prefixes.retain(|prefix| root.is_file(&prefix.join("pyvenv.cfg")));
    for prefix in &prefixes {
        let lib = prefix.join("lib");
        for name in root.names(&lib, MAX_NAMES) {
            if name.as_bytes().starts_with(b"python") {
                places.insert(lib.join(name).join("site-packages"));
            }
        }
    }
    let search = files.proc.variable(files.pid, "PYTHONPATH").unwrap_or_default();
    let search = search.split(|byte| *byte == b':').map(path_of);
    places.extend(search.filter(|path| path.is_absolute()).take(MAX_PLACES));
    places
}

/// Whether an interpreter with this search path and these arguments looks into a directory of this
/// name first thing.
pub(super) fn looks_in(directory: &str, search: &[u8], arguments: &[Vec<u8>]) -> bool {
    let mut search = search.split(|byte| *byte == b':').map(path_of);
    search.any(|path| path.ends_with(directory)) && !is_isolated(arguments)
}

/// Told to ignore its environment, or what is to run before its program.
fn is_isolated(arguments: &[Vec<u8>]) -> bool {
    let mut arguments = arguments.iter().skip(1).take(MAX_ARGUMENTS);
    while let Some(options) = arguments.next().and_then(|it| it.strip_prefix(b"-")) {
        for (at, option) in options.iter().enumerate() {
            match option {
                b'E' | b'I' | b'S' => return true,
                // The program.
                b'c' | b'm' => return false,
                // With a value, behind it or apart.
                b'W' | b'X' => {
                    if at + 1 == options.len() {
                        arguments.next();
                    }
                    break;
                }
                b'-' => break,
                _ => {}
            }
        }
    }
    false
}

/// A package without native code in one of the places; or with some, of which none is loaded: then
/// it was not imported.
pub(super) fn find(
    package: &str,
    native: &[String],
    places: &BTreeSet<PathBuf>,
    files: &Files<'_>,
) -> Option<Sign> {
    let root = files.root.as_ref()?;
    let place = places.iter().take(MAX_PLACES).find(|place| {
        root.is_file(&place.join(package).join("__init__.py"))
            && !native.iter().any(|pattern| has_native(pattern, place, files))
    })?;
    let version = version(package, place, files);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    Some(Sign::installed(format!(
        "{package}{version} is in {}; it is Python only, so whether it is used leaves no trace",
        shown(place)
    )))
}

/// Whether a file like this is installed; one `*` at most stands for a directory.
fn has_native(pattern: &str, place: &Path, files: &Files<'_>) -> bool {
    let Some(root) = &files.root else { return false };
    let Some((directory, file)) = pattern.rsplit_once('/') else { return false };
    let directories = match directory.split_once("/*") {
        Some((parent, _)) => {
            let parent = place.join(parent);
            let names = root.names(&parent, MAX_NAMES);
            names.into_iter().map(|name| parent.join(name)).collect()
        }
        None => vec![place.join(directory)],
    };
    directories.iter().any(|directory| {
        let names = root.names(directory, MAX_NAMES);
        names.iter().any(|name| pattern::is_like(file, name.as_bytes()))
    })
}

/// Name and version of the installed package that a loaded file belongs to.
pub(super) fn version_beside(path: &Path, files: &Files<'_>) -> Option<String> {
    let path = files.inside(path);
    let place = site_of(&path)?;
    let package = path.strip_prefix(place).ok()?.iter().next()?.to_str()?;
    Some(format!("{package} {}", version(package, place, files)?))
}

/// The version in the name of the package's metadata directory.
fn version(package: &str, place: &Path, files: &Files<'_>) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let wanted = plain(package);
    let names = files.root.as_ref()?.names(place, MAX_NAMES);
    names.iter().find_map(|name| {
        let name = name.to_str()?;
        let name = name.strip_suffix(".dist-info").or_else(|| name.strip_suffix(".egg-info"))?;
        let (name, version) = name.split_once('-')?;
        // A distribution may have a longer name than its package: psycopg2-binary.
        let rest = plain(name).strip_prefix(&wanted)?.to_owned();
        (rest.is_empty() || rest == "_binary").then(|| version.to_owned())
    })
}

fn site_of(path: &Path) -> Option<&Path> {
    path.ancestors().find(|place| SITES.iter().any(|site| place.ends_with(site)))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
