//! The frames of CPython's interpreter, and of others that keep theirs in the same way (PHP's): where
//! they are in a process, and how they are copied.
//!
//! May import nothing. Since Python 3.11 calls between Python functions are no calls of the native
//! stack, and an interpreter frame is used again as soon as its function returns, so frames are
//! copied at the event, as many bytes of each as tell its code and its instruction in every version.
//! What is in them is for user space to say: here only the chain is followed.
//! Sources: CPython's `Include/internal/pycore_frame.h`, `Include/cpython/pystate.h`.

/// Threads among which the current one is looked for.
pub const MAX_THREADS: usize = 64;

/// In place of [`Layout::cframe`] where threads refer to their frame directly.
pub const NO_CFRAME: u32 = u32::MAX;

/// In place of [`Layout::threads`] where one frame runs, and [`Layout::runtime`] is where it is kept.
pub const NO_THREADS: u32 = u32::MAX;

/// Where a process keeps its threads and frames; offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    /// Address of `_PyRuntime` in the process.
    pub runtime: u64,
    /// `_PyRuntimeState.interpreters.head`
    pub interpreters: u32,
    /// `PyInterpreterState.threads.head`
    pub threads: u32,
    /// `PyThreadState.next`
    pub next: u32,
    /// `PyThreadState.thread_id`: what `pthread_self` says, the thread's FS base on x86-64.
    pub thread_id: u32,
    /// `PyThreadState.frame`, `.cframe` or `.current_frame`
    pub frame: u32,
    /// `_PyCFrame.current_frame`, or [`NO_CFRAME`].
    pub cframe: u32,
    /// The frame's pointer to its caller: below [`FRAME_BYTES`](crate::runtime::FRAME_BYTES).
    pub back: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<Layout>() == 40);
