//! What pools do by themselves, as far as an inference from the wire depends on it: of one pool as
//! the catalogue knows it, and of a process as what must be assumed of all the pools that it may
//! use.
//!
//! May import `serde` only. Invariant: a further pool never makes the assumptions bolder: where
//! several are possible, the weakest behaviour of all of them counts.

use serde::{Deserialize, Serialize};

use super::event::PoolSeen;

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;

/// How sure it is that a process uses a pool.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Its code is in the process.
    #[default]
    Loaded,
    /// The process could load it, and nothing tells whether it did.
    Installed,
}

/// Which idle connection a pool hands out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdleOrder {
    /// The one that came back last: the others are silent in good health.
    Lifo,
    /// Each in its turn.
    Fifo,
}

/// What sessions a pool's connections are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Postgresql,
    Mysql,
}

/// A pool's documented behaviour, with its default settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// `None` when it is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_order: Option<IdleOrder>,
    /// It opens connections that nobody waits for, by default or when it is configured to keep a
    /// minimum: pre-fill, refill, replacement.
    pub opens_unasked: bool,
    /// It may open a connection for somebody although another one idles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opens_while_idle: bool,
    /// So long after its last byte, in milliseconds, a connection that was given back is idle for
    /// certain.
    pub return_ms: u64,
    /// Connections at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open: Option<u32>,
    /// An idle connection is closed after this long; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// A connection is replaced at this age; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime_ms: Option<u64>,
    /// How often the pool looks for those whose time is over; zero where each has a timer.
    #[serde(default)]
    pub reap_ms: u64,
    #[serde(default, skip_serializing_if = "is_postgresql")]
    pub protocol: Protocol,
    /// A function of the pool that writes to a connection which came back, and to no other; `*`
    /// stands for any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_function: Option<String>,
}

impl Behaviour {
    /// Whether this is the function that takes a connection back.
    pub(super) fn returns_in(&self, function: &str) -> bool {
        let Some(pattern) = &self.return_function else { return false };
        let mut parts = pattern.split('*');
        let Some(mut rest) = parts.next().and_then(|first| function.strip_prefix(first)) else {
            return false;
        };
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else { return false };
            rest = after;
        }
        true
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_postgresql(protocol: &Protocol) -> bool {
    *protocol == Protocol::Postgresql
}

/// What holds for every pool that a process may use; the careful defaults where none is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assumed {
    /// Some pool is known.
    pub(super) known: bool,
    /// Each of them is loaded.
    pub(super) loaded: bool,
    /// All of them take out the one that has been idle for longest.
    pub(super) fifo: bool,
    /// They open only for somebody who waits.
    pub(super) on_demand: bool,
    pub(super) opens_while_idle: bool,
    /// Idle for so long, a connection that was given back is in the pool; in nanoseconds.
    pub(super) margin: u64,
    /// The most that one of them opens; zero where that is not limited.
    pub(super) max_open: u64,
    /// All of them close what has been idle for the first time, no later than the second; in
    /// nanoseconds.
    pub(super) idle_timeout: Option<(u64, u64)>,
    /// The same for a connection's age.
    pub(super) max_lifetime: Option<(u64, u64)>,
}

/// Where nothing is known: any pool gives a connection back within a round trip to the server.
const CAREFUL: Assumed = Assumed {
    known: false,
    loaded: false,
    fifo: false,
    on_demand: false,
    opens_while_idle: false,
    margin: SECOND,
    max_open: 0,
    idle_timeout: None,
    max_lifetime: None,
};

/// Timers are late, and a close takes its time; in nanoseconds.
const LATE: u64 = 2 * SECOND;

impl Assumed {
    /// What must be assumed of a process in which these were recognised.
    pub(super) fn of(pools: &[PoolSeen]) -> Self {
        let mut all: Option<Self> = None;
        for pool in pools {
            let Some(behaviour) = &pool.behaviour else { continue };
            if behaviour.protocol != Protocol::Postgresql {
                continue;
            }
            let one = Self::of_one(behaviour, pool.presence == Presence::Loaded);
            all = Some(all.map_or(one, |all| all.weaker(one)));
        }
        all.unwrap_or(CAREFUL)
    }

