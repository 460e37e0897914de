//! Where a function ends: its RET instructions and its jumps into other functions.
//!
//! May import nothing of ours. Invariant: instructions are decoded one after the other from the
//! function's first byte; a byte that merely looks like a RET is never taken for one, because a
//! probe written into the middle of an instruction would break the traced process. When the
//! decoding is in any doubt the whole function is refused.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use thiserror::Error;

/// Bytes of a function that is decoded at most; real ones that matter here have some thousand.
const MAX_FUNCTION: usize = 1 << 20;

/// Why a function's ends are not known.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error("the function's size is not known or not plausible")]
    Size,
    #[error("no instruction can be decoded at {0:#x}")]
    Invalid(u64),
    #[error("a jump goes into the middle of an instruction, at {0:#x}")]
    Jump(u64),
    #[error("the function does not return")]
    NoReturn,
}

/// The ends of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Addresses of the RET instructions.
    pub returns: Vec<u64>,
    /// Addresses of jumps out of the function: tail calls, and parts that a compiler has moved
    /// away as unlikely. What is returned through them is not seen at `returns`.
    pub jumps_out: Vec<u64>,
}

/// Decodes the function whose bytes are `code`, the first of them at address `start`.
///
/// # Errors
/// When the decoding cannot be trusted or the function never returns.
pub fn exits(code: &[u8], start: u64) -> Result<Exits, Error> {
    let end = start.checked_add(code.len() as u64).ok_or(Error::Size)?;
    if code.is_empty() || code.len() > MAX_FUNCTION {
        return Err(Error::Size);
    }
    let mut exits = Exits::default();
    let mut instructions = Vec::new();
    let mut targets = Vec::new();
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let at = instruction.ip();
        if instruction.is_invalid() {
            return Err(Error::Invalid(at));
        }
        instructions.push(at);
        match instruction.flow_control() {
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {
                exits.returns.push(at);
            }
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                let target = instruction.near_branch_target();
                if (start..end).contains(&target) {
                    targets.push(target);
                } else {
                    exits.jumps_out.push(at);
                }
            }
            // Through the global offset table; a jump table has a register in its address.
            FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                exits.jumps_out.push(at);
            }
            _ => {}
        }
    }
    if let Some(&target) = targets.iter().find(|target| instructions.binary_search(target).is_err())
    {
        return Err(Error::Jump(target));
    }
    if exits.returns.is_empty() {
        return Err(Error::NoReturn);
    }
    Ok(exits)
}

/// Offsets from the first argument (`rdi`) at which a C function loads a 32-bit value, in the order
/// of its code: of an accessor, the members it chooses from.
#[must_use]
pub fn loads_from_first_argument(code: &[u8]) -> Vec<i32> {
    let mut offsets = Vec::new();
    for instruction in Decoder::new(64, code, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            break;
        }
        if instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_register().is_gpr32()
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_base() == Register::RDI
            && instruction.memory_index() == Register::None
            && let Ok(offset) = i32::try_from(instruction.memory_displacement64().cast_signed())
            && !offsets.contains(&offset)
        {
            offsets.push(offset);
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::{Error, Exits, exits, loads_from_first_argument};

    #[test]
    fn a_byte_that_looks_like_a_ret_is_none() {
        // mov eax, 0xc3c3c3c3; ret; int3 (padding)
        let code = [0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xcc];
        assert_eq!(
            exits(&code, 0x1000),
            Ok(Exits { returns: vec![0x1005], jumps_out: Vec::new() })
        );
    }

    #[test]
    fn a_jump_out_is_noted_and_one_inside_is_not() {
        // je +1 (to the ret); nop; ret; jmp 0x2000
        let code = [0x74, 0x01, 0x90, 0xc3, 0xe9, 0xf7, 0x0f, 0x00, 0x00];
        assert_eq!(
            exits(&code, 0x1000),
            Ok(Exits { returns: vec![0x1003], jumps_out: vec![0x1004] })
        );
    }

    #[test]
    fn a_function_that_cannot_be_decoded_for_certain_is_refused() {
        // A jump into the middle of the mov: the linear decoding is not what runs.
        assert_eq!(exits(&[0xeb, 0x01, 0xb8, 0xc3, 0, 0, 0, 0xc3], 0), Err(Error::Jump(3)));
        // An invalid instruction, then a RET that might be data.
        assert_eq!(exits(&[0x06, 0xc3], 0), Err(Error::Invalid(0)));
        // Cut within an instruction.
        assert_eq!(exits(&[0xc3, 0xb8, 0x00], 0), Err(Error::Invalid(1)));
        assert_eq!(exits(&[0xeb, 0xfe], 0), Err(Error::NoReturn));
        assert_eq!(exits(&[], 0), Err(Error::Size));
    }

    #[test]
    fn an_accessor_tells_the_offset_of_its_member() {
        // test rdi, rdi; je +7; mov eax, [rdi+0x1b8]; ret
        let code = [0x48, 0x85, 0xff, 0x74, 0x07, 0x8b, 0x87, 0xb8, 0x01, 0x00, 0x00, 0xc3];
        assert_eq!(loads_from_first_argument(&code), [0x1b8]);
    }
}
