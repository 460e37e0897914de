//! The file system as a process sees it, read without leaving it.
//!
//! May import nothing of ours. Everything below the root is the process's to choose. Invariants: a
//! path is resolved by the kernel inside the process's root, so no link leads out of it; only
//! regular files are opened for reading, so nothing blocks and no device is touched; what is longer
//! than asked for is not read.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

/// The root directory of a process.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    /// Where it is, as the reader sees it.
    at: PathBuf,
}

impl Root {
    /// Opens the root directory at `path`.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).ok()?;
        let at = place(&dir)?;
        Some(Self { dir, at })
    }

    fn find(&self, path: &Path) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.dir, path, flags, Mode::empty(), within).ok()
    }

    /// The same file or directory without links, as the process sees it.
    #[must_use]
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        Some(self.inside(&place(&self.find(path)?)?))
    }

    /// A path that the kernel shows to the reader, as the process sees it.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let rest = path.strip_prefix(&self.at).or_else(|_| path.strip_prefix("/"));
        Path::new("/").join(rest.unwrap_or(path))
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self, path: &Path) -> bool {
        self.find(path).is_some_and(|found| is_a(&found, FileType::RegularFile))
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self, path: &Path) -> bool {
        self.find(path).is_some_and(|found| is_a(&found, FileType::Directory))
    }

    /// A regular file, opened for reading.
    #[must_use]
    pub fn file(&self, path: &Path) -> Option<File> {
        let found = self.find(path).filter(|found| is_a(found, FileType::RegularFile))?;
        File::open(reopened(&found)).ok()
    }

    /// A regular file of at most so many bytes.
    #[must_use]
    pub fn read(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= limit).then_some(bytes)
    }

    /// Names in a directory, at most so many, in no order.
    #[must_use]
    pub fn names(&self, path: &Path, limit: usize) -> Vec<OsString> {
        let Some(found) = self.find(path).filter(|found| is_a(found, FileType::Directory)) else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(reopened(&found)) else { return Vec::new() };
        entries.flatten().take(limit).map(|entry| entry.file_name()).collect()
    }
}

fn is_a(found: &OwnedFd, wanted: FileType) -> bool {
    fstat(found).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

fn reopened(found: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn place(found: &OwnedFd) -> Option<PathBuf> {
    fs::read_link(reopened(found)).ok()
}
