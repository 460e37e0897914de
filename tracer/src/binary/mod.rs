//! Executable files as bytes: ELF symbols, the Go function table and version, where functions return; which
//! file it is, and which language runtime its names and symbols tell of.
//!
//! May import the model's `Runtime`, nothing else of ours. Everything here reads files that belong to traced processes, which
//! may be broken or hostile: every function is total (no panic, no allocation that the file's size
//! does not bound) and does no I/O; the caller maps the file.

pub mod elf;
pub mod go;
pub mod pclntab;
pub mod rets;
pub mod runtimes;
pub mod rust_names;

mod file_id;

pub use file_id::FileId;

/// `N` bytes at `offset`, when the file has them.
fn array<const N: usize>(data: &[u8], offset: u64) -> Option<[u8; N]> {
    let start = usize::try_from(offset).ok()?;
    data.get(start..start.checked_add(N)?)?.try_into().ok()
}

/// Little-endian `u32` at `offset`.
fn u32_at(data: &[u8], offset: u64) -> Option<u32> {
    array(data, offset).map(u32::from_le_bytes)
}

/// Little-endian `u64` at `offset`.
fn u64_at(data: &[u8], offset: u64) -> Option<u64> {
    array(data, offset).map(u64::from_le_bytes)
}
