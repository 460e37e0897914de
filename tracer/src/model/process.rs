//! A process as the model knows it: its descriptors, what its code paths do with connections, and
//! the connections it closed that some verdict still needs.
//!
//! May import `model::event`, `connection`, `behaviour`, `habits` and `waits`. Invariants: identity is
//! our own number, never the pid; every collection here is bounded by a constant of this module.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    behaviour::Assumed,
    connection::Connection,
    event::{Checkout, ConnId, Fd, Frame, MonoNanos, Peer, Pid, PoolWaits, ProcessSeen, Runtime},
    habits::Habits,
    waits::Waits,
};

/// Distinct paths kept for one process, those that called the one that used a connection included.
/// Uses by further paths are not counted, so those paths never extend a finding.
const MAX_PATHS: usize = 4_096;

/// Closed connections kept for one process. When full the oldest is forgotten, and growth of the
/// pool since before then is unknown.
const MAX_PAST: usize = 256;

/// Pools of one process whose waits and sizes are kept; those of further ones are not known.
const MAX_POOLS: usize = 64;

/// A process's identity: given out once, also when the kernel reuses the pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcId(pub u32);

/// A place in the code: what makes two uses of connections "the same path".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathKey {
    pub function: String,
    pub file: Option<String>,
    /// The line is that of the function's definition, for that of the call is not known.
    pub definition: bool,
    pub line: Option<u32>,
}

impl PathKey {
    /// The path of a named frame.
    #[must_use]
    pub fn of(frame: &Frame) -> Option<Self> {
        let symbol = frame.symbol.as_ref()?;
        Some(Self {
            function: symbol.function.clone(),
            file: symbol.file.clone(),
            definition: symbol.definition,
            line: symbol.line,
        })
    }
}

/// What became of the sampled uses of connections by one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathUse {
    /// Uses whose stack was sampled.
    pub sampled: u64,
    /// Of those, uses after which the same connection was used again.
    pub followed: u64,
    /// Connections that this path left silent past the threshold while a new one was opened, and
    /// that were used again after all: each one speaks against the inference.
    pub refuted: u64,
}

/// Who a session is: connections of one pool agree in all three.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) application_name: Option<String>,
}

/// A closed connection, as far as the inference about the others needs it.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) peer: Peer,
    pub(super) identity: Option<Identity>,
    /// `None`: it existed before the start.
    pub(super) opened_at: Option<MonoNanos>,
    pub(super) closed_at: MonoNanos,
    pub(super) tid: Option<u32>,
    /// First time it was seen used.
    pub(super) used_at: Option<MonoNanos>,
    pub(super) paths: Vec<PathKey>,
    /// The server ended it.
    pub(super) peer_closed: bool,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: ProcId,
    pub pid: Pid,
    /// What is known about it; after `fork` the parent's until its own is known.
    pub seen: Option<ProcessSeen>,
    /// Since when a pool of it is observed; what was taken before was not seen.
    pub(super) observed_since: Option<MonoNanos>,
    /// Its connections have checkouts that were seen.
    pub(super) sees_checkouts: bool,
    /// Pools of it whose checkouts were seen, by name.
    pub(super) handed_out: BTreeSet<String>,
    /// [`seen`](Self::seen) is its own, not its parent's.
    pub(super) seen_directly: bool,
    /// When it ended, if it did.
    pub ended_at: Option<MonoNanos>,
    /// Connections it opened, found ones included, and connections of those that are gone.
    pub opened: u64,
    pub closed: u64,
    /// Its pools whose acquires are seen at both ends.
    pub waits: Vec<Waits>,
    /// How many connections its pools may have, by name and instance; `None` for no maximum.
    sizes: BTreeMap<(String, u32), Option<u32>>,
    pub(super) holds: BTreeMap<Fd, ConnId>,
    /// Connections it opened that are still open somewhere.
    pub(super) alive: BTreeSet<ConnId>,
    /// Of the paths that use connections, and of their callers.
    paths: BTreeMap<PathKey, PathUse>,
    past: VecDeque<Past>,
    pub(super) habits: Habits,
    /// Closed connections were forgotten up to this time because there were too many.
    pub(super) forgotten_until: Option<MonoNanos>,
}

