//! Stack slots: registers and raw stack bytes copied at an event.
//!
//! May import [`limits`](crate::limits) and [`runtime`]. Invariants: a slot is rewritten in place; `seq` is odd
//! while it is written, so a reader copies, compares `seq` before and after, and retries. A slot
//! belongs to one connection and one kind until user space, which has understood it or seen the
//! connection's end, returns it to its class's free list.

use crate::limits::MAX_FIXUPS;
use crate::runtime;

/// Bytes of stack in a slot of each class. A process starts in class 0 and is moved up by user
/// space, to [`LARGEST_CLASS`] at the most, when its unwinds end before the application's frames.
///
/// Of the runtimes only Node.js's stacks are longer than [`CHUNK_BYTES`]: their frames are found on
/// the stack, and one long read is cheaper than one for each.
pub const STACK_BYTES: [u32; 4] = [4 << 10, 16 << 10, 48 << 10, 8 << 10];

/// The class with the most bytes.
pub const LARGEST_CLASS: u32 = 2;

/// The class of processes whose runtime's frames are copied: they follow the bytes of the stack.
pub const RUNTIME_CLASS: u32 = 3;

/// Bytes of a slot of each class after its header.
pub const CLASS_BYTES: [u32; 4] = [
    STACK_BYTES[0],
    STACK_BYTES[1],
    STACK_BYTES[2],
    STACK_BYTES[3] + (runtime::MAX_FRAMES * runtime::FRAME_BYTES) as u32,
];

/// Slots of each class (16, 8, 3 and 15 MiB). When none is free the event keeps no stack and
/// [`NoStackSlot`](crate::drops::DropReason::NoStackSlot) is counted.
pub const CLASS_SLOTS: [u32; 4] = [4096, 512, 64, 1024];

/// Bytes left out of a stack at the most: what one frame may have for a buffer.
pub const MAX_GAP: u64 = 256 << 10;

/// Bytes read of a goroutine's record, which begins with the bounds of its stack: its number must be
/// among them.
pub const GOROUTINE_BYTES: u32 = 168;

/// Bytes copied by one helper call; the first chunk ends at a page boundary so that a stack that
/// ends within the range still gives what it has.
pub const CHUNK_BYTES: u32 = 4 << 10;

/// The connection was opened: the stack at `connect`.
pub const KIND_OPEN: usize = 0;
/// The first send after the server was done: the code that uses the connection. Which of the two
/// kinds the last use has is [`Wire::use_kind`](crate::wire::Wire::use_kind).
pub const KIND_USE: usize = 1;
/// A pool's acquire returned the connection.
pub const KIND_ACQUIRE: usize = 2;
/// The other one of the uses: it leaves that in peace which began the transaction.
pub const KIND_USE_OTHER: usize = 3;
/// Number of kinds.
pub const KINDS: usize = 4;
const _: () = assert!(KINDS.is_power_of_two());

/// Set in [`StackHeader::flags`]: the registers are those at a function's first instruction or at
/// a RET, so the return address is the word at `sp` and `bp` is the caller's.
pub const FLAG_BOUNDARY: u32 = 1;
/// The same: no stack was copied, the bytes are the text of a [mark](crate::mark).
pub const FLAG_MARK: u32 = 2;
/// All that was to be copied of the stack is there: it may go on.
pub const FLAG_FULL: u32 = 4;

/// Beginning of a stack slot; [`STACK_BYTES`] bytes of stack follow at [`HEADER_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StackHeader {
    /// Odd while the slot is written.
    pub seq: u32,
    /// [`FLAG_BOUNDARY`], [`FLAG_MARK`], [`FLAG_FULL`]
    pub flags: u32,
    /// Connection id (see [`conn`](crate::conn)).
    pub conn: u64,
    /// Time of the event, `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    pub tgid: u32,
    pub tid: u32,
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    /// `r14`: the goroutine in Go code.
    pub g: u64,
    /// Bytes of stack obtained, from `sp` up but for the gap.
    pub len: u32,
    /// Entries of `fixups` in use.
    pub fixup_count: u32,
    /// Pending uretprobes: (address of the stack slot, the return address it held).
    pub fixups: [[u64; 2]; MAX_FIXUPS],
    /// Frames of the runtime in the slot, and how they end (`END_` constants).
    pub runtime_frames: u32,
    pub runtime_end: u32,
    /// Bytes of stack left out behind the first [`CHUNK_BYTES`].
    pub gap: u64,
    /// Number of the goroutine whose stack it is; zero where that is not known.
    pub goid: u64,
    /// Node.js: what may be taken over from the stack that was here before (see [`node`](crate::node)), and
    /// since when.
    pub kept_at: u64,
    pub tail_fp: u64,
    pub tail_pc: u64,
    /// The same: bytes of the stack from `sp` to behind JavaScript's outermost frame.
    pub reach: u32,
    pub _pad: u32,
}

/// Bytes before the stack in a slot.
pub const HEADER_BYTES: usize = 256;
const _: () = assert!(size_of::<StackHeader>() == HEADER_BYTES);

/// A reference to a stack slot as kept in a connection: zero is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// Index into [`CLASS_BYTES`].
    pub class: u32,
    /// Index of the slot within its class.
    pub index: u32,
}

impl SlotRef {
    /// The form kept in a connection.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        ((self.class + 1) << 24) | (self.index & 0x00ff_ffff)
    }

    /// `None` when there is no slot.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(raw: u32) -> Option<Self> {
        let class = raw >> 24;
        if class == 0 || class > CLASS_BYTES.len() as u32 {
            return None;
        }
        Some(Self { class: class - 1, index: raw & 0x00ff_ffff })
    }

    /// The kind of stack that this is the slot of now, in a connection with these.
    #[must_use]
    pub fn kind(self, stacks: &[u32; KINDS]) -> Option<usize> {
        stacks.iter().position(|packed| *packed == self.pack())
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASS_SLOTS, KIND_USE, KIND_USE_OTHER, SlotRef};

    #[test]
    fn the_kind_of_a_slot_is_where_the_connection_has_it() {
        let [one, other, gone] = [7, 8, 9].map(|index| SlotRef { class: 0, index });
        let mut stacks = [0; super::KINDS];
        stacks[KIND_USE] = one.pack();
        stacks[KIND_USE_OTHER] = other.pack();
        assert_eq!(one.kind(&stacks), Some(KIND_USE));
        assert_eq!(other.kind(&stacks), Some(KIND_USE_OTHER));
        assert_eq!(gone.kind(&stacks), None);
    }

    #[test]
    fn a_slot_reference_survives_packing_and_zero_is_none() {
        assert_eq!(SlotRef::unpack(0), None);
        for class in 0..CLASS_SLOTS.len() as u32 {
            let slot = SlotRef { class, index: CLASS_SLOTS[class as usize] - 1 };
            assert_eq!(SlotRef::unpack(slot.pack()), Some(slot));
        }
        assert_eq!(SlotRef::unpack(u32::MAX), None);
    }
}
