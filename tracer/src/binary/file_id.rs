//! Which file it is, and whether it is still the same.
//!
//! May import nothing of ours.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// A file's identity while it is not changed: what `fstat` says of it. The device in
/// `/proc/PID/maps` is another one on overlayfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileId {
    /// `None` for what is no regular file.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Its inode number.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

#[cfg(test)]
mod tests {
    use super::FileId;

    #[test]
    fn a_file_is_another_one_once_it_is_written_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let id = || FileId::of(&std::fs::metadata(&path).unwrap());
        std::fs::write(&path, "one").unwrap();
        let first = id();
        assert!(first.is_some() && first == id());
        std::fs::write(&path, "more").unwrap();
        assert_ne!(id(), first);
        let second = id();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "more").unwrap();
        assert_ne!(id(), second);
        assert_eq!(FileId::of(&std::fs::metadata(dir.path()).unwrap()), None);
    }
}
