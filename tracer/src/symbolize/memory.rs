//! The memory of a traced process, as the runtimes' modules read it.
//!
//! May import `std` only. Nothing that is read is trusted: who reads bounds how much.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Fills a buffer with the memory at an address; `None` when that is not possible.
pub(super) type Memory = dyn Fn(u64, &mut [u8]) -> Option<()>;

/// That of a process.
pub(super) struct ProcessMemory(File);

impl ProcessMemory {
    /// `None` when the process has ended.
    pub fn of(pid: u32) -> Option<Self> {
        File::open(format!("/proc/{pid}/mem")).ok().map(Self)
    }

    /// What there is from an address on, at most so many bytes.
    pub fn from(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        let read = self.0.read_at(&mut found, address).unwrap_or(0);
        found.truncate(read);
        found
    }

    /// As [`Memory`].
    pub fn fill(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.0.read_exact_at(into, address).ok()
    }
}

/// That of a process; `None` when it has ended.
pub(super) fn of(pid: u32) -> Option<Box<Memory>> {
    let memory = ProcessMemory::of(pid)?;
    Some(Box::new(move |address, into| memory.fill(address, into)))
}

/// The word at a byte offset.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
