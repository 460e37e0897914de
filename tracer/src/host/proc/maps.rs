//! `/proc/PID/maps`: which files a process has mapped.
//!
//! May import nothing of ours but the sibling helpers. A process chooses the paths and how many
//! mappings there are: so lines, bytes and files are bounded, and any bytes are parsed.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    io::BufRead,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{decimal, without_deleted};

/// Bytes read of one maps file; 65530 mappings, the kernel's default limit, with paths of 1 KiB.
const MAX_BYTES: u64 = 64 << 20;
/// Executable files kept of one process; the rest are not seen.
const MAX_FILES: usize = 4096;

/// A line of a maps file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses in the process: first, and one past the last.
    pub start: u64,
    pub end: u64,
    pub executable: bool,
    /// Bytes into the file.
    pub offset: u64,
    /// Major and minor number of the device as the kernel keeps it, which on overlay and btrfs
    /// differs from what `stat` shows.
    pub device: (u32, u32),
    /// Zero when no file is mapped.
    pub inode: u64,
    /// As the kernel shows it: seen from the root of the one who reads, or, for a file outside of
    /// that, from its own file system's root. Empty when there is none.
    pub path: PathBuf,
    /// The file has no name any more.
    pub deleted: bool,
}

/// A file that a process has mapped executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// See [`Mapping::path`].
    pub path: PathBuf,
    pub deleted: bool,
    /// Link below `map_files` that opens this very file, deleted or in another mount namespace.
    pub entry: PathBuf,
    /// See [`Mapping::device`].
    pub device: (u32, u32),
    pub inode: u64,
}

/// One line without its newline; `None` when it is none of a maps file.
#[must_use]
pub fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let (start, end) = pair(fields.next()?, b'-')?;
    let executable = *fields.next()?.get(2)? == b'x';
    let offset = hexadecimal(fields.next()?)?;
    let (major, minor) = pair(fields.next()?, b':')?;
    let inode = decimal(fields.next()?).filter(|_| start < end)?;
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let (path, deleted) = without_deleted(path);
    Some(Mapping {
        start,
        end,
        executable,
        offset,
        device: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
        inode,
        path: PathBuf::from(OsStr::from_bytes(&with_newlines(path))),
        deleted,
    })
}

/// The files mapped executable, each once, in the order of the file. `map_files` is the process's
/// directory of that name.
pub(super) fn executable_files(maps: impl BufRead, map_files: &Path) -> Vec<MappedFile> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for line in maps.take(MAX_BYTES).split(b'\n') {
        // Reading fails when the process ends half-way: what was read so far still holds.
        let Ok(line) = line else { break };
        let Some(mapping) = parse_mapping(&line) else { continue };
        if !mapping.executable
            || mapping.inode == 0
            || !seen.insert((mapping.device, mapping.inode))
        {
            continue;
        }
        let Mapping { start, end, device, inode, path, deleted, .. } = mapping;
        let entry = map_files.join(format!("{start:x}-{end:x}"));
        files.push(MappedFile { path, deleted, entry, device, inode });
        if files.len() == MAX_FILES {
            break;
        }
    }
    files
}

/// The paths of all files mapped that have a name.
pub(super) fn paths(maps: impl BufRead) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for line in maps.take(MAX_BYTES).split(b'\n') {
        let Ok(line) = line else { break };
        let Some(mapping) = parse_mapping(&line) else { continue };
        if mapping.inode != 0 {
            paths.insert(mapping.path);
        }
        if paths.len() == MAX_FILES {
            break;
        }
    }
    paths
}

fn pair(field: &[u8], separator: u8) -> Option<(u64, u64)> {
    let at = field.iter().position(|byte| *byte == separator)?;
    Some((hexadecimal(&field[..at])?, hexadecimal(&field[at + 1..])?))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// The kernel writes a newline in a path as `\012`, and nothing else escaped: a path that holds
/// these four characters itself cannot be told apart.
fn with_newlines(path: &[u8]) -> Vec<u8> {
    const ESCAPED: &[u8] = b"\\012";
    let mut rest = path;
    let mut plain = Vec::with_capacity(path.len());
    while let Some((first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPED) {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(*first);
            rest = others;
        }
    }
    plain
}
