//! Reading user and kernel memory, and the wire walker's view of a connection.
//!
//! May import the maps, `count` and the contract. Invariants: reads only; a failed read is
//! counted where it loses evidence.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_user, bpf_probe_read_user_str,
};
use tracer_ebpf::{
    conn::Conn,
    drops::DropReason,
    limits::{STARTUP_BYTES, STATEMENT_BYTES},
    statement::{PREFIX_BYTES, classify},
    wire::{Memory, NAME_BYTES, Wire, name_key, near_name},
};

use super::{
    count::count,
    maps::{Call, KEYS, LONGEST_READ, WINDOW_BYTES},
};

/// Reads a plain value from user memory.
#[inline(always)]
pub fn user<T: Copy>(address: u64) -> Option<T> {
    // Zeroed, because verifiers before 5.12 do not see that the helper writes it.
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes to a local of that size; `T` is
    // only instantiated with plain integers and byte arrays, for which any bytes are valid.
    unsafe {
        let failed = bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}

/// Reads a number from user memory; zero when that fails.
#[inline(always)]
pub fn user_or_zero(address: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: as in `user`. The helper zeroes what it cannot read.
    unsafe {
        bpf_probe_read_user((&raw mut value).cast(), size_of::<u32>() as u32, address as *const _);
    }
    value
}

/// Reads a plain value from kernel memory.
#[inline(always)]
pub fn kernel<T: Copy>(address: u64) -> Option<T> {
    // Zeroed, because verifiers before 5.12 do not see that the helper writes it.
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: as in `user`; a bad kernel address makes the helper fail, not fault.
    unsafe {
        let failed = bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}

/// The memory of the process that owns the current system call, for one connection.
///
/// Each read of user memory costs some 40 ns, on a kernel that checks the target of copies, and a
/// walk has one or two for each message. So the beginning of the buffer is read at once; what lies
/// beyond, and what lies in other buffers of the call, is read where it is.
pub struct ConnMemory {
    conn: *mut Conn,
    call: *mut Call,
}

impl ConnMemory {
    /// For a call that moved `len` bytes at `buffer`; zero for a call with several buffers.
    #[inline(always)]
    pub fn new(conn: *mut Conn, call: *mut Call, buffer: u64, len: u64) -> Self {
        let size = if len > WINDOW_BYTES { WINDOW_BYTES } else { len };
        // SAFETY: a live per-CPU map value of this run alone; at most `WINDOW_BYTES` of its bytes
        // are written.
        unsafe {
            (*call).base = buffer;
            (*call).len = 0;
            if size != 0 {
                let failed = bpf_probe_read_user(
                    (&raw mut (*call).bytes).cast(),
                    (size & WINDOW_BYTES) as u32,
                    buffer as *const _,
                );
                if failed == 0 {
                    (*call).len = size;
                }
            }
        }
        Self { conn, call }
    }

    /// Of a call whose beginning was read already.
    #[inline(always)]
    pub fn again(conn: *mut Conn, call: *mut Call) -> Self {
        Self { conn, call }
    }

    /// Where in the window `address` is, when `len` bytes from there are.
    #[inline(always)]
    fn place(&self, address: u64, len: u64) -> Option<u64> {
        // SAFETY: a live per-CPU map value of this run alone.
        let (base, end) = unsafe { ((*self.call).base, (*self.call).len) };
        let at = address.wrapping_sub(base);
        (at <= WINDOW_BYTES && at + len <= end).then_some(at)
    }
}

impl Memory for ConnMemory {
    #[inline(always)]
    fn read<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        if let Some(at) = self.place(address, N as u64) {
            return Some(self.near(at));
        }
        let bytes = user::<[u8; N]>(address);
        if bytes.is_none() {
            count(DropReason::UserReadFailed);
        }
        bytes
    }

    #[inline(always)]
    fn window(&self) -> u64 {
        // SAFETY: a live per-CPU map value of this run alone.
        unsafe { (*self.call).len }
    }

    #[inline(always)]
    fn near<const N: usize>(&self, at: u64) -> [u8; N] {
        const { assert!(N <= LONGEST_READ) };
        // SAFETY: a live per-CPU map value; `at` is masked, and behind the last byte it can name
        // there is room for the longest read.
        unsafe {
            let bytes = (&raw const (*self.call).bytes).cast::<u8>();
            bytes.add((at & WINDOW_BYTES) as usize).cast::<[u8; N]>().read()
        }
    }

    #[inline(always)]
    fn name(&mut self, wire: &mut Wire, address: u64, max: u32) {
        if let Some(at) = self.place(address, 1)
            && near_name(self, wire, at)
        {
            return;
        }
        read_name(wire, address, u64::from(max));
    }

    #[inline(always)]
    fn keep_statement(&mut self, address: u64, max: u32) -> u32 {
        keep_statement(self.conn, self.call, address, u64::from(max))
    }

    #[inline(always)]
    fn keep_key(&mut self, pid: u32, key: u32) {
        // SAFETY: a live per-CPU map value of this run alone.
        let id = unsafe { (*self.call).conn };
        // A compiler may lay out the two members in either order. The map makes room by itself.
        let pair = (u64::from(key) << 32) | u64::from(pid);
        let _full = KEYS.insert(pair, id, 0);
        let _full = KEYS.insert(pair.rotate_left(32), id, 0);
    }

    #[inline(always)]
    fn keep_startup(&mut self, address: u64, max: u32) {
        let size = if max >= STARTUP_BYTES as u32 { STARTUP_BYTES as u32 - 1 } else { max };
        // SAFETY: `conn` is a live map value; at most 255 of the 256 bytes of its startup field
        // are written.
        unsafe {
            let failed = bpf_probe_read_user(
                (&raw mut (*self.conn).startup).cast(),
                size & (STARTUP_BYTES as u32 - 1),
                address as *const _,
            );
            if failed == 0 {
                (*self.conn).startup_len = size;
            } else {
                count(DropReason::UserReadFailed);
            }
        }
    }
}

/// Reads a name's key and length into the connection. A function of its own, with its own stack
/// frame: a frame has 512 bytes.
#[inline(never)]
fn read_name(wire: &mut Wire, address: u64, max: u64) {
    let mut name = [0u8; NAME_BYTES];
    // The mask bounds the size for the verifier; a name has at most 63 bytes (`NAMEDATALEN`).
    let size = if max >= NAME_BYTES as u64 { NAME_BYTES as u64 - 1 } else { max };
    // SAFETY: at most 63 of the 64 bytes of the local are written.
    let len = unsafe {
        bpf_probe_read_user_str(
            name.as_mut_ptr().cast(),
            size as u32 & (NAME_BYTES as u32 - 1),
            address as *const _,
        )
    };
    wire.name_key = name_key(&name);
    wire.name_len = if len <= 0 { 0 } else { len as u32 };
}

/// Keeps a statement's text; returns its marks. A function of its own for its stack frame.
#[inline(never)]
fn keep_statement(conn: *mut Conn, call: *mut Call, address: u64, max: u64) -> u32 {
    let size = if max >= STATEMENT_BYTES as u64 { STATEMENT_BYTES as u64 - 1 } else { max };
    // SAFETY: `conn` and `call` are live map values; at most 127 of the 128 bytes of the statement
    // are written, and the prefix is read back from the same field.
    unsafe {
        let len = bpf_probe_read_user_str(
            (&raw mut (*conn).statement).cast(),
            size as u32 & (STATEMENT_BYTES as u32 - 1),
            address as *const _,
        );
        if len <= 0 {
            count(DropReason::UserReadFailed);
            (*conn).statement_len = 0;
            return 0;
        }
        // The string's NUL is not part of the text.
        (*conn).statement_len = len as u32 - 1;
        let marks = &raw mut (*call).marks;
        marks.write_volatile(0);
        classify(&*(&raw const (*conn).statement).cast::<[u8; PREFIX_BYTES]>(), |mark| {
            marks.write_volatile(mark);
        });
        marks.read_volatile()
    }
}
