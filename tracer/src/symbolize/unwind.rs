//! From registers and a copy of stack bytes to code addresses.
//!
//! May import `framehop` and this module's view of a process; no I/O. Invariants: total and
//! bounded ([`MAX_DEPTH`] steps, each of them upward on the stack) whatever the registers and
//! bytes are; an address is reported only when it is in executable memory; where the walk ended
//! is always said.

use std::ops::Range;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{FrameAddress, Module as UnwindModule, ModuleSectionInfo, Unwinder as _};

use tracer_ebpf::stack::CHUNK_BYTES;

use super::RawStack;
use super::maps::{Backing, Maps};
use super::module::{Bytes, Elf, Section};
use crate::model::Frame;

/// Return addresses followed.
pub(super) const MAX_DEPTH: usize = 256;

/// Bytes above the copy that are taken for more stack when the mapping is not known: frames are
/// smaller, wild pointers are mostly farther away.
const PLAUSIBLE_STACK: u64 = 1 << 20;

/// Where the kernel puts the `[uprobes]` page of a 47-bit address space when it can
/// (`xol_add_vma` in `kernel/events/uprobes.c`).
const USUAL_TRAMPOLINE: Range<u64> = 0x7fff_ffff_e000..0x7fff_ffff_f000;

/// A code address of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub value: u64,
    /// The instruction after a call, so the call is one byte before.
    pub is_return: bool,
}

impl Address {
    /// The address to look up.
    pub fn lookup(self) -> u64 {
        if self.is_return { self.value.saturating_sub(1) } else { self.value }
    }
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The unwind information says that nothing called the last frame, or the stack is used up.
    Root,
    /// The chain of frame pointers ended, which code without frame pointers can also cause.
    ChainEnded,
    /// The next frame is above the copied bytes.
    CopyTooSmall,
    /// The next frame is not on the stack.
    OffStack,
    /// The return address is not in executable memory.
    NotCode(u64),
    /// A pending return probe hides the return address.
    HiddenByProbe,
    TooDeep,
    /// A runtime whose frames are among the native ones says that they end, and why.
    OfRuntime(&'static str),
}

/// Where a frame goes on, and its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    pub pc: u64,
    pub sp: u64,
    pub bp: u64,
}

/// What a runtime says of a frame among the native ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is none of the runtime's.
    Native,
    /// The functions it stands for, innermost first, and its caller or why that is not known.
    Managed(Vec<Frame>, Result<Registers, &'static str>),
}

/// Steps over frames of code that a runtime made; the second argument reads words of the stack.
pub(super) type Stepper<'a> = dyn FnMut(Registers, &mut dyn FnMut(u64) -> Option<u64>) -> Step + 'a;

/// A walked stack, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub addresses: Vec<Address>,
    /// What a runtime says of some of them, by index.
    pub managed: Vec<(usize, Vec<Frame>)>,
    pub end: End,
    /// The stack pointer at the last address.
    pub sp: u64,
}

/// The sections that framehop asks for. On ELF the addresses are the file's own, from zero.
struct Sections<'a>(&'a Elf);

impl ModuleSectionInfo<Bytes> for Sections<'_> {
    fn base_svma(&self) -> u64 {
        0
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let section = |section: &Option<Section>| section.as_ref().map(|s| s.addresses.clone());
        match name {
            b".text" => self.0.text.clone(),
            b".got" => self.0.got.clone(),
            b".eh_frame" => section(&self.0.eh_frame),
            b".eh_frame_hdr" => section(&self.0.eh_frame_hdr),
            _ => None,
        }
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Bytes> {
        let section = |section: &Option<Section>| section.as_ref().map(|s| s.bytes.clone());
        match name {
            b".eh_frame" => section(&self.0.eh_frame),
            b".eh_frame_hdr" => section(&self.0.eh_frame_hdr),
            _ => None,
        }
    }
}

/// The unwind information of a process.
#[derive(Default)]
pub(super) struct Unwinder {
    inner: UnwinderX86_64<Bytes>,
    /// Ranges with unwind information, by address: elsewhere frame pointers are followed.
    informed: Vec<Range<u64>>,
}

