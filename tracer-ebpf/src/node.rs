//! The frames of V8's functions: what is copied of them.
//!
//! May import [`runtime`](crate::runtime). Everything from libuv down keeps frame pointers, so the
//! chain of them is followed; a frame that has a context below its frame pointer, and a function
//! below that, is JavaScript's. A function that was made for one request lies in memory that the
//! next collection moves, so what it refers to is read at the event: its `SharedFunctionInfo` and
//! its code, which stay. All of that is at the same places in V8 9 to 13 (Node.js 16 to 24).
//! Sources: V8's `src/execution/frame-constants.h`, `src/objects/js-function.tq`.

use crate::runtime::FRAME_BYTES;

/// Calls followed, those of C++ included.
pub const MAX_STEPS: usize = 96;
/// Of these, followed by one run of a program, as [`STEPS_AT_ONCE`](crate::limits::STEPS_AT_ONCE) of
/// the wire.
pub const STEPS_AT_ONCE: usize = 16;
const _: () = assert!(MAX_STEPS.is_multiple_of(STEPS_AT_ONCE));

/// A caller's frame is not farther away than this.
pub const MAX_DISTANCE: u64 = 1 << 18;

/// Words on the stack in which a frame pointer is looked for where the register is none.
pub const SEARCHED_WORDS: usize = 32;

/// Bytes copied below the frame pointer, and with the two words that every frame has.
pub const BELOW: usize = 40;
pub const STACK_BYTES: usize = BELOW + 16;

/// In a function, behind the properties that every object has: 32 bytes that hold both its
/// `SharedFunctionInfo` and its code, in an order that the version knows.
pub const FUNCTION_AT: u64 = 24;
pub const FUNCTION_BYTES: usize = 32;

/// What is taken over from the stack that was in the slot before, for so many nanoseconds at the most,
/// because a collection of garbage may move what functions refer to:
///
/// - the words of a function, if the frame is the same: its code goes on at the same place, its function
///   has the same address and, where the interpreter runs it, its bytecode too. Then both functions
///   share all that is copied of them;
/// - the end of the walk, from the first frame on that is not in the copied bytes, if nothing of
///   JavaScript was found from there: frame pointer and program counter are then those of the event loop;
/// - how far JavaScript's frames go. No more of the stack is copied, because below them libuv has 12 KiB
///   of events. Frames that are farther out this time are read where they are.
pub const KEPT: u64 = 100_000_000;

/// Bytes that are copied behind those frames: a new stack may be a little deeper.
pub const SLACK: u32 = 512;

/// The words of a copied frame: what the frame has at its pointer - 40, ...
pub const BYTECODE_OFFSET: usize = 0;
pub const BYTECODE_ARRAY: usize = 1;
pub const FUNCTION: usize = 3;
pub const CONTEXT: usize = 4;
/// ... at its pointer, and above it, ...
pub const CALLER: usize = 5;
pub const RETURN: usize = 6;
/// ... what the function has from [`FUNCTION_AT`] on, ...
pub const FUNCTION_WORDS: usize = 7;
/// ... and where the frame's own code goes on.
pub const PC: usize = 11;

const _: () = assert!(STACK_BYTES == FUNCTION_WORDS * 8);
const _: () = assert!(STACK_BYTES + FUNCTION_BYTES == PC * 8);
const _: () = assert!((PC + 1) * 8 <= FRAME_BYTES);

/// The lowest bits of a pointer to an object of V8's, and what they are.
pub const TAG_MASK: u64 = 3;
pub const TAG: u64 = 1;
