//! Memory of a process, read in small pieces.
//!
//! Invariants: every read is bounded by its caller; an address that cannot be read, or wraps, is no
//! answer, never an error. What is read is not trusted.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::symbolize::memory::ProcessMemory;

const PAGE_BYTES: u64 = 4096;

/// Reads memory.
pub(super) trait Memory {
    /// Fills `into` from `address`; `None` when that is not possible.
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()>;

    fn array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Some(bytes)
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.array(address).map(u64::from_le_bytes)
    }

    fn half(&self, address: u64) -> Option<u32> {
        self.array(address).map(u32::from_le_bytes)
    }

    fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes)?;
        Some(bytes)
    }

    /// A text that a zero ends, of at most `most` bytes.
    fn text(&self, address: u64, most: usize) -> Option<String> {
        let mut bytes = Vec::new();
        while bytes.len() < most {
            // Up to the end of a page at the most: the next may not be there.
            let at = address.checked_add(bytes.len() as u64)?;
            let in_page = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).ok()?;
            let part = self.bytes(at, in_page.min(64).min(most - bytes.len()))?;
            match part.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    bytes.extend_from_slice(&part[..end]);
                    return String::from_utf8(bytes).ok();
                }
                None => bytes.extend_from_slice(&part),
            }
        }
        None
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.fill(address, into)
    }
}

/// The same memory with the pages kept that were read, for what is read once and does not change.
pub(super) struct Pages<'a, M> {
    memory: &'a M,
    kept: RefCell<HashMap<u64, [u8; PAGE_BYTES as usize]>>,
    /// Pages kept at the most; beyond, nothing more can be read.
    most: usize,
}

impl<'a, M> Pages<'a, M> {
    pub fn new(memory: &'a M, most: usize) -> Self {
        Self { memory, kept: RefCell::default(), most }
    }
}

impl<M: Memory> Memory for Pages<'_, M> {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let mut kept = self.kept.borrow_mut();
        let mut done = 0;
        while done < into.len() {
            let at = address.checked_add(done as u64)?;
            let (page, within) = (at / PAGE_BYTES * PAGE_BYTES, (at % PAGE_BYTES) as usize);
            if !kept.contains_key(&page) {
                if kept.len() >= self.most {
                    return None;
                }
                kept.insert(page, self.memory.array(page)?);
            }
            let bytes = kept.get(&page)?.get(within..)?;
            let count = bytes.len().min(into.len() - done);
            into[done..done + count].copy_from_slice(&bytes[..count]);
            done += count;
        }
        Some(())
    }
}
