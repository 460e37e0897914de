//! The two places of user space that need `unsafe`: layouts handed to the kernel as bytes, and
//! values read from memory that the kernel side writes.
//!
//! May import aya and the contract. Invariant: only `repr(C)` types made of integers pass here, for
//! which any bytes are a valid value.
#![expect(unsafe_code, reason = "map values cross the kernel boundary as bytes")]

use std::{marker::PhantomData, mem::MaybeUninit, os::fd::AsFd, os::fd::AsRawFd};

use memmap2::{MmapOptions, MmapRaw};
use tracer_ebpf::{
    config::{Config, Process},
    conn::Conn,
    probe::ProbeSpec,
    python::Layout,
    record::Record,
    stack::StackHeader,
    wait::{Caller, CallerKey, Waits, WaitsKey},
};

macro_rules! pod {
    ($($name:ident($inner:ty)),+ $(,)?) => {
        $(
            /// A contract type as a map value.
            #[repr(transparent)]
            #[derive(Clone, Copy)]
            pub struct $name(pub $inner);
            // SAFETY: the inner type is `repr(C)` and made of integers without implicit padding.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod! {
    PodConfig(Config),
    PodProcess(Process),
    PodProbeSpec(ProbeSpec),
    PodLayout(Layout),
    PodCallerKey(CallerKey),
    PodCaller(Caller),
    PodWaitsKey(WaitsKey),
    PodWaits(Waits),
}

/// A map value of `N` words.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PodWords<const N: usize>(pub [u64; N]);
// SAFETY: words alone.
unsafe impl<const N: usize> aya::Pod for PodWords<N> {}

/// Types that any bytes are a valid value of.
///
/// # Safety
///
/// The type is `repr(C)`, made of integers only, without implicit padding.
pub unsafe trait Plain: Copy {}
// SAFETY: see the contract; size assertions there leave no room for implicit padding.
unsafe impl Plain for Conn {}
// SAFETY: as above.
unsafe impl Plain for StackHeader {}
// SAFETY: as above.
unsafe impl Plain for Record {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// A value from the first bytes of a slice; `None` when it is too short.
pub fn plain_from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the slice holds enough bytes, `T` accepts any, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// An array map seen through a shared memory mapping.
pub struct MappedArray<T> {
    map: MmapRaw,
    stride: usize,
    len: u32,
    _value: PhantomData<T>,
}

impl<T: Plain> MappedArray<T> {
    /// Maps `len` elements of `stride` bytes of an array map created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    ///
    /// The kernel's, when it refuses the mapping.
    pub fn new(fd: impl AsFd, stride: usize, len: u32) -> std::io::Result<Self> {
        debug_assert!(size_of::<T>() <= stride && stride.is_multiple_of(8));
        let map = MmapOptions::new().len(stride * len as usize).map_raw(fd.as_fd().as_raw_fd())?;
        Ok(Self { map, stride, len, _value: PhantomData })
    }

    /// A copy of the beginning of element `index`; `None` when there is no such element. The
    /// kernel may write meanwhile: words of eight bytes are old or new, each by itself.
    #[must_use]
    pub fn read(&self, index: u32) -> Option<T> {
        let base = self.element(index)?;
        let mut value = MaybeUninit::<T>::uninit();
        let words = size_of::<T>() / 8;
        for word in 0..words {
            // SAFETY: both sides are valid for `size_of::<T>()` bytes and aligned to 8: the mapping
            // is page-aligned and the stride a multiple of 8; `write_unaligned` is used for the
            // local. Volatile because the kernel writes concurrently.
            unsafe {
                let bits = base.cast::<u64>().add(word).read_volatile();
                value.as_mut_ptr().cast::<u64>().add(word).write_unaligned(bits);
            }
        }
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: all bytes are written and `T` accepts any.
        Some(unsafe { value.assume_init() })
    }

    /// Writes element `index`, its first word after all others if so wanted (it may be what makes
    /// the rest valid). False when out of range.
    pub fn write(&self, index: u32, value: &T, first_word_last: bool) -> bool {
        let Some(base) = self.element(index) else { return false };
        let skip = usize::from(first_word_last);
        let put = |word: usize| {
            // SAFETY: as in `read`, with the sides exchanged.
            unsafe {
                let bits = (&raw const *value).cast::<u64>().add(word).read_unaligned();
                base.cast::<u64>().add(word).write_volatile(bits);
            }
        };
        (skip..size_of::<T>() / 8).for_each(put);
        (0..skip).for_each(put);
        true
    }

    /// Writes an aligned 32-bit field at `offset` of element `index`; false when out of range.
    pub fn write_u32(&self, index: u32, offset: usize, value: u32) -> bool {
        let Some(base) = self.element(index) else { return false };
        if !offset.is_multiple_of(4) || offset + 4 > self.stride {
            return false;
        }
        // SAFETY: aligned and within the element; the kernel side reads it as one word.
        unsafe { base.add(offset).cast::<u32>().write_volatile(value) };
        true
    }

    /// Writes the byte at `offset` of element `index`; false when out of range.
    pub fn write_u8(&self, index: u32, offset: usize, value: u8) -> bool {
        let Some(base) = self.element(index) else { return false };
        if offset >= self.stride {
            return false;
        }
        // SAFETY: within the element; the kernel side reads and writes bytes by themselves.
        unsafe { base.add(offset).write_volatile(value) };
        true
    }

    fn element(&self, index: u32) -> Option<*mut u8> {
        if index >= self.len {
            return None;
        }
        // SAFETY: `index < len`, and the mapping holds `len * stride` bytes.
        Some(unsafe { self.map.as_mut_ptr().add(index as usize * self.stride) })
    }
}
