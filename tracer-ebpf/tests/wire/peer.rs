//! A client whose sends and receives are reported to the walker, with its memory.

use tracer_ebpf::{
    limits::{STARTUP_BYTES, STATEMENT_BYTES},
    statement::{PREFIX_BYTES, classify},
    wire::{
        self, Memory, NAME_BYTES, PHASE_READY, PHASE_UNKNOWN, Segments, Wire, name_key, near_name,
    },
};

use super::messages::{startup, startup_answer};

/// Address of the arena's first byte.
const BASE: u64 = 0x7000_0000;
/// Bytes that are no part of any buffer, between any two.
const GAP: usize = 64;

/// Memory of the traced process: one arena, in which only some ranges may be read.
pub struct Arena {
    bytes: Vec<u8>,
    allowed: Vec<(u64, u64)>,
    /// Ranges that may not be read at all, as pages that are not there.
    pub missing: bool,
    /// The call itself names addresses outside of the arena's buffers.
    pub roam: bool,
    /// Reads of the last call, and those outside the buffers of the call.
    pub reads: u32,
    pub strayed: u32,
    pub statement: Vec<u8>,
    pub startup: Vec<u8>,
    /// Process id and key of the backend.
    pub key: Option<(u32, u32)>,
    /// Bytes of a buffer at hand, at most.
    pub window_bytes: u64,
    /// Where they are, and how many.
    window: (u64, u64),
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            allowed: Vec::new(),
            missing: false,
            roam: false,
            reads: 0,
            strayed: 0,
            statement: Vec::new(),
            startup: Vec::new(),
            key: None,
            window_bytes: 255,
            window: (0, 0),
        }
    }
}

impl Arena {
    /// Puts bytes into the arena, where they may be read, between bytes that may not.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        // Looks like messages, so that a read too far has consequences.
        self.bytes.extend(b"Z\0\0\0\x05IS\0\0\0\x04".iter().cycle().take(GAP));
        let at = BASE + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        self.allowed.push((at, at + bytes.len() as u64));
        self.bytes.extend(b"Z\0\0\0\x05IS\0\0\0\x04".iter().cycle().take(GAP));
        at
    }

    /// Puts the only buffer of a call, the beginning of which is at hand.
    fn put_only(&mut self, bytes: &[u8]) -> u64 {
        let at = self.put(bytes);
        if !self.missing {
            self.window = (at, self.window_bytes.min(bytes.len() as u64));
        }
        at
    }

    /// Forgets the buffers of the call before.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.allowed.clear();
        self.window = (0, 0);
        self.reads = 0;
    }

    /// The byte at an address of the arena; counts those that may not be read.
    fn byte(&mut self, address: u64) -> Option<u8> {
        if self.missing {
            return None;
        }
        if !self.roam && !self.allowed.iter().any(|(from, to)| (*from..*to).contains(&address)) {
            self.strayed += 1;
        }
        let index = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.bytes.get(index).copied()
    }

    /// As `bpf_probe_read_user_str` of so many bytes: up to the NUL or one byte less, NUL added.
    fn string(&mut self, address: u64, size: usize) -> Option<Vec<u8>> {
        self.reads += 1;
        let mut text = Vec::new();
        while text.len() + 1 < size {
            match self.byte(address.checked_add(text.len() as u64)?)? {
                0 => break,
                byte => text.push(byte),
            }
        }
        Some(text)
    }
}

impl Memory for Arena {
    fn read<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        self.reads += 1;
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(address.checked_add(index as u64)?)?;
        }
        Some(bytes)
    }

    fn window(&self) -> u64 {
        self.window.1
    }

    fn near<const N: usize>(&self, at: u64) -> [u8; N] {
        let (start, len) = self.window;
        // Behind the window stands what another call left: here, what ends every name.
        std::array::from_fn(|index| match at + index as u64 {
            at if at < len => self.bytes[usize::try_from(start + at - BASE).expect("small")],
            _ => 0,
        })
    }

    fn name(&mut self, wire: &mut Wire, address: u64, max: u32) {
        let at = address.wrapping_sub(self.window.0);
        if at < self.window.1 && near_name(self, wire, at) {
            return;
        }
        let size = (max as usize).min(NAME_BYTES - 1);
        let mut padded = [0; NAME_BYTES];
        wire.name_len = 0;
        if size != 0
            && let Some(name) = self.string(address, size)
        {
            padded[..name.len()].copy_from_slice(&name);
            wire.name_len = name.len() as u32 + 1;
        }
        wire.name_key = name_key(&padded);
    }

    fn keep_key(&mut self, pid: u32, key: u32) {
        self.key = Some((pid, key));
    }

    fn keep_statement(&mut self, address: u64, max: u32) -> u32 {
        let size = (max as usize).min(STATEMENT_BYTES - 1);
        self.statement = self.string(address, size).unwrap_or_default();
        let mut prefix = [0; PREFIX_BYTES];
        let len = self.statement.len().min(PREFIX_BYTES);
        prefix[..len].copy_from_slice(&self.statement[..len]);
        let mut marks = 0;
        classify(&prefix, |mark| marks |= mark);
        marks
    }

    fn keep_startup(&mut self, address: u64, max: u32) {
        let size = (max as usize).min(STARTUP_BYTES - 1);
        self.startup =
            (0..size as u64).map_while(|index| self.byte(address.checked_add(index)?)).collect();
    }
}

