//! V8's objects in the memory of a process.
//!
//! Invariants: memory of traced processes is never trusted: every read is bounded, a pointer is
//! followed only if it is tagged as one, and an object is what its map says it is. Sources: V8's
//! `src/objects/string.tq`, `src/objects/fixed-array.tq`, `src/objects/map.tq`.

use tracer_ebpf::node::{TAG, TAG_MASK};

use super::engine::Engine;

/// Reads memory.
pub(super) trait Memory {
    /// Fills `into` from `address`; `None` when that is not possible.
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()>;
}

/// Bytes read of an object at once: all that is asked for of most.
const OBJECT_BYTES: usize = 128;
/// Bytes of a table; a longer one is not read.
const MAX_TABLE: usize = 4 << 20;
/// Bytes read at once of a long string.
const CHUNK_BYTES: usize = 64 << 10;
/// Parts of a string; one of more is not read.
const MAX_PARTS: usize = 4_096;

/// A string's form: `src/objects/instance-type.h`, the same in all known versions.
const FORM: u16 = 7;
const SEQUENTIAL: u16 = 0;
const CONS: u16 = 1;
const EXTERNAL: u16 = 2;
const SLICED: u16 = 3;
const THIN: u16 = 5;
const ONE_BYTE: u16 = 8;
/// An external string without a pointer to its characters.
const UNCACHED: u16 = 16;

/// An object.
pub(super) struct Object {
    pub address: u64,
    pub kind: u16,
    bytes: [u8; OBJECT_BYTES],
}

impl Object {
    /// The word at a byte offset.
    pub fn word(&self, at: usize) -> Option<u64> {
        word(&self.bytes, at)
    }

    pub fn half(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A small integer: the upper half of a word whose lower half is zero.
pub(super) fn small_integer(word: u64) -> Option<i32> {
    (word as u32 == 0).then_some((word >> 32) as u32 as i32)
}

/// The objects of a process.
pub(super) struct Heap<'a, M> {
    pub memory: &'a M,
    pub engine: &'a Engine,
}

impl<M: Memory> Heap<'_, M> {
    /// The object that a word points to, of any type.
    pub fn object(&self, pointer: u64) -> Option<Object> {
        let address = address(pointer)?;
        let mut bytes = [0; OBJECT_BYTES];
        // An object may be the last before memory that is not there.
        self.memory
            .read(address, &mut bytes)
            .or_else(|| self.memory.read(address, &mut bytes[..OBJECT_BYTES / 4]))
            .or_else(|| self.memory.read(address, &mut bytes[..OBJECT_BYTES / 8]))?;
        let map = self::address(word(&bytes, 0)?)?;
        let mut kind = [0; 2];
        self.memory.read(map.checked_add(self.engine.type_at)?, &mut kind)?;
        Some(Object { address, kind: u16::from_le_bytes(kind), bytes })
    }

    /// The object that a word points to, when it is of this type.
    pub fn typed(&self, pointer: u64, kind: u16) -> Option<Object> {
        self.object(pointer).filter(|object| object.kind == kind)
    }

    pub fn is_string(&self, object: &Object) -> bool {
        object.kind < self.engine.types.first_non_string
    }

    /// The bytes of an array of bytes.
    pub fn table(&self, pointer: u64) -> Option<Vec<u8>> {
        let object = self.object(pointer)?;
        if !is_one_of(object.kind, &self.engine.types.byte_arrays) {
            return None;
        }
        self.elements(&object, 1)
    }

    /// The words of an array.
    pub fn array(&self, pointer: u64) -> Option<Vec<u64>> {
        let object = self.object(pointer)?;
        if !is_one_of(object.kind, &self.engine.types.pointer_arrays) {
            return None;
        }
        let bytes = self.elements(&object, 8)?;
        Some(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn elements(&self, array: &Object, width: usize) -> Option<Vec<u8>> {
        let count = usize::try_from(small_integer(array.word(8)?)?).ok()?;
        self.bytes(array.address.checked_add(16)?, count.checked_mul(width)?)
    }

    /// Some bytes.
    pub fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        if len > MAX_TABLE {
            return None;
        }
        let mut bytes = vec![0; len];
        self.memory.read(address, &mut bytes)?;
        Some(bytes)
    }

    /// A string, cut after so many units of UTF-16; `None` when it is none.
    pub fn string(&self, pointer: u64, most: u32) -> Option<String> {
        let mut units = Vec::new();
        self.units(pointer, most, &mut |unit| units.push(unit))?;
        Some(String::from_utf16_lossy(&units))
    }

    /// Hands on the units of a string, at most so many.
    pub fn units(&self, pointer: u64, most: u32, sink: &mut dyn FnMut(u16)) -> Option<()> {
        self.some_units(pointer, 0, most, sink)
    }

    /// The same from one of them on.
    pub fn some_units(
        &self,
        pointer: u64,
        from: u32,
        most: u32,
        sink: &mut dyn FnMut(u16),
    ) -> Option<()> {
        // What is still to come, innermost last: a string, and which of its units.
        let mut parts = vec![(pointer, from, most)];
        for _ in 0..MAX_PARTS {
            let Some((pointer, from, count)) = parts.pop() else { return Some(()) };
            let string = self.object(pointer)?;
            if !self.is_string(&string) {
                return None;
            }
            let length = string.half(12)?;
            let count = count.min(length.saturating_sub(from));
            if count == 0 {
                continue;
            }
            match string.kind & FORM {
                SEQUENTIAL => {
                    let start = string.address.checked_add(16)?;
                    self.characters(start, string.kind, from, count, sink)?;
                }
                EXTERNAL if string.kind & UNCACHED == 0 => {
                    self.characters(string.word(24)?, string.kind, from, count, sink)?;
                }
                CONS => {
                    let first = string.word(16)?;
                    let split =
                        self.object(first).filter(|first| self.is_string(first))?.half(12)?;
                    let of_first = count.min(split.saturating_sub(from));
                    parts.push((string.word(24)?, from.saturating_sub(split), count - of_first));
                    parts.push((first, from, of_first));
                }
                SLICED => {
                    let offset = u32::try_from(small_integer(string.word(24)?)?).ok()?;
                    parts.push((string.word(16)?, from.checked_add(offset)?, count));
                }
                THIN => parts.push((string.word(16)?, from, count)),
                _ => return None,
            }
        }
        None
    }

    fn characters(
        &self,
        start: u64,
        kind: u16,
        from: u32,
        count: u32,
        sink: &mut dyn FnMut(u16),
    ) -> Option<()> {
        let width = if kind & ONE_BYTE == 0 { 2 } else { 1 };
        let mut at = start.checked_add(u64::from(from) * width)?;
        let end = at.checked_add(u64::from(count) * width)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while at < end {
            let len = usize::try_from(end - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
            self.memory.read(at, &mut chunk[..len])?;
            if width == 1 {
                chunk[..len].iter().for_each(|byte| sink(u16::from(*byte)));
            } else {
                let units = chunk[..len].as_chunks().0;
                units.iter().for_each(|unit| sink(u16::from_le_bytes(*unit)));
            }
            at += len as u64;
        }
        Some(())
    }
}

/// The address that a tagged pointer holds.
fn address(pointer: u64) -> Option<u64> {
    (pointer & TAG_MASK == TAG).then_some(pointer & !TAG_MASK)
}

/// Zero stands for a type that a version does not have.
fn is_one_of(kind: u16, kinds: &[u16]) -> bool {
    kind != 0 && kinds.contains(&kind)
}
