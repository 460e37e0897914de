//! Stacks of real processes with all that was read for them, to be understood again without the
//! process, its programs or a kernel.
//!
//! May import this module's files, `gimli` and the file system. A recording is one stack of one
//! process: what the kernel side copied, the mappings that it leads through, the unwind information and
//! the names of its native addresses, what the runtime's module knew of the runtime's build, and the
//! pieces of memory that were read. Of a Go program these pieces are those of the file that the names
//! of its functions depend on. Debug information has no part that could be taken out of it, so of a
//! native program the walk is understood again, and what its addresses are called is taken as it was
//! found. Nothing of this is in the program that users have: it is made by
//! builds with the feature `recording`, and read by tests.

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod native;
#[cfg(test)]
mod replay;
#[cfg(feature = "recording")]
mod write;

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::node::Engine;
use super::{hotspot, php};
use crate::binary::pclntab;
use crate::model::Frame;

#[cfg(test)]
pub(super) use fuzz::whatever_is_in_memory;
#[cfg(test)]
pub(super) use hostile::changes;
#[cfg(test)]
pub(super) use replay::{Counted, Pieces, Replay, is_named, shown};
#[cfg(feature = "recording")]
pub(super) use write::{begin_with, is_asked_for, note_memory, note_native, write};

#[derive(Serialize, Deserialize)]
struct Recording {
    stack: Copied,
    runtime: Runtime,
    /// As `/proc/PID/maps` has them, with the file's name for its path.
    maps: Vec<String>,
    modules: Vec<Module>,
    /// By address, in hexadecimal digits.
    native: BTreeMap<String, Vec<Frame>>,
    /// By address or place in the file, in hexadecimal digits: bytes as [`Bytes`], or text behind a
    /// quotation mark.
    memory: BTreeMap<String, String>,
}

/// As [`RawStack`](super::RawStack).
#[derive(Serialize, Deserialize)]
struct Copied {
    ip: u64,
    sp: u64,
    bp: u64,
    boundary: bool,
    gap: u64,
    fixups: Vec<(u64, u64)>,
    bytes: Bytes,
    runtime: Vec<Bytes>,
    runtime_end: u32,
}

#[derive(Clone, Serialize, Deserialize)]
enum Runtime {
    Node { engine: Box<Engine>, bias: u64 },
    Java(Box<hotspot::Known>),
    Php(php::Engine),
    Go(Go),
    Native,
}

/// The function table of a Go program.
#[derive(Clone, Serialize, Deserialize)]
struct Go {
    /// The file's name.
    module: String,
    mapped: Range<u64>,
    bias: u64,
    layout: pclntab::Layout,
    /// Bytes of the file.
    len: usize,
}

/// The unwind information of a file, as far as the stack needs it. All but the mapping is in the
/// file's own addresses.
#[derive(Clone, Serialize, Deserialize)]
struct Module {
    mapped: Range<u64>,
    bias: u64,
    text: Option<Range<u64>>,
    got: Option<Range<u64>>,
    eh_frame: u64,
    eh_frame_hdr: u64,
    /// Where a function begins, and where its frame is described.
    index: Vec<(u64, u64)>,
    entries: BTreeMap<u64, Bytes>,
}

/// Bytes in hexadecimal digits; in parentheses, how many bytes are zero.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digits(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        bytes(&text).map(Self).ok_or_else(|| serde::de::Error::custom("not bytes"))
    }
}

/// So many zeros are not written out.
const ZEROS: usize = 4;

fn digits(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if zeros >= ZEROS {
            text.push_str(&format!("({zeros})"));
            rest = &rest[zeros..];
        } else {
            text.push_str(&format!("{first:02x}"));
            rest = after;
        }
    }
    text
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(zeros) = rest.strip_prefix('(') {
            let (count, after) = zeros.split_once(')')?;
            bytes.resize(bytes.len() + count.parse::<usize>().ok()?, 0);
            rest = after;
        } else {
            bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
            rest = rest.get(2..)?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{bytes, digits};

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            written in prop::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..200),
        ) {
            prop_assert_eq!(bytes(&digits(&written)), Some(written));
        }
    }
}
