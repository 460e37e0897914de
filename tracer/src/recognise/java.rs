//! Jars in jars: Spring Boot's executable ones carry their libraries inside.
//!
//! May import what `recognise` may. Only names are looked for, in the directory at a jar's end.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use memchr::memmem;

use super::{Files, Sign, shown};

/// Jars looked into.
const MAX_JARS: usize = 8;
/// Bytes read at the end of a jar, where its directory is.
const MAX_DIRECTORY_BYTES: u64 = 4 << 20;
/// Bytes of a name of which the version is the rest.
const MAX_VERSION: usize = 32;

/// The ends of the jars that a process has open.
pub(super) fn names_in_jars(files: &Files<'_>) -> Vec<(PathBuf, Vec<u8>)> {
    let Some(root) = &files.root else { return Vec::new() };
    let jars = files.paths.iter().filter(|path| {
        path.extension().is_some_and(|extension| extension == "jar" || extension == "war")
    });
    jars.take(MAX_JARS)
        .filter_map(|path| {
            let path = files.inside(path);
            let mut file = root.file(&path)?;
            let size = file.metadata().ok()?.len();
            let begin = size.saturating_sub(MAX_DIRECTORY_BYTES);
            file.seek(SeekFrom::Start(begin)).ok()?;
            let mut bytes = Vec::new();
            file.take(MAX_DIRECTORY_BYTES).read_to_end(&mut bytes).ok()?;
            Some((path, bytes))
        })
        .collect()
}

/// A jar with this beginning of a path in one of them.
pub(super) fn find(begin: &str, jars: &[(PathBuf, Vec<u8>)]) -> Option<Sign> {
    jars.iter().find_map(|(path, bytes)| {
        let rest = &bytes[memmem::find(bytes, begin.as_bytes())? + begin.len()..];
        let end = memmem::find(&rest[..rest.len().min(MAX_VERSION)], b".jar")?;
        let name = begin.rsplit('/').next().unwrap_or(begin);
        let version = String::from_utf8_lossy(&rest[..end]);
        Some(Sign::installed(format!(
            "{name}{version}.jar is in {}; whether it is used leaves no trace",
            shown(path)
        )))
    })
}