impl Unwinder {
    /// Adds the code at `range`, whose file says `elf` of it and whose addresses are the file's
    /// plus `bias`. To be called in order of address.
    pub fn add(&mut self, range: Range<u64>, bias: u64, elf: &Elf) {
        if elf.eh_frame.is_none() {
            return;
        }
        self.inner.add_module(UnwindModule::new(String::new(), range.clone(), bias, Sections(elf)));
        self.informed.push(range);
    }

    fn is_informed(&self, address: u64) -> bool {
        let index = self.informed.partition_point(|range| range.end <= address);
        self.informed.get(index).is_some_and(|range| range.contains(&address))
    }

    /// Walks `raw`, a stack of the process with these `maps`; `managed` steps over the frames of
    /// its runtime.
    pub fn walk(&self, raw: &RawStack, maps: &Maps, mut managed: Option<&mut Stepper<'_>>) -> Walk {
        let stack = Copy::new(raw, maps);
        let mut walk = Walk {
            addresses: vec![Address { value: raw.ip, is_return: false }],
            managed: Vec::new(),
            end: End::TooDeep,
            sp: raw.sp,
        };
        let mut regs = UnwindRegsX86_64::new(raw.ip, raw.sp, raw.bp);
        // A cache per walk: rules of another process at the same address, or made while a word
        // could not be read, must not be used.
        let mut cache = CacheX86_64::<_>::new();
        let mut current = FrameAddress::from_instruction_pointer(raw.ip);
        while walk.addresses.len() < MAX_DEPTH {
            let sp = regs.sp();
            walk.sp = sp;
            let mut beyond_copy = false;
            let mut read = |address| {
                let word = stack.read(address);
                beyond_copy |= word.is_none() && stack.continues_to(address);
                word.ok_or(())
            };
            let of_runtime = match &mut managed {
                // A system call is made by native code.
                Some(managed)
                    if walk.addresses.len() > 1
                        && !self.is_informed(current.address_for_lookup()) =>
                {
                    let at = Registers { pc: current.address(), sp, bp: regs.bp() };
                    managed(at, &mut |address| read(address).ok())
                }
                _ => Step::Native,
            };
            let step = match of_runtime {
                Step::Managed(frames, next) => {
                    walk.managed.push((walk.addresses.len() - 1, frames));
                    match next {
                        Ok(next) => {
                            regs = UnwindRegsX86_64::new(next.pc, next.sp, next.bp);
                            Ok(Some(next.pc))
                        }
                        Err(_) if beyond_copy => Err(()),
                        Err(reason) => {
                            walk.end = End::OfRuntime(reason);
                            return walk;
                        }
                    }
                }
                Step::Native if raw.boundary && walk.addresses.len() == 1 => read(sp).map(Some),
                Step::Native => self
                    .inner
                    .unwind_frame(current, &mut regs, &mut cache, &mut read)
                    .map_err(|_| ()),
            };
            // Checked first: after an unreadable word framehop may go on with a guess.
            if beyond_copy {
                walk.end = End::CopyTooSmall;
                return walk;
            }
            let address = match step {
                Ok(Some(address)) => address,
                Ok(None) if self.is_informed(current.address_for_lookup()) => {
                    walk.end = End::Root;
                    return walk;
                }
                Ok(None) => {
                    walk.end = End::ChainEnded;
                    return walk;
                }
                Err(()) => {
                    walk.end = if stack.is_at_end(sp) { End::Root } else { End::OffStack };
                    return walk;
                }
            };
            if raw.boundary && walk.addresses.len() == 1 {
                regs = UnwindRegsX86_64::new(address, sp.saturating_add(8), raw.bp);
            }
            if let Some(end) = refused(address, maps) {
                walk.end = end;
                return walk;
            }
            let Some(next) = FrameAddress::from_return_address(address) else {
                walk.end = End::ChainEnded;
                return walk;
            };
            if regs.sp() <= sp {
                walk.end = End::OffStack;
                return walk;
            }
            walk.addresses.push(Address { value: address, is_return: true });
            current = next;
        }
        walk
    }
}