impl Process {
    pub(super) fn new(id: ProcId, pid: Pid, seen: Option<ProcessSeen>) -> Self {
        Self {
            id,
            pid,
            seen,
            observed_since: None,
            sees_checkouts: false,
            handed_out: BTreeSet::new(),
            seen_directly: false,
            ended_at: None,
            opened: 0,
            closed: 0,
            waits: Vec::new(),
            sizes: BTreeMap::new(),
            holds: BTreeMap::new(),
            alive: BTreeSet::new(),
            paths: BTreeMap::new(),
            past: VecDeque::new(),
            habits: Habits::default(),
            forgotten_until: None,
        }
    }

    /// The runtime, when recognised.
    #[must_use]
    pub fn runtime(&self) -> Option<Runtime> {
        self.seen.as_ref()?.runtime
    }

    /// Acquire and release of some pool of this process are probed.
    #[must_use]
    pub fn has_probed_pool(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.pools.iter().any(|pool| pool.observed))
    }

    /// Takes in what a new state of a connection says of its checkout; one was known before, or not.
    pub(super) fn note_checkout(&mut self, known: bool, checkout: Option<&Checkout>) {
        if known != checkout.is_some() {
            self.sees_checkouts = checkout.is_some();
        }
        let is_news = |of: &&Checkout| of.is_pool && !self.handed_out.contains(&of.pool);
        if let Some(checkout) = checkout.filter(is_news) {
            self.handed_out.insert(checkout.pool.clone());
        }
    }

    /// The process marks its own checkouts of this pool. What it does not mark may be another pool's,
    /// or a client that was made alone, so nothing follows from that.
    #[must_use]
    pub fn marks(&self, pool: &str) -> bool {
        // No function of a pool in JavaScript or Python is probed.
        matches!(self.runtime(), Some(Runtime::Node | Runtime::Python))
            && self.handed_out.contains(pool)
    }

    /// What its probes do not tell of a connection did not happen: they see every checkout. Of
    /// native code, whose compilers copy functions, only once they saw one, and while what they see
    /// is believed.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.has_probed_pool() && (self.sees_checkouts || self.runtime() == Some(Runtime::Go))
    }

    /// The connection was opened before the probes of this process's pool were attached, so it may
    /// have been taken from the pool before.
    #[must_use]
    pub fn opened_before_observed(&self, opened_at: MonoNanos) -> bool {
        self.is_observed() && self.observed_since.is_some_and(|since| opened_at < since)
    }

    /// How many connections a pool of this process opens at the most; `None` when it is not known, or
    /// there are several of the name.
    #[must_use]
    pub fn max_open(&self, pool: &str) -> Option<u32> {
        let mut sizes = self.sizes.iter().filter(|((name, _), _)| name == pool);
        match (sizes.next(), sizes.next()) {
            (Some((_, size)), None) => *size,
            _ => None,
        }
    }

    /// Keeps how many connections a pool may have; false when there are too many pools.
    pub(super) fn keep_size(&mut self, pool: &str, instance: u32, max_open: Option<u32>) -> bool {
        let key = (pool.to_owned(), instance);
        let kept = self.sizes.len() < MAX_POOLS || self.sizes.contains_key(&key);
        if kept {
            self.sizes.insert(key, max_open);
        }
        kept
    }

    /// What must be assumed of the pools that it may use.
    pub(super) fn assumed(&self) -> Assumed {
        Assumed::of(self.seen.as_ref().map_or(&[], |seen| &seen.pools))
    }

    /// The place that a path stands for. Of a function whose line is not known it is the only line
    /// of that function that was seen with a connection, if there is one: a runtime that has dropped
    /// where a call was must not make two paths of one.
    #[must_use]
    pub fn place<'p>(&'p self, path: &'p PathKey) -> &'p PathKey {
        if !path.definition {
            return path;
        }
        let mut lines = self.paths_of_function(path).filter(|(line, _)| !line.definition);
        match (lines.next(), lines.next()) {
            (Some((only, _)), None) => only,
            _ => path,
        }
    }

    /// What is known in the function of a path.
    fn paths_of_function(&self, path: &PathKey) -> impl Iterator<Item = (&PathKey, &PathUse)> {
        let first = PathKey { definition: false, line: None, ..path.clone() };
        self.paths.range(first.clone()..).take_while(move |(known, _)| {
            known.function == first.function && known.file == first.file
        })
    }

    /// The places of all code that used a connection, as far as it was sampled.
    pub(super) fn places<'p>(&'p self, paths: &'p [PathKey]) -> Vec<&'p PathKey> {
        paths.iter().map(|path| self.place(path)).collect()
    }

    /// The place that opened a connection.
    pub(super) fn open_place(&self, conn: &Connection) -> Option<PathKey> {
        Some(self.place(&conn.open_path()?).clone())
    }

    /// The place of its present use.
    pub(super) fn use_place(&self, conn: &Connection) -> Option<PathKey> {
        Some(self.place(&conn.use_path()?).clone())
    }

    /// The same with who called it, innermost first.
    pub(super) fn use_callers(&self, conn: &Connection) -> Vec<PathKey> {
        conn.use_callers().iter().map(|path| self.place(path).clone()).collect()
    }

    /// What is known of the uses by a path, those included that may have been by it: of its function,
    /// at a line that is not known.
    #[must_use]
    pub fn path(&self, path: &PathKey) -> PathUse {
        let place = self.place(path);
        self.paths_of_function(place)
            .filter(|(known, _)| known.line == place.line || known.definition || place.definition)
            .fold(PathUse::default(), |sum, (_, uses)| PathUse {
                sampled: sum.sampled + uses.sampled,
                followed: sum.followed + uses.followed,
                refuted: sum.refuted + uses.refuted,
            })
    }

    /// Keeps that these were seen with a connection.
    pub(super) fn keep_paths(&mut self, paths: impl Iterator<Item = PathKey>) {
        for path in paths {
            self.path_mut(&path);
        }
    }

    /// The counters of a path; `None` when there are too many paths already.
    pub(super) fn path_mut(&mut self, path: &PathKey) -> Option<&mut PathUse> {
        if !self.paths.contains_key(path) {
            if self.paths.len() >= MAX_PATHS {
                return None;
            }
            self.paths.insert(path.clone(), PathUse::default());
        }
        self.paths.get_mut(path)
    }

    pub(super) fn past(&self) -> impl Iterator<Item = &Past> {
        self.past.iter()
    }

    /// Keeps a closed connection. Returns false when an older one had to be forgotten for it.
    pub(super) fn remember(&mut self, past: Past) -> bool {
        let full = self.past.len() >= MAX_PAST;
        if full && let Some(oldest) = self.past.pop_front() {
            self.forgotten_until = self.forgotten_until.max(Some(oldest.closed_at));
        }
        self.past.push_back(past);
        !full
    }

    /// Forgets closed connections that ended before `since`: nothing alive was silent then.
    pub(super) fn forget_before(&mut self, since: MonoNanos) {
        self.past.retain(|past| past.closed_at >= since);
    }

    /// A pool whose acquires are seen; false when there are too many.
    pub(super) fn keep_waits(&mut self, told: &PoolWaits) -> bool {
        let known =
            |waits: &Waits| waits.told.pool == told.pool && waits.told.instance == told.instance;
        match self.waits.iter().position(known) {
            Some(index) => self.waits[index].told = told.clone(),
            None if self.waits.len() >= MAX_POOLS => return false,
            None => self.waits.push(Waits::new(told.clone())),
        }
        true
    }

    /// The image was replaced: the code and its pools are gone.
    pub(super) fn forget_code(&mut self) {
        self.observed_since = None;
        self.sees_checkouts = false;
        self.handed_out.clear();
        self.waits.clear();
        self.sizes.clear();
        self.paths.clear();
        self.past.clear();
        self.habits = Habits::default();
    }
}
