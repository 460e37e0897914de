//! Which scripts an engine has loaded: found by their map, which every script refers to.
//!
//! May import this module's files. Invariants: only so much memory is looked at, and only such that
//! is written to; what is found counts only if it is a script by its type.

use std::collections::BTreeSet;
use std::ops::Range;

use memchr::memmem::Finder;

use super::MAX_NAME;
use super::engine::Engine;
use super::heap::{Heap, Memory};
use super::path;
use crate::symbolize::memory::Allowance;

/// Bytes looked at; the scripts in what lies farther away from a known one are not found.
pub(super) const MAX_BYTES: u64 = 128 << 20;
/// Bytes read at once.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// All that is read: beside that, a few objects for what may be a script.
pub(super) const ALLOWANCE: Allowance = Allowance { bytes: 2 * MAX_BYTES, reads: 1 << 19 };
/// Scripts named.
const MAX_SCRIPTS: usize = 32 << 10;

/// A script that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub address: u64,
    /// The word that refers to the map of all scripts.
    pub map: u64,
}

/// The paths of scripts in these ranges of memory.
pub(super) fn paths<M: Memory>(
    memory: &M,
    engine: &Engine,
    known: Known,
    writable: &[Range<u64>],
) -> BTreeSet<String> {
    let heap = Heap { memory, engine };
    let map = known.map.to_le_bytes();
    let finder = Finder::new(&map);
    let mut ranges: Vec<&Range<u64>> = writable.iter().collect();
    ranges.sort_by_key(|range| range.start.abs_diff(known.address));
    let mut paths = BTreeSet::new();
    let mut left = MAX_BYTES;
    let mut chunk = vec![0; CHUNK_BYTES];
    for range in ranges {
        // Whole words, so no pointer lies across two chunks.
        for start in (range.start..range.end).step_by(CHUNK_BYTES) {
            if left == 0 {
                return paths;
            }
            let len = (range.end - start).min(CHUNK_BYTES as u64).min(left);
            left -= len;
            let chunk = &mut chunk[..usize::try_from(len).unwrap_or_default()];
            if memory.read(start, chunk).is_none() {
                continue;
            }
            for found in finder.find_iter(chunk).filter(|at| at.is_multiple_of(8)) {
                if let Some(path) = name(&heap, start + found as u64)
                    && paths.len() < MAX_SCRIPTS
                {
                    paths.insert(path);
                }
            }
        }
    }
    paths
}

fn name<M: Memory>(heap: &Heap<'_, M>, address: u64) -> Option<String> {
    let script = heap.typed(address | tracer_ebpf::node::TAG, heap.engine.types.script)?;
    let name = heap.string(script.word(heap.engine.script_name)?, MAX_NAME)?;
    Some(path(&name))
}