/// Why `address` cannot be a return address.
fn refused(address: u64, maps: &Maps) -> Option<End> {
    match maps.code_at(address.saturating_sub(1)).map(|(_, map)| &map.backing) {
        None if address == 0 => Some(End::ChainEnded),
        None if USUAL_TRAMPOLINE.start == address => Some(End::HiddenByProbe),
        None => {
            // The trampoline is the first byte of its page, which the byte before is not in.
            let at = maps.code_at(address).map(|(_, map)| &map.backing);
            if at == Some(&Backing::Uprobes) {
                Some(End::HiddenByProbe)
            } else {
                Some(End::NotCode(address))
            }
        }
        Some(_) => None,
    }
}

/// The copied bytes, with the return addresses that pending return probes have replaced.
struct Copy<'a> {
    sp: u64,
    bytes: &'a [u8],
    gap: u64,
    /// (address of the slot, the word to read there)
    repaired: Vec<(u64, u64)>,
    /// End of the mapping that the stack is in.
    end: Option<u64>,
}

impl<'a> Copy<'a> {
    fn new(raw: &'a RawStack, maps: &Maps) -> Self {
        let mut copy = Self {
            sp: raw.sp,
            bytes: &raw.bytes,
            gap: raw.gap,
            repaired: Vec::new(),
            end: maps.stack_at(raw.sp).map(|range| range.end),
        };
        let trampoline = maps
            .code
            .iter()
            .find(|map| map.backing == Backing::Uprobes)
            .map_or(USUAL_TRAMPOLINE, |map| map.start..map.end);
        for &(address, original) in &raw.fixups {
            // `return_instance.stack` is the stack pointer after the return on x86-64
            // (`arch_uretprobe_hijack_return_addr`), one word above the slot; a kernel that
            // keeps the slot itself is met by looking at both.
            let slots = [address.saturating_sub(8), address];
            let hijacked =
                |slot: &u64| copy.read(*slot).is_some_and(|word| trampoline.contains(&word));
            if let Some(slot) = slots.into_iter().find(hijacked) {
                copy.repaired.push((slot, original));
            }
        }
        copy
    }

    fn read(&self, address: u64) -> Option<u64> {
        if let Some((_, word)) = self.repaired.iter().find(|(slot, _)| *slot == address) {
            return Some(*word);
        }
        let mut start = address.checked_sub(self.sp)?;
        if start >= u64::from(CHUNK_BYTES) {
            start = start.checked_sub(self.gap).filter(|at| *at >= u64::from(CHUNK_BYTES))?;
        }
        let start = usize::try_from(start).ok()?;
        let word = self.bytes.get(start..start.checked_add(8)?)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }

    /// Whether there is stack at `address`, above the copied bytes.
    fn continues_to(&self, address: u64) -> bool {
        let mut copied = self.sp.saturating_add(self.bytes.len() as u64);
        let end = self.end.unwrap_or(copied.saturating_add(PLAUSIBLE_STACK));
        if self.gap > 0 {
            copied = copied.min(self.sp.saturating_add(u64::from(CHUNK_BYTES)));
        }
        address.saturating_add(8) > copied && address < end
    }

