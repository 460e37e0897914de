//! The correlation state machine: from events to live connections, their holders, and findings.
//!
//! May import the model only. Invariants: [`Tracker::apply`] never fails: what does not fit what
//! was known is counted as an [`Anomaly`] and the newer event wins; every collection is bounded by
//! a constant of this module or of [`process`](super::process); a process is known by our own
//! number, so a reused pid inherits nothing; a connection lives until its last (process,
//! descriptor) holder is gone.

use std::collections::BTreeMap;

use super::{
    anomaly::Anomaly,
    connection::{Connection, Opened, StackOf, app_frame, own_paths},
    costs::Costs,
    event::{
        ConnId, Event, Fd, MonoNanos, Pid, PoolWaits, ProcessSeen, Runtime, ServerUse, Stack,
        StackEvent, WirePhase, WireState,
    },
    finding::Finding,
    habits,
    holder::{self, Look},
    process::{Past, PathKey, ProcId, Process},
    rules::{self, Case, Scene},
    settings::Settings,
    stacks::{self, Stacks},
    waits,
};

/// Live connections known at once; further ones are counted as [`Anomaly::TooManyConnections`].
const MAX_CONNECTIONS: usize = 65_536;
/// Processes known at once; further ones are counted as [`Anomaly::TooManyProcesses`].
const MAX_PROCESSES: usize = 32_768;
/// Connections kept for findings after their process ended; further ones are counted as
/// [`Anomaly::TooManyEnded`].
const MAX_ENDED: usize = 4_096;
/// Servers that say something; further ones are not kept.
const MAX_SERVERS: usize = 64;
/// Distinct reasons of loss; further ones are counted together.
const MAX_REASONS: usize = 64;
/// Closed connections are kept this long after anything alive could need them, for opens that
/// replace them; in nanoseconds.
const PAST_GRACE: u64 = 10_000_000_000;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that became known, found ones included.
    pub opened: u64,
    /// Of these, found at the start.
    pub existing: u64,
    /// Connections whose last holder is gone.
    pub closed: u64,
    pub events: u64,
}

/// What is known, and what follows from it.
#[derive(Clone, Debug)]
pub struct Tracker {
    settings: Settings,
    now: MonoNanos,
    connections: BTreeMap<ConnId, Connection>,
    processes: BTreeMap<ProcId, Process>,
    by_pid: BTreeMap<Pid, ProcId>,
    next_process: u32,
    ended: Vec<Case>,
    servers: BTreeMap<String, ServerUse>,
    costs: Option<Costs>,
    lost: BTreeMap<String, u64>,
    anomalies: BTreeMap<Anomaly, u64>,
    totals: Totals,
    stacks: Stacks,
}

