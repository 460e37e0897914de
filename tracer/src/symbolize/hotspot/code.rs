//! Code that HotSpot made: which piece an address is in, and which calls a place in it is in.
//!
//! Invariants: memory of traced processes is never trusted; every table is bounded, and a piece of
//! code is believed only if the address is in what it says is its code. Sources: OpenJDK's
//! `share/memory/heap.cpp`, `share/code/codeBlob.hpp`, `share/code/nmethod.cpp`,
//! `share/code/pcDesc.hpp`.

use std::ops::Range;

use super::compressed::{self, MAX_NUMBER};
use super::layout::{Debug, Field, Layout, Metadata, Place};
use super::memory::Memory;

/// Heaps of code: there are three, or one.
const MAX_HEAPS: u64 = 16;
/// Steps back in a map of segments.
const MAX_STEPS: usize = 128;
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// Bytes of the table of calls of a piece of code.
const MAX_CALLS: u64 = 1 << 20;
/// Words of a frame.
const MAX_FRAME_WORDS: u64 = 64 << 10;
/// Calls inlined into one another.
const MAX_INLINED: usize = 64;

/// What a piece of code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Interpreter,
    /// A compiled method.
    Compiled,
    /// What calls a native method.
    Native,
    /// What the outer frames of a virtual thread are behind.
    Barrier,
    /// HotSpot's own.
    Stub,
}

/// A piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub kind: Kind,
    /// Words of its frames, the return address included; zero where they differ.
    pub frame_words: u64,
    begin: u64,
    address: u64,
    bytes: Vec<u8>,
}

/// A call in a piece of code, or the piece's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub method: u64,
    /// The instruction that called; `None` where it is not known.
    pub instruction: Option<u16>,
}

/// The code of a process.
pub(super) struct Code<'a, M> {
    pub memory: &'a M,
    pub layout: &'a Layout,
}

impl<M: Memory> Code<'_, M> {
    /// Where all code is: it stays there.
    pub fn bounds(&self) -> Option<Range<u64>> {
        let [low, high] = self.layout.bounds.map(|at| self.memory.word(at));
        Some(low?..high?).filter(|bounds| bounds.start > 0 && !bounds.is_empty())
    }

    /// The piece of code at an address.
    pub fn blob(&self, pc: u64) -> Option<Blob> {
        let layout = self.layout;
        let heaps = self.memory.word(layout.heaps)?;
        let count = self.number(heaps, layout.array_len)?.min(MAX_HEAPS);
        let data = self.number(heaps, layout.array_data)?;
        let blob = (0..count).find_map(|index| {
            let heap = self.memory.word(data.checked_add(index * 8)?)?;
            let heap = self.memory.bytes(heap, layout.heap_size)?;
            let [low, high] = bounds(&heap, layout.heap_memory)?;
            (low..high).contains(&pc).then(|| self.start(&heap, low, pc))
        })??;
        let bytes = self.memory.bytes(blob, layout.blob_size)?;
        let begin = layout.code_begin.of(blob, &bytes)?;
        let end = layout.code_end.of(blob, &bytes)?;
        if !(begin..=end).contains(&pc) {
            return None;
        }
        let name = self.memory.text(layout.blob_name.of(&bytes)?, MAX_NAME)?;
        let frame_words = layout.blob_frame.of(&bytes)?;
        if frame_words > MAX_FRAME_WORDS {
            return None;
        }
        let kind = match name.as_str() {
            "nmethod" => Kind::Compiled,
            "native nmethod" => Kind::Native,
            "Interpreter" => Kind::Interpreter,
            name if name.starts_with("StubRoutines") && name.contains("cont") => Kind::Barrier,
            _ => Kind::Stub,
        };
        Some(Blob { kind, frame_words, begin, address: blob, bytes })
    }

    fn number(&self, object: u64, field: Field) -> Option<u64> {
        let bytes = self.memory.bytes(object, field.at + 8)?;
        field.of(&bytes)
    }

    /// Where the piece of code begins that an address of this heap is in, whose memory begins at
    /// `low`.
    fn start(&self, heap: &[u8], low: u64, pc: u64) -> Option<u64> {
        let layout = self.layout;
        let [map, map_end] = bounds(heap, layout.heap_map)?;
        let shift = u32::try_from(layout.heap_shift.of(heap)?).ok().filter(|shift| *shift < 32)?;
        let mut segment = pc.checked_sub(low)? >> shift;
        for _ in 0..MAX_STEPS {
            /// The segment is free.
            const FREE: u8 = 0xff;
            let at = map.checked_add(segment).filter(|at| *at < map_end)?;
            match self.memory.array(at)? {
                [0] => {
                    let block = low.checked_add(segment << shift)?;
                    let used = self.number(block, layout.block_used)?;
                    return (used == 1).then_some(block + layout.block_size as u64);
                }
                [FREE] => return None,
                [back] => segment = segment.checked_sub(u64::from(back))?,
            }
        }
        None
    }
}