    fn is_at_end(&self, sp: u64) -> bool {
        self.end.is_some_and(|end| sp >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, End, Maps, RawStack, Unwinder, Walk};
    use proptest::prelude::*;

    const MAPS: &[u8] = b"1000-9000 r-xp 0 0:0 7 /app\n\
        100000-110000 rw-p 0 0:0 0 [stack]\n\
        7fffffffe000-7ffffffff000 --xp 0 0:0 0 [uprobes]\n";

    fn raw(bp: u64, words: &[u64]) -> RawStack {
        RawStack {
            pid: 1,
            ip: 0x1100,
            sp: 0x10_0000,
            bp,
            boundary: false,
            bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
            fixups: Vec::new(),
            ..RawStack::default()
        }
    }

    fn walk(raw: &RawStack) -> Walk {
        Unwinder::default().walk(raw, &Maps::parse(MAPS), None)
    }

    fn values(walk: &Walk) -> Vec<u64> {
        walk.addresses.iter().map(|address| address.value).collect()
    }

    #[test]
    fn frame_pointers_are_followed_where_there_is_no_unwind_information() {
        let walk = walk(&raw(0x10_0008, &[9, 0x10_0018, 0x1200, 0, 0x1300]));
        assert_eq!(values(&walk), [0x1100, 0x1200, 0x1300]);
        assert_eq!(walk.end, End::ChainEnded);
    }

    #[test]
    fn at_a_boundary_the_caller_is_at_the_stack_pointer_and_its_frame_pointer_is_current() {
        let mut stack = raw(0x10_0010, &[0x1200, 7, 0, 0x1300]);
        stack.boundary = true;
        let walk = walk(&stack);
        assert_eq!(values(&walk), [0x1100, 0x1200, 0x1300]);
        assert_eq!(walk.addresses[1], Address { value: 0x1200, is_return: true });
        assert_eq!(walk.end, End::ChainEnded);
    }

    #[test]
    fn a_copy_that_ends_before_the_stack_does_is_told_from_a_lost_chain() {
        assert_eq!(walk(&raw(0x10_4000, &[1, 2, 3])).end, End::CopyTooSmall);
        assert_eq!(walk(&raw(0x11_0000, &[1, 2, 3])).end, End::OffStack);
        assert_eq!(walk(&raw(0x0f_0000, &[1, 2, 3])).end, End::OffStack);
        assert_eq!(walk(&raw(0x10_0000, &[0, 0x55])).end, End::NotCode(0x55));
    }

    #[test]
    fn a_return_address_taken_by_a_return_probe_is_put_back_under_both_conventions() {
        for shift in [8, 0] {
            let mut stack = raw(0x10_0000, &[0, 0x7fff_ffff_e000]);
            assert_eq!(walk(&stack).end, End::HiddenByProbe);
            stack.fixups = vec![(0x10_0008 + shift, 0x1200)];
            assert_eq!(values(&walk(&stack)), [0x1100, 0x1200], "shift {shift}");
        }
    }

    #[test]
    fn a_word_that_no_probe_has_replaced_is_left_alone() {
        let mut stack = raw(0x10_0000, &[0, 0x1300]);
        stack.fixups = vec![(0x10_0010, 0x1200)];
        assert_eq!(values(&walk(&stack)), [0x1100, 0x1300]);
    }

    #[test]
    fn a_stack_with_a_gap_goes_on_behind_it() {
        const GAP: u64 = 0x4000;
        let first = super::CHUNK_BYTES as usize / 8;
        let above = 0x10_0000 + u64::from(super::CHUNK_BYTES) + GAP;
        let mut words = vec![0; first + 2];
        (words[1], words[2]) = (above, 0x1200);
        words[first + 1] = 0x1300;
        let mut stack = raw(0x10_0008, &words);
        stack.gap = GAP;
        let whole = walk(&stack);
        assert_eq!(values(&whole), [0x1100, 0x1200, 0x1300]);
        assert_eq!(whole.end, End::ChainEnded);
        // Into the gap.
        stack.bytes[8..16].copy_from_slice(&(above - 8).to_le_bytes());
        assert_eq!(walk(&stack).end, End::CopyTooSmall);
    }

    #[test]
    fn a_stack_without_end_is_given_up() {
        let words: Vec<u64> =
            (0..4096_u64).flat_map(|frame| [0x10_0000 + 16 * (frame + 1), 0x1200]).collect();
        let walk = walk(&raw(0x10_0000, &words));
        assert_eq!((walk.addresses.len(), walk.end), (super::MAX_DEPTH, End::TooDeep));
    }

    proptest! {
        #[test]
        fn any_registers_and_bytes_give_a_bounded_walk(
            (ip, sp, bp) in (any::<u64>(), any::<u64>(), any::<u64>()),
            boundary in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
            fixups in proptest::collection::vec(any::<(u64, u64)>(), 0..4),
            gap in any::<u64>(),
        ) {
            let walk = walk(&RawStack {
                pid: 1, ip, sp, bp, boundary, bytes, fixups, gap, ..RawStack::default()
            });
            prop_assert!(walk.addresses.len() <= super::MAX_DEPTH);
        }

        #[test]
        fn plausible_words_give_a_bounded_walk(
            bp in 0x0f_fff0_u64..0x10_0200,
            boundary in any::<bool>(),
            words in proptest::collection::vec(
                prop_oneof![0x1000_u64..0x9000, 0x10_0000_u64..0x10_0400, Just(0), Just(0x7fff_ffff_e000)],
                0..128,
            ),
        ) {
            let mut stack = raw(bp, &words);
            stack.boundary = boundary;
            let walk = walk(&stack);
            prop_assert!(walk.addresses.len() <= words.len() + 1);
        }
    }
}
