//! The runtime of a process, chosen once by what it has mapped: what the kernel side copies of its
//! frames, and how the copies become part of a stack.
//!
//! May import the runtimes' modules, `model` and the contract. A runtime's module finds itself in a
//! file, and names copied frames; nothing else of the tracer knows what is in them.

use tracer_ebpf::python::Layout;
use tracer_ebpf::runtime::END_UNREADABLE;

use super::hotspot::Hotspot;
use super::node::{self, Called, Node};
use super::php::{self, Php};
use super::python::Python;
use super::{RawStack, Resolved};
use crate::model::{Frame, FrameKind, Stack};

/// What the kernel side needs to copy the frames of a process's runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeFrames {
    /// Where the interpreter of Python or PHP keeps them.
    Interpreter(Layout),
    Node,
    /// Nothing but the stack, of which Java's frames are a part.
    Java {
        /// It has what it writes on the stack, too.
        buffered: bool,
    },
}

/// The runtime of a process.
pub(super) enum Runtime {
    Python(Python),
    Php(Php),
    Node(Box<Node>),
    /// Its frames are found while the stack is walked.
    Java(Hotspot),
    /// Its frames are not understood, for this reason.
    Unknown(String),
}

impl Runtime {
    /// What the kernel side is to copy.
    pub fn frames(&self) -> Option<RuntimeFrames> {
        match self {
            Self::Python(python) => Some(RuntimeFrames::Interpreter(python.layout())),
            Self::Php(php) => Some(RuntimeFrames::Interpreter(php.layout())),
            Self::Node(_) => Some(RuntimeFrames::Node),
            Self::Java(java) => Some(RuntimeFrames::Java { buffered: java.is_buffered()? }),
            Self::Unknown(_) => None,
        }
    }

    /// Names the runtime's frames that were copied with a stack; `None` where there are none. First
    /// of all, because what they refer to is the runtime's to move; and for every stack, because what
    /// may be read for one begins anew.
    pub fn name(&mut self, raw: &RawStack) -> Option<Named> {
        match self {
            Self::Node(node) => node.begin(),
            Self::Java(java) => java.begin(),
            // Little is read of each of their frames.
            Self::Python(_) | Self::Php(_) | Self::Unknown(_) => {}
        }
        match self {
            _ if raw.runtime.is_empty() => None,
            Self::Python(python) => {
                let (frames, truncated) = python.frames(&raw.runtime, raw.runtime_end);
                Some(Named::Interpreted(frames, truncated))
            }
            Self::Php(php) => {
                let (frames, truncated) = php.frames(&raw.runtime, raw.runtime_end);
                Some(Named::Interpreted(frames, truncated))
            }
            Self::Node(node) => {
                let (called, truncated) = node.frames(&raw.runtime, raw.runtime_end);
                Some(Named::Node(called, truncated))
            }
            Self::Java(_) | Self::Unknown(_) => None,
        }
    }

    /// The named frames put into the native stack, of which `addresses` has that of each frame.
    /// `native_at` gives the innermost native frame at an address.
    pub fn merge(
        &self,
        native: Resolved,
        addresses: &[u64],
        named: Option<Named>,
        raw: &RawStack,
        mut native_at: impl FnMut(u64) -> Option<Frame>,
    ) -> Resolved {
        match (self, named) {
            (Self::Unknown(reason), _) => unless_named(native, reason),
            (Self::Java(java), _) => match java.refused() {
                Some(reason) => unless_named(native, reason),
                None => native,
            },
            // No runtime was called, or it was not found.
            (Self::Node(_), None) if raw.runtime_end == END_UNREADABLE => {
                unless_named(native, "no JavaScript frames: there are no frame pointers")
            }
            (_, None) => native,
            (_, Some(Named::Interpreted(frames, truncated))) => {
                let native = native.stack.frames;
                let frames = match self {
                    Self::Python(python) => python.merge(native, frames),
                    _ => php::merge(native, frames),
                };
                Resolved { stack: Stack { frames, truncated }, cut: false }
            }
            (_, Some(Named::Node(called, truncated))) => {
                let native = addresses.iter().copied().zip(native.stack.frames).collect();
                let frames = node::merge(native, called, |pc| {
                    native_at(pc.saturating_sub(1)).is_some_and(|frame| node::is_foreign(&frame))
                });
                Resolved { stack: Stack { frames, truncated }, cut: false }
            }
        }
    }
}

/// A runtime's frames of one stack, and why their outer end is missing.
pub(super) enum Named {
    /// Of an interpreter that keeps them apart from the native ones.
    Interpreted(Vec<Frame>, Option<String>),
    Node(Vec<Called>, Option<String>),
}

/// Says why there are no frames of the runtime, unless there are some, by a perf map.
fn unless_named(mut native: Resolved, reason: &str) -> Resolved {
    if native.stack.frames.iter().all(|frame| frame.kind != FrameKind::App) {
        native.stack.truncated = Some(reason.to_owned());
    }
    native
}
