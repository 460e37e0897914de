//! Servers that are asked for their side: when, and what of their words goes to the model.
//!
//! May import what `session` may. Invariants: nothing here waits for a server, except once before
//! the report and then for a short while; a word is told only when it says something new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Session, SessionError, Sink};
use crate::{
    host::clock,
    model::{ConnId, Connection, Event, MonoNanos, Peer, Pid, SessionSaid},
    server::{
        Answer, Target, Watched,
        join::{Local, join},
    },
};

/// Servers are asked no more often than this, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;
/// The report waits no longer than this for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Times of one moment that differ by less than this come from two answers about it.
const SAME: u64 = 200_000_000;

/// The servers and what they said last.
#[derive(Default)]
pub(super) struct Servers {
    watched: Vec<(Watched, Option<Answer>)>,
    asked: MonoNanos,
    /// The clients' own ends; `None` where that could not be found.
    local: BTreeMap<ConnId, Option<Local>>,
    /// Answers that are not told yet, by position.
    news: BTreeSet<usize>,
}

impl Servers {
    pub(super) fn start(targets: Vec<Target>) -> Self {
        let watched = targets.into_iter().map(|target| (Watched::start(target), None));
        Self { watched: watched.collect(), asked: clock::now(), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// What the report must say of them.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.watched.iter().filter_map(|(watched, _)| watched.note())
    }

    /// Takes what is there and asks again when it is time.
    fn look(&mut self, at: MonoNanos, pause: u64) {
        for (number, (watched, last)) in self.watched.iter_mut().enumerate() {
            while let Some(answer) = watched.answer() {
                *last = Some(answer);
                self.news.insert(number);
            }
        }
        if at.since(self.asked) >= pause {
            self.asked = at;
            for (watched, _) in &mut self.watched {
                watched.ask_again();
            }
        }
    }

    /// Asks all of them once more and waits for a short while.
    fn look_last(&mut self) {
        self.asked = clock::now();
        let end = Instant::now() + LAST_ANSWERS;
        for (watched, _) in &mut self.watched {
            watched.ask_last();
        }
        for (number, (watched, last)) in self.watched.iter_mut().enumerate() {
            if let Some(answer) = watched.last_answer(end) {
                *last = Some(answer);
                self.news.insert(number);
            }
        }
    }
}

impl Session {
    /// Tells the model what servers have said since, and asks them again when it is time.
    pub(super) fn look_at_servers(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        if self.servers.is_empty() {
            return Ok(());
        }
        self.servers.look(clock::now(), PAUSE.max(self.settings.soft_threshold));
        self.tell_servers_words(sink)
    }

    /// Asks once more, before the last look at the connections: what moves after the question makes
    /// its answer void.
    pub(super) fn ask_servers_last(&mut self) {
        if !self.servers.is_empty() {
            self.servers.look_last();
        }
    }

    fn tell_servers_words(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let news = std::mem::take(&mut self.servers.news);
        if news.is_empty() {
            return Ok(());
        }
        self.find_local_ends();
        let answers = self.servers.watched.iter().enumerate();
        let answers: Vec<(usize, &Answer)> =
            answers.filter_map(|(number, (_, last))| Some((number, last.as_ref()?))).collect();
        for (number, answer) in &answers {
            let known = self.tracker.server(&answer.used.server);
            if news.contains(number) && known != Some(&answer.used) {
                self.pending.push(Event::Server { at: answer.at, used: answer.used.clone() });
            }
        }
        let all: Vec<&Answer> = answers.iter().map(|(_, answer)| *answer).collect();
        let local = self
            .servers
            .local
            .iter()
            .filter_map(|(conn, local)| Some((*conn, (*local)?)))
            .collect();
        let mut said = join(&all, self.tracker.live().filter(|conn| conn.is_session()), &local);
        let fresh: BTreeMap<&str, MonoNanos> = answers
            .iter()
            .filter(|(number, _)| news.contains(number))
            .map(|(_, answer)| (answer.used.server.as_str(), answer.at))
            .collect();
        for conn in self.tracker.live() {
            match said.remove(&conn.id) {
                Some((at, said)) if is_news(conn, at, &said) => {
                    let said = Some(Box::new(said));
                    self.pending.push(Event::Session { at, conn: conn.id, said });
                }
                Some(_) => {}
                None => {
                    let known = conn.said_now().and_then(|said| fresh.get(said.server.as_str()));
                    if let Some(at) = known {
                        self.pending.push(Event::Session { at: *at, conn: conn.id, said: None });
                    }
                }
            }
        }
        self.flush(sink)
    }

    /// Finds the client's ends of connections that are new.
    fn find_local_ends(&mut self) {
        let is_tcp = |conn: &&Connection| matches!(conn.opened.peer, Peer::Tcp { .. });
        let live: BTreeSet<ConnId> = self
            .tracker
            .live()
            .filter(|conn| conn.is_session())
            .filter(is_tcp)
            .map(|conn| conn.id)
            .collect();
        self.servers.local.retain(|conn, _| live.contains(conn));
        let new = live.iter().filter(|conn| !self.servers.local.contains_key(conn));
        let new: Vec<ConnId> = new.copied().collect();
        if new.is_empty() {
            return;
        }
        let here = self.proc.netns(Pid(std::process::id()));
        let mut found = self.ingest.local_ends(&new, &self.proc);
        for conn in new {
            let local = found.remove(&conn).map(|(netns, addr)| Local {
                addr: addr.to_canonical(),
                same_network: here == Some(netns),
            });
            self.servers.local.insert(conn, local);
        }
    }
}

/// Whether a word says more than the last one.
fn is_news(conn: &Connection, at: MonoNanos, new: &SessionSaid) -> bool {
    let Some(old) = conn.said() else { return true };
    let identity = |said: &SessionSaid| {
        let names = [&said.user, &said.database, &said.application_name];
        (said.server.clone(), said.backend_pid, names.map(Clone::clone))
    };
    if identity(old) != identity(new) {
        return true;
    }
    // Void already: something moved since it was asked.
    if conn.last_send().max(conn.last_recv()).is_some_and(|byte| byte >= at) {
        return false;
    }
    let Some(old) = conn.said_now() else { return true };
    let differ = |one: Option<MonoNanos>, other: Option<MonoNanos>| match (one, other) {
        (Some(one), Some(other)) => one.since(other).max(other.since(one)) > SAME,
        (one, other) => one != other,
    };
    let rest =
        |said: &SessionSaid| SessionSaid { state_since: None, xact_since: None, ..said.clone() };
    differ(old.state_since, new.state_since)
        || differ(old.xact_since, new.xact_since)
        || rest(old) != rest(new)
}