    fn of_one(behaviour: &Behaviour, loaded: bool) -> Self {
        let nanos = |ms: u64| ms.saturating_mul(MILLI);
        let ends = |ms: Option<u64>| {
            let from = nanos(ms?);
            Some((from, from.saturating_add(nanos(behaviour.reap_ms)).saturating_add(LATE)))
        };
        Self {
            known: true,
            loaded,
            fifo: behaviour.idle_order == Some(IdleOrder::Fifo),
            on_demand: !behaviour.opens_unasked,
            opens_while_idle: behaviour.opens_while_idle,
            margin: nanos(behaviour.return_ms),
            max_open: behaviour.max_open.map_or(0, u64::from),
            idle_timeout: ends(behaviour.idle_timeout_ms),
            max_lifetime: ends(behaviour.max_lifetime_ms),
        }
    }

    fn weaker(self, other: Self) -> Self {
        let later = |one: Option<(u64, u64)>, other: Option<(u64, u64)>| {
            let ((a, b), (c, d)) = (one?, other?);
            Some((a.max(c), b.max(d)))
        };
        Self {
            known: true,
            loaded: self.loaded && other.loaded,
            fifo: self.fifo && other.fifo,
            on_demand: self.on_demand && other.on_demand,
            opens_while_idle: self.opens_while_idle || other.opens_while_idle,
            margin: self.margin.max(other.margin),
            max_open: self.max_open.max(other.max_open),
            idle_timeout: later(self.idle_timeout, other.idle_timeout),
            max_lifetime: later(self.max_lifetime, other.max_lifetime),
        }
    }

    /// What is idle is closed soon enough that a person would not take it for held.
    pub(super) fn closes_idle(&self) -> bool {
        const SOON: u64 = 40 * SECOND;
        self.idle_timeout.is_some_and(|(_, until)| until <= SOON)
    }
}

#[cfg(test)]
mod tests {
    use super::{Assumed, Behaviour, CAREFUL, IdleOrder, Presence, Protocol};
    use crate::model::PoolSeen;

    fn pool(presence: Presence, behaviour: Behaviour) -> PoolSeen {
        PoolSeen {
            name: "mine".to_owned(),
            observed: false,
            note: None,
            presence,
            how: None,
            pooler: false,
            behaviour: Some(behaviour),
        }
    }

    fn bold() -> Behaviour {
        Behaviour {
            idle_order: Some(IdleOrder::Fifo),
            opens_unasked: false,
            opens_while_idle: false,
            return_ms: 20,
            max_open: Some(5),
            idle_timeout_ms: Some(10_000),
            max_lifetime_ms: Some(60_000),
            reap_ms: 0,
            protocol: Protocol::Postgresql,
            return_function: Some("pool::Pool*::put_back".to_owned()),
        }
    }

    #[test]
    fn of_several_pools_the_weakest_behaviour_counts() {
        let careful = Behaviour {
            idle_order: Some(IdleOrder::Lifo),
            opens_unasked: true,
            opens_while_idle: true,
            return_ms: 1_000,
            max_open: None,
            idle_timeout_ms: None,
            max_lifetime_ms: Some(90_000),
            reap_ms: 30_000,
            protocol: Protocol::Postgresql,
            return_function: None,
        };
        let one = pool(Presence::Loaded, bold());
        let other = pool(Presence::Installed, careful);
        let alone = Assumed::of(std::slice::from_ref(&one));
        assert!(alone.fifo && alone.on_demand && alone.loaded && alone.closes_idle());
        for pools in [[one.clone(), other.clone()], [other.clone(), one.clone()]] {
            let both = Assumed::of(&pools);
            assert!(!both.fifo && !both.on_demand && !both.loaded && !both.closes_idle());
            assert!(both.opens_while_idle);
            assert_eq!((both.margin, both.max_open), (1_000_000_000, 5));
            assert_eq!(both.idle_timeout, None);
            assert_eq!(both.max_lifetime, Some((90_000_000_000, 122_000_000_000)));
        }
    }

    #[test]
    fn a_return_function_is_told_by_its_pattern() {
        let it = bold();
        assert!(it.returns_in("pool::Pool<DB>::put_back"));
        assert!(it.returns_in("pool::Pool::put_back::{{closure}}"));
        assert!(!it.returns_in("app::pool::Pool::put_back"));
        assert!(!it.returns_in("pool::Pool<DB>::take"));
        let without = Behaviour { return_function: None, ..bold() };
        assert!(!without.returns_in("pool::Pool::put_back") && !without.returns_in(""));
    }

    #[test]
    fn drivers_and_pools_of_another_protocol_say_nothing() {
        let mysql = Behaviour { protocol: Protocol::Mysql, ..bold() };
        let driver = PoolSeen { behaviour: None, ..pool(Presence::Loaded, bold()) };
        assert_eq!(Assumed::of(&[pool(Presence::Loaded, mysql), driver]), CAREFUL);
    }
}