/// Where a part of a heap begins and ends.
fn bounds(heap: &[u8], at: [usize; 2]) -> Option<[u64; 2]> {
    let word = |at: usize| Some(u64::from_le_bytes(*heap.get(at..)?.first_chunk()?));
    Some([word(at[0])?, word(at[1])?])
}

impl Blob {
    /// Where compiled code really goes on, when it is to be given up as soon as it is returned to:
    /// `read` reads its frame at `sp`.
    pub fn original_pc(
        &self,
        layout: &Layout,
        pc: u64,
        sp: u64,
        read: impl FnOnce(u64) -> Option<u64>,
    ) -> Option<u64> {
        let handler = |place: &Option<Place>| place.as_ref()?.of(self.address, &self.bytes);
        if self.kind != Kind::Compiled
            || !layout.compiled_deoptimized.iter().filter_map(handler).any(|handler| handler == pc)
        {
            return Some(pc);
        }
        let at = layout.compiled_original_pc.of(&self.bytes)?;
        read(sp.checked_add(at).filter(|_| at < self.frame_words * 8)?)
    }

    /// The method that was compiled, or that is native.
    pub fn method(&self, layout: &Layout) -> Option<u64> {
        layout.compiled_method.of(&self.bytes)
    }

    /// The calls that the place behind an instruction is in, innermost first.
    pub fn calls<M: Memory>(&self, code: &Code<'_, M>, pc: u64) -> Option<Vec<Call>> {
        let layout = code.layout;
        let own = Call { method: self.method(layout)?, instruction: None };
        if self.kind != Kind::Compiled {
            return Some(vec![own]);
        }
        let tables = self.tables(layout)?;
        // Where a system call can be made, Java can be stopped, and so every call is described. One
        // that is not returns to code that was here before.
        let mut offset = tables.scope(code, pc.checked_sub(self.begin)?)?;
        let mut calls = Vec::new();
        while calls.len() < MAX_INLINED {
            let at =
                tables.data.0.checked_add(u64::from(offset)).filter(|at| *at < tables.data.1)?;
            let len = (tables.data.1 - at).min(3 * MAX_NUMBER as u64);
            let scope = compressed::scope(layout.numbers, &code.memory.bytes(at, len as usize)?)?;
            let index = u64::from(scope.method.checked_sub(1)?);
            let at = tables.metadata.0.checked_add(index * 8);
            let method = code.memory.word(at.filter(|at| *at < tables.metadata.1)?)?;
            let instruction = scope.instruction.and_then(|index| u16::try_from(index).ok());
            calls.push(Call { method, instruction });
            if scope.sender == 0 {
                // The outermost is the method itself.
                return (method == own.method).then_some(calls);
            }
            // Callers are written before what they call.
            if scope.sender >= offset {
                return None;
            }
            offset = scope.sender;
        }
        None
    }

    fn tables(&self, layout: &Layout) -> Option<Tables> {
        let place = |place: Place| place.of(self.address, &self.bytes);
        let number = |field: Field| field.of(&self.bytes);
        let tables = match layout.debug {
            Debug::Behind { metadata, data, calls, end } => Tables {
                metadata: (place(metadata)?, place(data)?),
                data: (place(data)?, place(calls)?),
                calls: (place(calls)?, place(end)?),
            },
            Debug::Elsewhere { memory, size, data, calls, metadata } => {
                let memory = number(memory)?;
                let [size, data, calls] =
                    [size, data, calls].map(|field| number(field)?.checked_add(memory));
                let metadata = match metadata {
                    Metadata::Mutable { memory, size, relocations } => {
                        let memory = number(memory)?;
                        [relocations, size].map(|field| number(field)?.checked_add(memory))
                    }
                    Metadata::Data { data, offset, size } => {
                        let begin = place(data)?.checked_add(number(offset)?);
                        [begin, self.address.checked_add(number(size)?)]
                    }
                };
                Tables {
                    metadata: (metadata[0]?, metadata[1]?),
                    data: (data?, size?),
                    calls: (calls?, data?),
                }
            }
        };
        Some(tables)
    }
}

/// Where the tables of a piece of compiled code begin and end.
struct Tables {
    metadata: (u64, u64),
    data: (u64, u64),
    calls: (u64, u64),
}

impl Tables {
    /// Where the place behind a call is described, `offset` bytes into the code.
    fn scope<M: Memory>(&self, code: &Code<'_, M>, offset: u64) -> Option<u32> {
        let layout = code.layout;
        let len = self.calls.1.checked_sub(self.calls.0).filter(|len| *len <= MAX_CALLS)?;
        let calls = code.memory.bytes(self.calls.0, usize::try_from(len).ok()?)?;
        let mut calls = calls.chunks_exact(layout.call_size);
        let call = calls.find(|call| layout.call_pc.of(call) == Some(offset))?;
        // Zero where nothing is described.
        u32::try_from(layout.call_scope.of(call)?).ok().filter(|at| *at != 0)
    }
}
