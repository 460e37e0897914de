//! The pure core: what is known about processes, connections and checkouts, and what follows.
//!
//! May import `std` collections, `serde` and itself; no file, no clock, no kernel. Invariant: the
//! same events give the same findings, byte for byte.

mod event;

pub use event::{
    Checkout, ConnId, Event, Existing, Fd, Frame, FrameKind, MonoNanos, Peer, Pid, PoolSeen,
    ProcessSeen, Runtime, Stack, StackEvent, Statement, Symbol, TxStatus, WirePhase, WireState,
};
