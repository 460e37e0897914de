//! The stack slots: reading them, and giving them back.
//!
//! May import aya and the contract. Invariant: a slot that was taken from a connection while the
//! kernel side may still write to it is free again only a tick later, when no program that had
//! read the connection before can be running.

use aya::{
    Ebpf,
    maps::{Array, MapData, Queue},
};
use tracer_ebpf::{
    runtime::{FRAME_BYTES, MAX_FRAMES},
    stack::{
        CLASS_BYTES, CLASS_SLOTS, FLAG_FULL, FLAG_MARK, HEADER_BYTES, RUNTIME_CLASS, STACK_BYTES,
        SlotRef, StackHeader,
    },
};

use super::{
    LoadError, fill,
    pod::{PodWords, plain_from_bytes},
    take,
};

/// Words of eight bytes of a slot of each class.
const WORDS: [usize; 4] = [words(0), words(1), words(2), words(3)];

const fn words(class: usize) -> usize {
    (HEADER_BYTES + CLASS_BYTES[class] as usize) / 8
}

/// A raw stack as copied at an event.
#[derive(Clone, Debug)]
pub struct CopiedStack {
    /// The slot that it was in.
    pub slot: SlotRef,
    /// Registers and what belongs to them.
    pub header: StackHeader,
    /// Stack bytes from `header.sp` up.
    pub bytes: Vec<u8>,
    /// Frames of the process's runtime, innermost first.
    pub runtime: Vec<[u8; FRAME_BYTES]>,
    /// The copy filled its slot: there may have been more.
    pub full: bool,
}

impl CopiedStack {
    /// The text of a mark, if that is what it is.
    #[must_use]
    pub fn mark(&self) -> Option<&[u8]> {
        (self.header.flags & FLAG_MARK != 0).then_some(&*self.bytes)
    }
}

/// The slots of all classes.
///
/// Read by copies and not through a mapping: a mapping counts as this process's memory as a whole,
/// and only the stacks of silent connections are ever read.
pub struct Stacks {
    small: Array<MapData, PodWords<{ WORDS[0] }>>,
    middle: Array<MapData, PodWords<{ WORDS[1] }>>,
    large: Array<MapData, PodWords<{ WORDS[2] }>>,
    runtime: Array<MapData, PodWords<{ WORDS[3] }>>,
    free: [Queue<MapData, u32>; 4],
    /// Taken from their connections since the last [`Self::turn`], and before it.
    retired: [Vec<SlotRef>; 2],
}

impl Stacks {
    /// Takes the maps, and fills the lists of free slots.
    pub fn new(ebpf: &mut Ebpf, slots: [u32; CLASS_SLOTS.len()]) -> Result<Self, LoadError> {
        let mut free = [
            take(ebpf, "FREE_STACKS_0")?,
            take(ebpf, "FREE_STACKS_1")?,
            take(ebpf, "FREE_STACKS_2")?,
            take(ebpf, "FREE_STACKS_3")?,
        ];
        for (queue, slots) in free.iter_mut().zip(slots) {
            fill(queue, "FREE_STACKS", 0..slots)?;
        }
        Ok(Self {
            small: take(ebpf, "STACKS_0")?,
            middle: take(ebpf, "STACKS_1")?,
            large: take(ebpf, "STACKS_2")?,
            runtime: take(ebpf, "STACKS_3")?,
            free,
            retired: [Vec::new(), Vec::new()],
        })
    }

    /// Copies a stack out of its slot; `None` when it changed while it was read.
    pub fn read(&self, slot: SlotRef) -> Option<CopiedStack> {
        let mut bytes = self.bytes(slot)?;
        let header: StackHeader = plain_from_bytes(&bytes)?;
        if !header.seq.is_multiple_of(2) || header.seq == 0 || self.seq(slot)? != header.seq {
            return None;
        }
        let capacity = STACK_BYTES[slot.class as usize];
        let frames = bytes.split_off((HEADER_BYTES + capacity as usize).min(bytes.len()));
        let count = if slot.class == RUNTIME_CLASS { header.runtime_frames as usize } else { 0 };
        let runtime = frames.as_chunks().0.iter().copied().take(count.min(MAX_FRAMES)).collect();
        bytes.truncate(HEADER_BYTES + header.len.min(capacity) as usize);
        bytes.drain(..HEADER_BYTES);
        let full = header.flags & FLAG_FULL != 0;
        Some(CopiedStack { slot, header, bytes, runtime, full })
    }

    /// The sequence number of a slot.
    pub fn seq(&self, slot: SlotRef) -> Option<u32> {
        Some(plain_from_bytes::<StackHeader>(&self.bytes(slot)?)?.seq)
    }

    fn bytes(&self, slot: SlotRef) -> Option<Vec<u8>> {
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match slot.class {
            0 => Some(bytes(&self.small.get(&slot.index, 0).ok()?.0)),
            1 => Some(bytes(&self.middle.get(&slot.index, 0).ok()?.0)),
            2 => Some(bytes(&self.large.get(&slot.index, 0).ok()?.0)),
            _ => Some(bytes(&self.runtime.get(&slot.index, 0).ok()?.0)),
        }
    }

    /// Gives a slot back that the kernel side may still be writing to.
    pub fn retire(&mut self, slot: SlotRef) {
        self.retired[0].push(slot);
    }

    /// Gives a slot back that nothing writes to.
    pub fn give_back(&mut self, slot: SlotRef) {
        // Only as many slots as the queue has places are ever out.
        let _full = self.free[slot.class as usize].push(slot.index, 0);
    }

    /// Time has passed: frees what was retired before the last turn.
    pub fn turn(&mut self) {
        for slot in std::mem::take(&mut self.retired[1]) {
            self.give_back(slot);
        }
        self.retired.swap(0, 1);
    }
}
