//! Frames that a language runtime keeps its own account of, copied with a stack.
//!
//! May import nothing. Which runtime a process has is said by its entry
//! ([`Process::runtime`](crate::config::Process)); of each the kernel side copies, at the event,
//! what moves or is used again soon, and what is in it is for user space to say later. A copied
//! frame has [`FRAME_BYTES`] in every runtime; `python` and `node` say what they are.

/// Bytes of a copied frame.
pub const FRAME_BYTES: usize = 112;

/// Frames copied, innermost first.
pub const MAX_FRAMES: usize = 64;

/// The process has no runtime whose frames are copied.
pub const NONE: u32 = 0;
/// CPython and PHP: the interpreter's chain of frames, see [`python`](crate::python).
pub const PYTHON: u32 = 1;
/// V8 as Node.js has it: the chain of frame pointers, see [`node`](crate::node).
pub const NODE: u32 = 2;

/// HotSpot before 13: its frames are on the stack and none is copied beside it, but what it writes is
/// there, too, and left out ([`StackHeader::gap`](crate::stack::StackHeader::gap)).
pub const BUFFERED_JAVA: u32 = 3;

/// How a copied chain ended; zero: none was copied.
pub const END_NONE: u32 = 0;
/// At the thread's outermost frame.
pub const END_WHOLE: u32 = 1;
/// After [`MAX_FRAMES`], or where a runtime says so.
pub const END_TOO_DEEP: u32 = 2;
/// At a frame that could not be read.
pub const END_UNREADABLE: u32 = 3;
/// The interpreter does not know the thread, or has too many.
pub const END_NO_THREAD: u32 = 4;
