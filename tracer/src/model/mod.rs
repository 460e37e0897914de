//! The pure core: what is known about processes, connections and checkouts, and what follows.
//!
//! May import `std` collections, `serde` and itself; no file, no clock, no kernel. Invariant: the
//! same events give the same findings, byte for byte.

mod anomaly;
mod behaviour;
mod connection;
mod costs;
mod event;
mod finding;
mod habits;
mod holder;
mod process;
mod rules;
mod said;
mod settings;
mod stacks;
#[cfg(test)]
mod tests;
mod tracker;
mod waits;
mod words;

pub use anomaly::Anomaly;
pub use behaviour::{Behaviour, IdleOrder, Presence, Protocol};
pub use connection::{Connection, LeftOpen, Opened, StackOf, Unread};
pub use costs::{Costs, NamingCosts, ProgramCosts};
pub use event::{
    Begun, Checkout, ConnId, Event, Existing, Fd, Frame, FrameKind, Generated, MonoNanos, Peer,
    Pid, PoolSeen, PoolWaits, ProcessSeen, Runtime, ServerUse, SessionSaid, SessionState, Stack,
    StackEvent, Statement, Symbol, ThreadNow, TxStatus, WirePhase, WireState,
};
pub use finding::{Certainty, Finding, Holder, Span, Verdict, Whereabouts};
pub use holder::wanted_holders;
pub use process::{PathKey, PathUse, ProcId, Process};
pub use rules::lowers_certainty;
pub use settings::Settings;
pub use tracker::{Totals, Tracker};
pub use waits::{WaitTotals, Waits};
pub use words::duration;
