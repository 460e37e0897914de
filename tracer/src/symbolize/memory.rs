//! The memory of a traced process, as the runtimes' modules read it.
//!
//! May import `std` only. Nothing that is read is trusted: who reads bounds how much, and all that is
//! read for one stack is bounded here.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Fills a buffer with the memory at an address; `None` when that is not possible.
pub(super) type Memory = dyn Fn(u64, &mut [u8]) -> Option<()>;

/// How much may be read; beyond, nothing can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    pub bytes: u64,
    pub reads: u32,
}

/// For one stack: objects are read in a few dozen reads each, texts of scripts in pieces. What each
/// object may have would add up to gigabytes where all of them are as large as can be.
pub(super) const OF_STACK: Allowance = Allowance { bytes: 64 << 20, reads: 1 << 17 };

/// Memory is there or not by pages of at least this size.
const PAGE: u64 = 4096;

/// That of a process, so much of it at once.
pub(super) struct ProcessMemory {
    memory: Box<Memory>,
    left: Cell<Allowance>,
}

impl ProcessMemory {
    /// `None` when the process has ended.
    pub fn of(pid: u32) -> Option<Self> {
        of(pid).map(Self::reading)
    }

    pub fn reading(memory: Box<Memory>) -> Self {
        Self { memory, left: Cell::new(OF_STACK) }
    }

    /// What there is from an address on, at most so many bytes.
    pub fn from(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        let mut end = 0;
        while end < bytes {
            // Up to the end of a page: what is behind it may not be there.
            let Some(at) = address.checked_add(end as u64) else { break };
            let next = bytes.min(end + (PAGE - at % PAGE) as usize);
            if self.fill(at, &mut found[end..next]).is_none() {
                break;
            }
            end = next;
        }
        found.truncate(end);
        found
    }

    /// As [`Memory`].
    pub fn fill(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let Allowance { bytes, reads } = self.left.get();
        let bytes = bytes.checked_sub(into.len() as u64)?;
        self.left.set(Allowance { bytes, reads: reads.checked_sub(1)? });
        (self.memory)(address, into)
    }

    /// Begins what may read so much.
    pub fn allow(&self, allowance: Allowance) {
        self.left.set(allowance);
    }
}

/// That of a process; `None` when it has ended.
pub(super) fn of(pid: u32) -> Option<Box<Memory>> {
    let file = File::open(format!("/proc/{pid}/mem")).ok()?;
    Some(Box::new(move |address, into| {
        file.read_exact_at(into, address).ok()?;
        #[cfg(feature = "recording")]
        super::recorded::note_memory(address, into);
        Some(())
    }))
}

/// The word at a byte offset.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
