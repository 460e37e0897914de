//! What the rules say: findings, how certain they are, and the words for both.
//!
//! May import `model::event`, `model::process`, `model::waits` and `serde`. Invariant: a finding holds everything
//! a report says about it, so a report asks no rule.

use serde::{Deserialize, Serialize};

use super::{
    event::{ConnId, Frame, Stack, StackEvent},
    process::ProcId,
    waits::WaitTotals,
};

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Taken and not given back, and silent.
    #[serde(rename = "leak")]
    Leak,
    /// Silent inside an open transaction.
    #[serde(rename = "idle in transaction")]
    IdleInTransaction,
    /// Given back to its pool inside an open transaction.
    #[serde(rename = "returned in transaction")]
    ReturnedInTransaction,
    /// Of a pool that nothing uses any more, while new pools keep being made.
    #[serde(rename = "abandoned pool")]
    AbandonedPool,
    /// Opened and never used.
    #[serde(rename = "never used")]
    NeverUsed,
    /// The server works on one statement: information, no fault.
    #[serde(rename = "long query")]
    LongQuery,
    /// Callers wait while all connections of the pool keep moving: information, no fault.
    #[serde(rename = "pool too small")]
    PoolTooSmall,
}

impl Verdict {
    /// The verdict says that something is wrong, so it decides the exit code.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        !matches!(self, Self::LongQuery | Self::PoolTooSmall)
    }

    /// Words for reports.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::IdleInTransaction => "idle in transaction",
            Self::ReturnedInTransaction => "returned in transaction",
            Self::AbandonedPool => "abandoned pool",
            Self::NeverUsed => "never used",
            Self::LongQuery => "long query",
            Self::PoolTooSmall => "pool too small",
        }
    }
}

/// How far the evidence goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// A healthy explanation remains, and the evidence names it.
    Suspected,
    /// What is known of pools leaves no other explanation.
    Strong,
    /// Both ends of the checkout are observed, or the server says so itself.
    Proven,
}

impl Certainty {
    /// One step less.
    #[must_use]
    pub const fn lowered(self) -> Self {
        match self {
            Self::Proven => Self::Strong,
            Self::Strong | Self::Suspected => Self::Suspected,
        }
    }

    /// Words for reports.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Suspected => "suspected",
            Self::Strong => "strong",
            Self::Proven => "proven",
        }
    }
}

/// Shortest and longest of a group, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub min: u64,
    pub max: u64,
}

impl Span {
    /// The span of some durations; `None` of none.
    pub(super) fn of(nanos: impl IntoIterator<Item = u64>) -> Option<Self> {
        nanos.into_iter().fold(None, |span, n| {
            Some(span.map_or(Self { min: n, max: n }, |s: Self| Self {
                min: s.min.min(n),
                max: s.max.max(n),
            }))
        })
    }
}

/// Where a thread is, seen from the function at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whereabouts {
    /// In that function, or in what it has called.
    Here,
    /// Somewhere else; a caller of that function may have the connection still.
    Left,
    /// Not known, because it runs.
    Running,
    /// It has ended.
    Ended,
}

/// The thread or goroutine that took a connection, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub conn: ConnId,
    /// The thread; where a goroutine took it, the one that ran it then.
    pub tid: u32,
    pub goroutine: Option<u64>,
    pub place: Whereabouts,
    /// The system call that it is blocked in, or what a goroutine waits for, and the stack there.
    pub call: Option<String>,
    pub stack: Option<Stack>,
}

/// A verdict about a group of connections that share a cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub verdict: Verdict,
    pub certainty: Certainty,
    pub process: ProcId,
    /// Name in the catalogue, when recognised.
    pub pool: Option<String>,
    /// The application's innermost frame, and the event whose stack it is on; `None` when no
    /// stack of the group shows application code.
    pub blame: Option<(StackEvent, Frame)>,
    /// The stacks of the connection that was silent for longest.
    pub stacks: Vec<(StackEvent, Stack)>,
    /// Silent longest first.
    pub connections: Vec<ConnId>,
    /// Time since the checkout, or since the open where that is what counts; `None` when unknown.
    pub held: Option<Span>,
    pub silent: Span,
    /// New ones per minute since the first of them; `None` when too few to tell.
    pub growth_per_minute: Option<f64>,
    /// The pool's maximum, where known.
    pub pool_max: Option<u32>,
    /// Until the pool has no connection left at the pace of all findings that take from it, in
    /// nanoseconds; `None` while its maximum or the pace is unknown.
    pub exhausted_in: Option<u64>,
    /// Of these, connections whose process ended first.
    pub ended_by_exit: usize,
    /// Of these, connections from before the watch began or before the pool was observed.
    pub from_before: usize,
    /// Waits for connections of their pool; `None` where the entry of its acquires is not seen.
    pub waits: Option<WaitTotals>,
    /// Threads or goroutines that took some of the connections, as they are at the end of a capture.
    pub holders: Vec<Holder>,
    /// Why we say so: sentences.
    pub evidence: Vec<String>,
    /// What to do: one sentence.
    pub hint: String,
}