/// A connection as the kernel side follows it.
#[derive(Default)]
pub struct Peer {
    pub wire: Wire,
    pub memory: Arena,
    /// First sends after the server was done, counted as the kernel side counts them.
    pub uses: u32,
    clock: u64,
}

impl Peer {
    /// A new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// In session, idle, with nothing sent yet.
    pub fn ready() -> Self {
        let mut peer = Self::new();
        peer.send(&startup());
        peer.receive(&startup_answer(3, 4242));
        assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_READY, 0));
        peer
    }

    /// A connection that existed before the start.
    pub fn existing() -> Self {
        Self::with(Wire { phase: PHASE_UNKNOWN, ..Wire::default() })
    }

    /// A connection in some state.
    pub fn with(wire: Wire) -> Self {
        Self { wire, ..Self::default() }
    }

    /// A send of one buffer.
    pub fn send(&mut self, bytes: &[u8]) {
        self.memory.begin();
        let (at, len) = (self.memory.put_only(bytes), bytes.len() as u64);
        let settled = self.wire.settled();
        let passed = wire::pass_sent(&mut self.memory, &mut self.wire, at, len);
        self.follow_sent(Segments::buffer(at, len), passed, settled, passed == len);
    }

    /// A receive into one buffer.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.memory.begin();
        let (at, len) = (self.memory.put_only(bytes), bytes.len() as u64);
        let passed = wire::pass_received(&self.memory, &mut self.wire, len);
        self.follow_received(Segments::buffer(at, len), passed, passed == len);
    }

    /// A send of several buffers.
    pub fn send_parts(&mut self, parts: &[&[u8]]) {
        let segments = self.vector(parts, 0);
        self.sent(segments);
    }

    /// A receive into several buffers, the last of which has more room than it needed.
    pub fn receive_parts(&mut self, parts: &[&[u8]]) {
        let segments = self.vector(parts, 512);
        self.received(segments);
    }

    fn vector(&mut self, parts: &[&[u8]], room: u64) -> Segments {
        self.memory.begin();
        let mut vector = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let at = self.memory.put(part);
            let room = if index + 1 == parts.len() { room } else { 0 };
            vector.extend(at.to_ne_bytes());
            vector.extend((part.len() as u64 + room).to_ne_bytes());
        }
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let vector = self.memory.put(&vector);
        Segments::vector(vector, parts.len() as u64, len)
    }

    /// A send of what `segments` names.
    pub fn sent(&mut self, segments: Segments) {
        self.follow_sent(segments, 0, self.wire.settled(), false);
    }

    /// A receive of what `segments` names.
    pub fn received(&mut self, segments: Segments) {
        self.follow_received(segments, 0, false);
    }

    fn follow_sent(&mut self, segments: Segments, passed: u64, settled: bool, whole: bool) {
        if !whole {
            wire::on_send(&mut self.memory, &mut self.wire, segments, passed);
        }
        self.clock += 1;
        self.wire.last_send = self.clock;
        self.uses += u32::from(settled);
        if settled {
            self.wire.begin_use(self.clock);
        }
        assert_eq!(self.memory.strayed, 0, "read outside of the send");
    }

    fn follow_received(&mut self, segments: Segments, passed: u64, whole: bool) {
        if !whole {
            wire::on_receive(&mut self.memory, &mut self.wire, segments, passed);
        }
        self.clock += 1;
        self.wire.last_recv = self.clock;
        assert_eq!(self.memory.strayed, 0, "read outside of the receive");
    }

    /// The kept statement as text.
    pub fn statement(&self) -> &str {
        std::str::from_utf8(&self.memory.statement).expect("short in tests")
    }

    /// Status of the last ReadyForQuery when the server owes nothing.
    pub fn idle(&self) -> Option<char> {
        (self.wire.phase == PHASE_READY && self.wire.pending() == 0)
            .then_some(char::from(self.wire.status))
    }

    pub fn marked(&self, mark: u32) -> bool {
        self.wire.marks & mark != 0
    }
}
