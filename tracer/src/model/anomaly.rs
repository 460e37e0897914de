//! What did not fit, or did not find room: counted, and told in reports.
//!
//! May import nothing.

/// Something that did not fit what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A descriptor was opened that another connection was thought to have: its close was missed.
    MissedClose,
    /// A process id appeared anew without the old process's exit.
    MissedExit,
    /// A connection was opened that is open already.
    OpenedTwice,
    /// An event about a connection that is not open.
    UnknownConnection,
    /// A close of a descriptor that did not refer to the connection.
    NotHeld,
    TooManyConnections,
    TooManyProcesses,
    TooManyEnded,
    TooManyPools,
    /// A closed connection was forgotten although it could still be evidence.
    Forgotten,
}

impl Anomaly {
    /// Name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MissedClose => "missed_close",
            Self::MissedExit => "missed_exit",
            Self::OpenedTwice => "opened_twice",
            Self::UnknownConnection => "unknown_connection",
            Self::NotHeld => "not_held",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyProcesses => "too_many_processes",
            Self::TooManyEnded => "too_many_ended",
            Self::TooManyPools => "too_many_pools",
            Self::Forgotten => "forgotten",
        }
    }

    /// Something of the model's own was left out, as opposed to events that do not fit.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::TooManyConnections
                | Self::TooManyProcesses
                | Self::TooManyEnded
                | Self::TooManyPools
                | Self::Forgotten
        )
    }
}
