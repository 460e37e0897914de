//! MySQL, as far as silence needs it: a server that speaks first, the login, and commands by their
//! first byte. Everything else is direction and time, as under TLS.
//!
//! May import the wire's state and [`walk`](super::walk)'s neighbours. A packet is three bytes of
//! length (low byte first), a sequence number and the payload; each command begins anew at sequence
//! number 0 (MySQL "Client/Server Protocol", "MySQL Packets", "Connection Phase", "Command Phase").
//!
//! What it does not do: it follows no packet behind the first of a send, and reads no answer.

use super::{
    MARK_COPY_BOTH, MARK_TERMINATED, Memory, PHASE_ENCRYPTED, PHASE_GREETED, PHASE_MYSQL,
    STATEMENT_NONE, STATEMENT_SQL, Segments, Wire,
};
use crate::limits::STATEMENT_BYTES;

/// Version of the protocol, the first byte of the server's greeting.
const PROTOCOL: u8 = 10;
/// Bytes of a packet's header.
const HEADER: u64 = 4;
/// Payload of the packet that asks for TLS: a login without user. A login has more.
const TLS_REQUEST: u8 = 32;

/// Commands that the server answers with a stream of its binary log.
const BINLOG_DUMP: u8 = 0x12;
const BINLOG_DUMP_GTID: u8 = 0x1e;
const QUIT: u8 = 0x01;
const QUERY: u8 = 0x03;
const PING: u8 = 0x0e;
const STMT_PREPARE: u8 = 0x16;
/// Commands that the server does not answer.
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
pub const STMT_CLOSE: u8 = 0x19;
/// What drivers send of themselves, between two users of a connection.
const RESET_CONNECTION: u8 = 0x1f;

/// The first receive, where nothing was sent before: PostgreSQL's servers never speak first.
#[inline(always)]
pub fn greeting<M: Memory>(memory: &mut M, wire: &mut Wire, mut segments: Segments) {
    if segments.left == 0 && !segments.next(memory) {
        return;
    }
    if segments.left < HEADER {
        return;
    }
    let Some([low, high, none, sequence]) = memory.read::<4>(segments.at) else {
        return;
    };
    // A greeting has some eighty bytes.
    if none != 0 || sequence != 0 || (low < 32 && high == 0) || high > 3 {
        return;
    }
    // Some clients read the header first.
    if segments.left > HEADER {
        let Some([version]) = memory.read::<1>(segments.at.wrapping_add(HEADER)) else {
            return;
        };
        if version != PROTOCOL {
            return;
        }
    }
    wire.phase = PHASE_GREETED;
}

/// A send: the login, or a command.
#[inline(always)]
pub fn on_send<M: Memory>(memory: &mut M, wire: &mut Wire, mut segments: Segments) {
    if segments.left == 0 && !segments.next(memory) {
        return;
    }
    let Segments { at, left, .. } = segments;
    if left <= HEADER {
        return;
    }
    let Some([low, middle, high, sequence, command]) = memory.read::<5>(at) else {
        return;
    };
    if sequence != 0 {
        if wire.phase == PHASE_GREETED && sequence == 1 {
            if low == TLS_REQUEST && middle == 0 && high == 0 {
                wire.phase = PHASE_ENCRYPTED;
                return;
            }
            let payload = left - HEADER;
            let most = u64::from(u16::MAX);
            memory.keep_startup(
                at.wrapping_add(HEADER),
                if payload < most { payload as u32 } else { most as u32 },
            );
        }
        return;
    }
    wire.phase = PHASE_MYSQL;
    wire.last_frontend = command;
    match command {
        QUIT => wire.marks |= MARK_TERMINATED,
        BINLOG_DUMP | BINLOG_DUMP_GTID => wire.marks |= MARK_COPY_BOTH,
        PING | STMT_SEND_LONG_DATA | STMT_CLOSE | RESET_CONNECTION => {}
        QUERY | STMT_PREPARE => {
            wire.statements = wire.statements.wrapping_add(1);
            wire.statement_kind = STATEMENT_NONE;
            let text = left - HEADER - 1;
            if text != 0 {
                let most = STATEMENT_BYTES as u32;
                let max = if text < u64::from(most) { text as u32 } else { most };
                // What it marks are PostgreSQL's words.
                let _marks = memory.keep_statement(at.wrapping_add(HEADER + 1), max);
                wire.statement_kind = STATEMENT_SQL;
            }
        }
        _ => wire.statements = wire.statements.wrapping_add(1),
    }
}
