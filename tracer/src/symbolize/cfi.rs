//! Whether a file's unwind information can be followed in bounded time.
//!
//! May import `gimli` and the type of a [`Section`]; pure. DWARF expressions can branch backwards, and the unwinder
//! evaluates them for as long as they run; a program could so hold up whoever looks at its stack.
//! Compilers and linkers emit no such branch: the expressions of real files are those of PLT
//! entries and signal frames, which have none. So every expression is looked at once per file,
//! and a file with one that branches backwards is unwound by frame pointers. The bytes looked at
//! are those the unwinder will use: its index must lead to the same entries.

use std::collections::HashSet;
use std::ops::Deref;

use gimli::{
    BaseAddresses, CallFrameInstruction as Cfi, CallFrameInstructionIter, CieOrFde, EhFrame,
    EhFrameHdr, EhFrameOffset, Encoding, EndianSlice, LittleEndian, Operation, UnwindExpression,
    UnwindSection as _,
};

use super::module::Section;

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// Whether no expression in `eh_frame` branches backwards and `eh_frame_hdr`, where there is one,
/// leads only to entries that were looked at.
pub(super) fn is_bounded<B: Deref<Target = [u8]>>(
    eh_frame: &Section<B>,
    eh_frame_hdr: Option<&Section<B>>,
) -> bool {
    let mut bases = BaseAddresses::default().set_eh_frame(eh_frame.addresses.start);
    if let Some(hdr) = eh_frame_hdr {
        bases = bases.set_eh_frame_hdr(hdr.addresses.start);
    }
    let Ok(entries) = checked_entries(&eh_frame.bytes, &bases) else { return false };
    eh_frame_hdr.is_none_or(|hdr| leads_to(&hdr.bytes, &bases, &entries))
}

/// Where the function begins that is at `address`, of the addresses of a bounded file.
pub(super) fn function_at<B: Deref<Target = [u8]>>(
    eh_frame: &Section<B>,
    eh_frame_hdr: &Section<B>,
    address: u64,
) -> Option<u64> {
    let bases = BaseAddresses::default()
        .set_eh_frame(eh_frame.addresses.start)
        .set_eh_frame_hdr(eh_frame_hdr.addresses.start);
    let mut section = EhFrame::new(&eh_frame.bytes, LittleEndian);
    section.set_address_size(8);
    let hdr = EhFrameHdr::new(&eh_frame_hdr.bytes, LittleEndian).parse(&bases, 8).ok()?;
    let table = hdr.table()?;
    let fde = table.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset).ok()?;
    Some(fde.initial_address())
}

/// Why a file is refused: broken, or an expression branches backwards.
struct Refused;

impl From<gimli::Error> for Refused {
    fn from(_: gimli::Error) -> Self {
        Self
    }
}

/// Offsets of all frame descriptions, every expression of which was looked at.
fn checked_entries(bytes: &[u8], bases: &BaseAddresses) -> Result<Vec<usize>, Refused> {
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    let mut offsets = Vec::new();
    let mut seen_cies = HashSet::new();
    let mut entries = section.entries(bases);
    while let Some(entry) = entries.next()? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset)?;
        let encoding = fde.cie().encoding();
        check(fde.instructions(&section, bases), &section, encoding)?;
        if seen_cies.insert(fde.cie().offset()) {
            check(fde.cie().instructions(&section, bases), &section, encoding)?;
        }
        offsets.push(fde.offset());
    }
    Ok(offsets)
}

fn check(
    mut instructions: CallFrameInstructionIter<'_, Reader<'_>>,
    section: &EhFrame<Reader<'_>>,
    encoding: Encoding,
) -> Result<(), Refused> {
    while let Some(instruction) = instructions.next()? {
        let expression: UnwindExpression<usize> = match instruction {
            Cfi::DefCfaExpression { expression }
            | Cfi::Expression { expression, .. }
            | Cfi::ValExpression { expression, .. } => expression,
            _ => continue,
        };
        let mut operations = expression.get(section)?.operations(encoding);
        while let Some(operation) = operations.next()? {
            if let Operation::Bra { target } | Operation::Skip { target } = operation
                && target < 0
            {
                return Err(Refused);
            }
        }
    }
    Ok(())
}

/// Whether the search table of `hdr` leads only to `entries`, which are in order.
fn leads_to(hdr: &[u8], bases: &BaseAddresses, entries: &[usize]) -> bool {
    let Ok(hdr) = EhFrameHdr::new(hdr, LittleEndian).parse(bases, 8) else { return false };
    let Some(table) = hdr.table() else { return false };
    let mut rows = table.iter(bases);
    loop {
        match rows.next() {
            Ok(None) => return true,
            Ok(Some((_, pointer))) => {
                let offset = table.pointer_to_offset(pointer);
                let known = |EhFrameOffset(offset)| entries.binary_search(&offset).is_ok();
                if !offset.is_ok_and(known) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}