impl Tracker {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: MonoNanos(0),
            connections: BTreeMap::new(),
            processes: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            next_process: 0,
            ended: Vec::new(),
            servers: BTreeMap::new(),
            costs: None,
            lost: BTreeMap::new(),
            anomalies: BTreeMap::new(),
            totals: Totals::default(),
            stacks: Stacks::default(),
        }
    }

    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Time of the latest event.
    #[must_use]
    pub const fn now(&self) -> MonoNanos {
        self.now
    }

    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// What the capture has cost, once that is told.
    #[must_use]
    pub fn costs(&self) -> Option<&Costs> {
        self.costs.as_ref()
    }

    /// What servers said of themselves, by name.
    pub fn servers(&self) -> impl Iterator<Item = &ServerUse> {
        self.servers.values()
    }

    #[must_use]
    pub fn server(&self, name: &str) -> Option<&ServerUse> {
        self.servers.get(name)
    }

    /// Losses by reason.
    #[must_use]
    pub const fn lost(&self) -> &BTreeMap<String, u64> {
        &self.lost
    }

    #[must_use]
    pub const fn anomalies(&self) -> &BTreeMap<Anomaly, u64> {
        &self.anomalies
    }

    /// Connections open now, oldest identity first.
    pub fn live(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    #[must_use]
    pub fn connection(&self, id: ConnId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// Connections that ended with their process and belong to a finding.
    pub fn ended(&self) -> impl Iterator<Item = (&Connection, MonoNanos)> {
        self.ended.iter().map(|case| (&case.conn, case.at))
    }

    /// Processes alive, and those that ended with findings.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    #[must_use]
    pub fn process(&self, id: ProcId) -> Option<&Process> {
        self.processes.get(&id)
    }

    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        self.now = self.now.max(event.at());
        self.totals.events += 1;
        match event {
            Event::Process { at, pid, process } => self.seen(*at, *pid, process),
            Event::Fork { at, parent, child } => self.fork(*at, *parent, *child),
            Event::Exec { at, pid, kept } => self.exec(*at, *pid, kept),
            Event::Exit { at, pid } => self.exit(*at, *pid),
            Event::Open { at, conn, pid, fd, tid, peer, existing } => {
                let opened = Opened {
                    at: *at,
                    pid: *pid,
                    fd: *fd,
                    tid: *tid,
                    peer: peer.clone(),
                    existing: *existing,
                };
                self.open(*conn, opened);
            }
            Event::Duplicate { at, conn, pid, fd } => self.duplicate(*at, *conn, *pid, *fd),
            Event::Close { at, conn, pid, fd } => self.close(*at, *conn, *pid, *fd),
            Event::Wire { at, conn, local_port, state } => {
                self.wire(*at, *conn, *local_port, state);
            }
            Event::Unread { at, conn, bytes } => {
                self.change(*conn, |conn| conn.keep_unread(*at, *bytes));
            }
            Event::Session { at, conn, said } => {
                self.change(*conn, |conn| conn.keep_said(*at, said.as_deref()));
            }
            Event::Costs { costs, .. } => self.costs = Some(costs.clone()),
            Event::Server { used, .. } => {
                if self.servers.len() < MAX_SERVERS || self.servers.contains_key(&used.server) {
                    self.servers.insert(used.server.clone(), used.clone());
                }
            }
            Event::Stack { conn, of, uses, stack, .. } => self.stack(*conn, *of, *uses, stack),
            Event::Holder { conn, .. } => {
                self.change(*conn, |conn| conn.keep_look(Look::of(event)));
            }
            Event::Waits { pid, waits, .. } => self.waits(*pid, waits),
            Event::PoolSize { pid, pool, instance, max_open, .. } => {
                self.pool_size(*pid, pool, *instance, *max_open);
            }
            Event::Lost { reason, total, .. } => self.lose(reason, *total),
            Event::Tick { .. } => self.tick(),
        }
    }

    /// Stacks worth resolving now: of connections silent past the soft threshold whose present
    /// open, acquire or use has none yet. The number is what the answer must carry as `uses`.
    #[must_use]
    pub fn wanted_stacks(&self, now: MonoNanos) -> Vec<(ConnId, StackEvent, u64)> {
        let mut wanted = Vec::new();
        for conn in self.connections.values() {
            let silence = conn.silence(now);
            if silence < self.settings.soft_threshold || !conn.is_session() {
                continue;
            }
            let checkout = conn.wire.as_ref().and_then(|wire| wire.checkout.as_ref());
            let held = checkout.is_some_and(|checkout| checkout.held);
            let process = self.processes.get(&conn.opener);
            let marked =
                || checkout.zip(process).is_some_and(|(of, process)| process.marks(&of.pool));
            let long = silence >= self.settings.threshold;
            if conn.active() == Some(true) && !held && !long {
                continue;
            }
            let kinds =
                [StackEvent::Acquire, StackEvent::Begin, StackEvent::LastUse, StackEvent::Open];
            for of in kinds {
                let Some(uses) = conn.missing(of) else { continue };
                // Whoever gave it back inside a transaction is the one who took it last. Where
                // checkouts are marked, nobody else may be known who had to do with it.
                if of != StackEvent::Acquire || held || conn.left_open().is_some() || marked() {
                    wanted.push((conn.id, of, uses));
                }
            }
        }
        wanted
    }

    /// Connections of which to ask now how many bytes wait unread: silent past the soft threshold
    /// while the server owes an answer; and once more where some were seen a threshold ago.
    #[must_use]
    pub fn wanted_looks(&self, now: MonoNanos) -> Vec<ConnId> {
        let settings = self.settings;
        self.connections
            .values()
            .filter(|conn| conn.awaits_answer() && conn.silence(now) >= settings.soft_threshold)
            .filter(|conn| !rules::is_silent_on_purpose(conn))
            .filter(|conn| {
                conn.unread().is_none_or(|unread| {
                    unread.waited() < settings.threshold
                        && now.since(unread.since) >= settings.threshold
                })
            })
            .map(|conn| conn.id)
            .collect()
    }

    /// What follows from everything known at `now`, worst first.
    #[must_use]
    pub fn findings(&self, now: MonoNanos) -> Vec<Finding> {
        let mut cases = self.ended.clone();
        let mut information = Vec::new();
        for process in self.processes.values().filter(|process| process.ended_at.is_none()) {
            let found = self.judge(process, now, false);
            if !process.waits.is_empty() {
                let alive = self.alive(process);
                let (settings, lost) = (self.settings, &self.lost);
                let small = rules::too_small(settings, now, process, &alive, &found, lost);
                information.extend(small);
            }
            cases.extend(found);
        }
        let mut findings = rules::findings(self.settings, now, cases, &self.processes, &self.lost);
        findings.extend(information);
        for finding in &mut findings {
            finding.holders = holder::of_finding(self, finding);
        }
        findings
    }

    /// Cases among the connections that a process answers for.
    fn judge(&self, process: &Process, now: MonoNanos, ended: bool) -> Vec<Case> {
        let alive = self.alive(process);
        let scene = Scene::new(self.settings, now, process, &alive);
        let held: std::collections::BTreeSet<ConnId> = process.holds.values().copied().collect();
        let held = held
            .iter()
            .filter_map(|id| self.connections.get(id))
            .filter(|conn| conn.owner == process.id);
        rules::judge(&scene, held, ended)
    }

    /// Connections that a process opened and that are still open somewhere.
    fn alive(&self, process: &Process) -> Vec<&Connection> {
        process.alive.iter().filter_map(|id| self.connections.get(id)).collect()
    }

    fn count(&mut self, anomaly: Anomaly) {
        *self.anomalies.entry(anomaly).or_insert(0) += 1;
    }

    fn process_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.get_mut(self.by_pid.get(&pid)?)
    }

    /// The process of a pid, made known if it is not; `None` when there are too many.
    fn process_of(&mut self, pid: Pid) -> Option<ProcId> {
        if let Some(id) = self.by_pid.get(&pid) {
            return Some(*id);
        }
        if self.processes.len() >= MAX_PROCESSES {
            self.count(Anomaly::TooManyProcesses);
            return None;
        }
        let id = ProcId(self.next_process);
        self.next_process = self.next_process.wrapping_add(1);
        self.processes.insert(id, Process::new(id, pid, None));
        self.by_pid.insert(pid, id);
        Some(id)
    }

    fn seen(&mut self, at: MonoNanos, pid: Pid, seen: &ProcessSeen) {
        let Some(id) = self.process_of(pid) else { return };
        let Some(process) = self.processes.get_mut(&id) else { return };
        let other = process
            .seen
            .as_ref()
            .and_then(|known| known.start_time)
            .zip(seen.start_time)
            .is_some_and(|(known, new)| known != new);
        // A forked child starts with its parent's facts, start time included.
        if other && process.opened > 0 && process.seen_directly {
            self.count(Anomaly::MissedExit);
            self.end(self.now, pid);
            return self.seen(at, pid, seen);
        }
        process.seen = Some(seen.clone());
        process.seen_directly = true;
        let observed = process.has_probed_pool();
        process.observed_since = process.observed_since.or(Some(at)).filter(|_| observed);
    }

    fn fork(&mut self, at: MonoNanos, parent: Pid, child: Pid) {
        if self
            .by_pid
            .get(&child)
            .and_then(|id| self.processes.get(id))
            .is_some_and(|known| !known.holds.is_empty())
        {
            self.count(Anomaly::MissedExit);
            self.end(at, child);
        }
        let Some(parent) = self.process_mut(parent) else { return };
        if parent.holds.is_empty() {
            return;
        }
        let (holds, seen, since) =
            (parent.holds.clone(), parent.seen.clone(), parent.observed_since);
        let Some(child) = self.process_of(child) else { return };
        for id in holds.values() {
            if let Some(conn) = self.connections.get_mut(id) {
                conn.holders += 1;
            }
        }
        if let Some(child) = self.processes.get_mut(&child) {
            child.holds = holds;
            child.seen = child.seen.take().or(seen);
            child.observed_since = child.observed_since.or(since);
        }
    }

    fn exec(&mut self, at: MonoNanos, pid: Pid, kept: &[Fd]) {
        let Some(process) = self.process_mut(pid) else { return };
        process.forget_code();
        let dropped: Vec<_> = process
            .holds
            .iter()
            .filter(|(fd, _)| !kept.contains(fd))
            .map(|(fd, conn)| (*fd, *conn))
            .collect();
        let id = process.id;
        for (fd, conn) in dropped {
            self.drop_holder(at, id, fd, conn);
        }
    }

    fn exit(&mut self, at: MonoNanos, pid: Pid) {
        self.end(at, pid);
    }

    /// The process is gone: what it held alone is closed, and what looked wrong then is kept.
    fn end(&mut self, at: MonoNanos, pid: Pid) {
        let Some(id) = self.by_pid.remove(&pid) else { return };
        let Some(process) = self.processes.get(&id) else { return };
        let cases = self.judge(process, at.max(self.now), true);
        let holds: Vec<_> = process.holds.iter().map(|(fd, conn)| (*fd, *conn)).collect();
        for (fd, conn) in holds {
            self.drop_holder(at, id, fd, conn);
        }
        let mut kept = false;
        for case in cases {
            // Another process still holds it and answers for it now.
            if self.connections.contains_key(&case.conn.id) {
                continue;
            }
            if self.ended.len() >= MAX_ENDED {
                self.count(Anomaly::TooManyEnded);
                continue;
            }
            self.ended.push(case);
            kept = true;
        }
        if kept {
            if let Some(process) = self.processes.get_mut(&id) {
                process.ended_at = Some(at);
                process.waits.clear();
            }
        } else {
            self.processes.remove(&id);
        }
    }

    fn open(&mut self, conn: ConnId, opened: Opened) {
        if self.connections.contains_key(&conn) {
            return self.count(Anomaly::OpenedTwice);
        }
        if self.connections.len() >= MAX_CONNECTIONS {
            return self.count(Anomaly::TooManyConnections);
        }
        let Some(process) = self.process_of(opened.pid) else { return };
        let (at, fd) = (opened.at, opened.fd);
        self.totals.opened += 1;
        self.totals.existing += u64::from(opened.existing.is_some());
        self.connections.insert(conn, Connection::new(conn, process, opened));
        if let Some(process) = self.processes.get_mut(&process) {
            process.opened += 1;
            process.alive.insert(conn);
        }
        self.hold(at, process, fd, conn);
    }

    fn duplicate(&mut self, at: MonoNanos, conn: ConnId, pid: Pid, fd: Fd) {
        if !self.connections.contains_key(&conn) {
            return self.count(Anomaly::UnknownConnection);
        }
        if let Some(process) = self.process_of(pid) {
            self.hold(at, process, fd, conn);
        }
    }

    fn close(&mut self, at: MonoNanos, conn: ConnId, pid: Pid, fd: Fd) {
        if !self.connections.contains_key(&conn) {
            return self.count(Anomaly::UnknownConnection);
        }
        let holder = self.process_mut(pid).filter(|process| process.holds.get(&fd) == Some(&conn));
        match holder.map(|process| process.id) {
            Some(process) => self.drop_holder(at, process, fd, conn),
            None => self.count(Anomaly::NotHeld),
        }
    }

    /// The descriptor of a process refers to the connection from now on.
    fn hold(&mut self, at: MonoNanos, process: ProcId, fd: Fd, conn: ConnId) {
        let holder = self.processes.get(&process);
        match holder.and_then(|process| process.holds.get(&fd)).copied() {
            Some(held) if held == conn => return,
            Some(other) => {
                self.count(Anomaly::MissedClose);
                self.drop_holder(at, process, fd, other);
            }
            None => {}
        }
        if let (Some(process), Some(held)) =
            (self.processes.get_mut(&process), self.connections.get_mut(&conn))
        {
            process.holds.insert(fd, conn);
            held.holders += 1;
        }
    }

    /// The descriptor of a process does not refer to the connection any more.
    fn drop_holder(&mut self, at: MonoNanos, process: ProcId, fd: Fd, conn: ConnId) {
        let Some(holder) = self.processes.get_mut(&process) else { return };
        holder.holds.remove(&fd);
        let Some(dropped) = self.connections.get_mut(&conn) else { return };
        dropped.holders = dropped.holders.saturating_sub(1);
        if dropped.holders == 0 {
            return self.closed(at, conn);
        }
        if dropped.owner != process || holder.holds.values().any(|held| *held == conn) {
            return;
        }
        // The oldest of the other holders answers for it.
        let holds = |other: &&Process| other.holds.values().any(|held| *held == conn);
        if let Some(heir) = self.processes.values().find(holds) {
            dropped.owner = heir.id;
        }
    }

    /// The last holder is gone.
    fn closed(&mut self, at: MonoNanos, conn: ConnId) {
        let Some(conn) = self.connections.remove(&conn) else { return };
        self.totals.closed += 1;
        let Some(opener) = self.processes.get_mut(&conn.opener) else { return };
        opener.closed += 1;
        opener.alive.remove(&conn.id);
        let assumed = opener.assumed();
        if let Some(end) = habits::end_of_life(&assumed, &conn, at) {
            let left = opener.alive.iter().filter_map(|id| self.connections.get(id));
            opener.habits.retire(end, &conn, left);
        }
        // Only sessions say something about a pool, and only while others are alive.
        if !conn.is_session() || opener.alive.is_empty() {
            return;
        }
        let identity = conn.identity();
        let existing = conn.opened.existing.is_some();
        let remembered = opener.remember(Past {
            identity,
            opened_at: (!existing).then_some(conn.opened.at),
            closed_at: at,
            tid: conn.opened.tid,
            used_at: conn.used_at,
            peer_closed: conn.peer_closed(),
            paths: conn.paths,
            peer: conn.opened.peer,
        });
        if !remembered {
            self.count(Anomaly::Forgotten);
        }
    }

    fn wire(&mut self, at: MonoNanos, id: ConnId, local_port: Option<u16>, state: &WireState) {
        let Some(conn) = self.connections.get(&id) else {
            return self.count(Anomaly::UnknownConnection);
        };
        let refuted = self.refutes(conn, state);
        let woke = state.uses > 0
            && state.last_send.is_some_and(|sent| {
                Some(sent) > conn.last_send() && conn.silence(sent) >= self.settings.threshold
            });
        let uses = conn.wire.as_ref().map_or(0, |wire| wire.uses);
        let used_at = state.last_send.filter(|_| state.uses > uses);
        let path = conn
            .sampled_use()
            .and_then(|sampled| Some((sampled.uses, PathKey::of(app_frame(&sampled.stack)?)?)));
        let Some(conn) = self.connections.get_mut(&id) else { return };
        conn.local_port = local_port.or(conn.local_port);
        let knew = conn.pool_checkout().is_some();
        let before = conn.wire.replace(state.clone());
        if let Some(process) = self.processes.get_mut(&conn.opener) {
            process.note_checkout(knew, conn.pool_checkout());
        }
        conn.forget_read();
        conn.refuted |= refuted;
        conn.woke |= woke;
        conn.keep_begin();
        conn.note_return(before.as_ref());
        let turn = used_at.filter(|_| state.phase == WirePhase::Ready);
        if let Some(turn) = turn
            && let Some(process) = self.processes.get_mut(&conn.opener)
            && process.assumed().fifo
        {
            process.habits.take_turn(id, turn);
        }
        let opener = conn.opener;
        let encrypted = state.phase == WirePhase::Encrypted;
        if conn.used_at.is_none() && (conn.used() == Some(true) || encrypted) {
            conn.used_at = Some(state.last_send.unwrap_or(at));
        }
        self.keep_pool(opener, state);
        let Some(conn) = self.connections.get_mut(&id) else { return };
        let Some((uses, path)) = path else { return };
        let newly = state.uses > uses && !conn.followed;
        conn.followed |= newly;
        if let Some(process) = self.processes.get_mut(&conn.opener)
            && let Some(counts) = process.path_mut(&path)
        {
            counts.followed += u64::from(newly);
            counts.refuted += u64::from(refuted);
        }
    }

    /// The connection looked lost and speaks again.
    fn refutes(&self, conn: &Connection, state: &WireState) -> bool {
        let spoke = state.last_send.filter(|sent| Some(*sent) > conn.last_send());
        let Some(spoke) = spoke else { return false };
        if conn.silence(spoke) < self.settings.threshold {
            return false;
        }
        self.processes
            .get(&conn.opener)
            .is_some_and(|process| rules::is_bypassed(process, conn, &self.alive(process)))
    }

    /// A checkout tells which pool it is of: its acquires are seen at both ends.
    fn keep_pool(&mut self, opener: ProcId, state: &WireState) {
        let Some(checkout) = &state.checkout else { return };
        let (Some(instance), Some(process)) = (checkout.instance, self.processes.get_mut(&opener))
        else {
            return;
        };
        if process.waits.iter().any(|waits| waits.is_of(checkout)) {
            return;
        }
        // Only Go's acquires show what they return without a connection.
        let failed = (process.runtime() == Some(Runtime::Go)).then_some(0);
        let none = PoolWaits { failed, ..PoolWaits::none(checkout.pool.clone(), instance) };
        if !process.keep_waits(&none) {
            self.count(Anomaly::TooManyPools);
        }
    }

    fn waits(&mut self, pid: Pid, told: &PoolWaits) {
        if self.process_mut(pid).is_some_and(|process| !process.keep_waits(told)) {
            self.count(Anomaly::TooManyPools);
        }
    }

    fn pool_size(&mut self, pid: Pid, pool: &str, instance: u32, max_open: Option<u32>) {
        let kept =
            self.process_mut(pid).is_none_or(|process| process.keep_size(pool, instance, max_open));
        if !kept {
            self.count(Anomaly::TooManyPools);
        }
    }

    fn change(&mut self, id: ConnId, change: impl FnOnce(&mut Connection)) {
        match self.connections.get_mut(&id) {
            Some(conn) => change(conn),
            None => self.count(Anomaly::UnknownConnection),
        }
    }

    fn stack(&mut self, id: ConnId, of: StackEvent, uses: u64, stack: &Stack) {
        let Some(conn) = self.connections.get_mut(&id) else {
            return self.count(Anomaly::UnknownConnection);
        };
        let stack = stacks::bounded(stack);
        let path = app_frame(&stack).and_then(PathKey::of);
        if let Some(process) = self.processes.get_mut(&conn.opener) {
            process.keep_paths(own_paths(&stack));
        }
        let stack = self.stacks.keep(stack);
        let again = conn.sampled_use().is_some_and(|sampled| sampled.uses == uses);
        conn.keep_stack(of, StackOf { uses, stack });
        let Some(path) = path else { return };
        if of != StackEvent::Acquire {
            conn.keep_path(path.clone());
        }
        if of != StackEvent::LastUse || again {
            return;
        }
        // It may have been used again between the copy and its resolution.
        conn.followed = conn.wire.as_ref().is_some_and(|wire| wire.uses > uses);
        let process = self.processes.get_mut(&conn.opener);
        if let Some(counts) = process.and_then(|process| process.path_mut(&path)) {
            counts.sampled += 1;
            counts.followed += u64::from(conn.followed);
        }
    }

    fn lose(&mut self, reason: &str, total: u64) {
        let full = self.lost.len() >= MAX_REASONS && !self.lost.contains_key(reason);
        let known = self.lost.entry(if full { "other" } else { reason }.to_owned()).or_insert(0);
        *known = (*known).max(total);
    }

    /// Forgets closed connections that no verdict can need any more.
    fn tick(&mut self) {
        for process in self.processes.values_mut().filter(|process| !process.waits.is_empty()) {
            waits::sample(process, &self.connections, self.settings.threshold, self.now);
        }
        let processes = self.processes.values_mut();
        for process in processes.filter(|process| process.past().next().is_some()) {
            let oldest = process
                .alive
                .iter()
                .filter_map(|id| self.connections.get(id))
                .map(Connection::last_byte)
                .min()
                .unwrap_or(self.now);
            process.forget_before(MonoNanos(oldest.0.saturating_sub(PAST_GRACE)));
        }
    }
}
