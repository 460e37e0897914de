//! The frame pointer of a thread of which only the stack and program pointers are known.
//!
//! May import `iced_x86` and `std`; pure. A function that keeps a frame pointer sets it first, and
//! then makes room on the stack: what it has pushed and subtracted by the time of a call is how far
//! its frame pointer is above its stack pointer. Invariants: total for any bytes; where something
//! else could have moved either pointer nothing is said. What is said is still to be checked against
//! the stack.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

/// Bytes of a function in which it sets up its frame.
pub(super) const PROLOGUE_BYTES: usize = 256;
/// Bytes before a return address in which its call is.
pub(super) const CALL_BYTES: usize = 7;

/// How far the frame pointer is above the stack pointer behind the prologue of a function whose first
/// bytes are `code`; `None` if it keeps none, or has none so far.
pub(super) fn above_stack_pointer(code: &[u8]) -> Option<u64> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    let mut is_saved = false;
    let mut above = None::<u64>;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            return above;
        }
        let writes = |register: Register, infos: &mut InstructionInfoFactory| {
            let used = infos.info(&instruction).used_registers().iter();
            used.clone().any(|used| {
                used.register().full_register() == register && used.access() != OpAccess::Read
            })
        };
        let first = instruction.op0_register();
        match (instruction.mnemonic(), above) {
            (Mnemonic::Push, None) if first == Register::RBP => is_saved = true,
            (Mnemonic::Mov, None)
                if is_saved
                    && first == Register::RBP
                    && instruction.op1_register() == Register::RSP =>
            {
                above = Some(0);
            }
            (Mnemonic::Push, Some(so_far)) => above = Some(so_far + 8),
            (Mnemonic::Sub, Some(so_far))
                if first == Register::RSP && instruction.op1_kind() != OpKind::Register =>
            {
                let room = u64::try_from(instruction.immediate(1).cast_signed()).ok()?;
                above = Some(so_far.checked_add(room)?);
            }
            (_, Some(_)) if writes(Register::RSP, &mut infos) => return None,
            _ if writes(Register::RBP, &mut infos) => return None,
            _ => {}
        }
    }
    above
}

/// Whether these bytes, which end at a return address, end in a call.
pub(super) fn ends_in_call(bytes: &[u8]) -> bool {
    (2..=CALL_BYTES.min(bytes.len())).any(|length| {
        let code = &bytes[bytes.len() - length..];
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        let instruction = decoder.decode();
        instruction.len() == length
            && matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // push rbp; mov rbp, rsp
    const FRAME: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
    // call rax
    const CALL: [u8; 2] = [0xff, 0xd0];

    fn above(code: &[&[u8]]) -> Option<u64> {
        above_stack_pointer(&code.concat())
    }

    #[test]
    fn what_is_pushed_and_subtracted_is_the_distance() {
        // endbr64; push r15; push rbx; mov edi, 1; sub rsp, 0x18; sub rsp, 0x2000
        let landing: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
        let room: &[u8] = &[0x41, 0x57, 0x53, 0xbf, 1, 0, 0, 0, 0x48, 0x83, 0xec, 0x18];
        let more: &[u8] = &[0x48, 0x81, 0xec, 0, 0x20, 0, 0];
        assert_eq!(above(&[landing, &FRAME, room, &CALL]), Some(0x28));
        assert_eq!(above(&[&FRAME, room, more, &CALL]), Some(0x2028));
        assert_eq!(above(&[&FRAME]), Some(0));
    }

    #[test]
    fn nothing_is_said_without_a_frame_pointer_or_of_one_that_moves() {
        assert_eq!(above(&[&[0x53], &CALL]), None);
        // mov rbp, rsp, of a caller's that was not saved
        assert_eq!(above(&[&FRAME[1..], &CALL]), None);
        // and rsp, -32
        assert_eq!(above(&[&FRAME, &[0x48, 0x83, 0xe4, 0xe0], &CALL]), None);
        // sub rsp, rax
        assert_eq!(above(&[&FRAME, &[0x48, 0x29, 0xc4], &CALL]), None);
        // mov rbp, rdi
        assert_eq!(above(&[&FRAME, &[0x48, 0x89, 0xfd], &CALL]), None);
        // A frame that is made behind a call.
        assert_eq!(above(&[&CALL, &FRAME]), None);
    }

    #[test]
    fn a_call_is_told_from_what_is_none() {
        assert!(ends_in_call(&[0x90, 0x90, 0xe8, 1, 2, 3, 4]));
        assert!(ends_in_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0]));
        // call [rip + 4]
        assert!(ends_in_call(&[0x90, 0xff, 0x15, 4, 0, 0, 0]));
        assert!(!ends_in_call(&[0x90; 7]));
        assert!(!ends_in_call(&[0x55, 0x48, 0x89, 0xe5]));
        assert!(!ends_in_call(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_code(code in prop::collection::vec(any::<u8>(), 0..300)) {
            let _above = above_stack_pointer(&code);
            let _call = ends_in_call(&code);
        }
    }
}
