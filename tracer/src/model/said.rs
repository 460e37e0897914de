//! What a server said of a connection when it was asked, and what follows from it.
//!
//! May import `model::event` and `model::connection`. Pure. Invariants: the wire comes first, and
//! the server's word fills in what the wire does not tell; its word on a state holds only while no
//! byte has moved since it was asked.

use super::{
    connection::Connection,
    event::{MonoNanos, SessionSaid, SessionState, Statement, TxStatus, WirePhase},
};

/// A server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Before it was asked.
    at: MonoNanos,
    said: SessionSaid,
    /// It has no such session any more: only who it was still holds.
    gone: bool,
}

impl Connection {
    /// Keeps the latest word.
    pub(super) fn keep_said(&mut self, at: MonoNanos, said: Option<&SessionSaid>) {
        match (said, &mut self.said) {
            (Some(said), kept) => *kept = Some(Said { at, said: said.clone(), gone: false }),
            (None, Some(kept)) => kept.gone = true,
            (None, None) => {}
        }
    }

    /// What the server said last, however long ago.
    #[must_use]
    pub fn said(&self) -> Option<&SessionSaid> {
        self.said.as_ref().map(|kept| &kept.said)
    }

    /// What the server says of the present state: nothing moved since it was asked.
    #[must_use]
    pub fn said_now(&self) -> Option<&SessionSaid> {
        let kept = self.said.as_ref()?;
        let moved = self.last_send().max(self.last_recv()).is_some_and(|byte| byte >= kept.at);
        (!moved && !kept.gone).then_some(&kept.said)
    }

    /// The open transaction that the server tells of.
    pub(super) fn transaction_said(&self) -> Option<TxStatus> {
        match self.said_now()?.state? {
            SessionState::InTransaction => Some(TxStatus::InTransaction),
            SessionState::FailedTransaction => Some(TxStatus::Failed),
            SessionState::Active | SessionState::Idle => None,
        }
    }

    /// The state is known from the server alone.
    #[must_use]
    pub fn state_is_said(&self) -> bool {
        let wire = self.wire.as_ref();
        let state = self.said_now().and_then(|said| said.state);
        state.is_some() && wire.is_none_or(|wire| wire.active.is_none() || wire.status.is_none())
    }

    /// Since when its transaction is open: as seen on the wire, else by the server's word.
    #[must_use]
    pub fn transaction_since(&self) -> Option<MonoNanos> {
        self.in_transaction()?;
        if let Some(begun) = self.wire.as_ref().and_then(|wire| wire.begun) {
            return Some(begun.at);
        }
        self.transaction_said()?;
        self.said_now()?.xact_since
    }

    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let seen = self.wire.as_ref().and_then(|wire| wire.user.as_deref());
        seen.or_else(|| self.said()?.user.as_deref())
    }

    /// Database, with the server's default: the user's name.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        let seen = self.wire.as_ref().and_then(|wire| {
            // MySQL's sessions need none.
            let default = wire.user.as_deref().filter(|_| wire.phase != WirePhase::Mysql);
            wire.database.as_deref().or(default)
        });
        seen.or_else(|| self.said()?.database.as_deref())
    }

    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        let wire = self.wire.as_ref();
        let seen = wire.and_then(|wire| wire.application_name.as_deref());
        // One whose startup was seen and had no name has none.
        let known = wire.is_some_and(|wire| wire.user.is_some());
        seen.or_else(|| self.said()?.application_name.as_deref().filter(|_| !known))
    }

    #[must_use]
    pub fn backend_pid(&self) -> Option<u32> {
        let seen = self.wire.as_ref().and_then(|wire| wire.backend_pid);
        seen.or_else(|| self.said()?.backend_pid)
    }

    /// The last statement, without literals.
    #[must_use]
    pub fn statement(&self) -> Option<&Statement> {
        let seen = self.wire.as_ref().and_then(|wire| wire.last_statement.as_ref());
        seen.or_else(|| self.said_now()?.statement.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ConnId, Event, Existing, Fd, Peer, Pid, Settings, Tracker, Verdict, WirePhase, WireState,
    };

    const SECOND: u64 = 1_000_000_000;
    const CONN: ConnId = ConnId(1);

    fn at(seconds: u64) -> MonoNanos {
        MonoNanos(seconds * SECOND)
    }

    /// A connection from before the start, silent for 50 s at second 100.
    fn existing() -> Tracker {
        let mut tracker = Tracker::new(Settings::new(10 * SECOND));
        let ago = Some(50 * SECOND);
        tracker.apply(&Event::Open {
            at: at(100),
            conn: CONN,
            pid: Pid(7),
            fd: Fd(3),
            tid: None,
            peer: Peer::Tcp { addr: "127.0.0.1".to_owned(), port: 5432 },
            existing: Some(Existing { last_send_ago: ago, last_recv_ago: ago }),
        });
        tracker
    }

    fn said(tracker: &mut Tracker, seconds: u64, said: Option<SessionSaid>) {
        tracker.apply(&Event::Session { at: at(seconds), conn: CONN, said: said.map(Box::new) });
    }

    fn in_transaction() -> SessionSaid {
        SessionSaid {
            server: "db:5432".to_owned(),
            user: Some("me".to_owned()),
            database: Some("shop".to_owned()),
            state: Some(SessionState::InTransaction),
            xact_since: Some(at(40)),
            ..SessionSaid::default()
        }
    }

    fn verdicts(tracker: &Tracker, seconds: u64) -> Vec<Verdict> {
        tracker.findings(at(seconds)).iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_transaction_from_before_the_start_is_proven_and_its_age_told() {
        let mut tracker = existing();
        assert_eq!(verdicts(&tracker, 101), []);
        said(&mut tracker, 101, Some(in_transaction()));
        let findings = tracker.findings(at(102));
        assert_eq!(findings[0].verdict, Verdict::IdleInTransaction);
        assert_eq!(findings[0].held.map(|held| held.max), Some(62 * SECOND));
        let conn = tracker.connection(CONN).unwrap();
        assert_eq!((conn.user(), conn.database()), (Some("me"), Some("shop")));
    }

    #[test]
    fn a_word_is_void_once_a_byte_moved_and_once_the_session_is_gone() {
        let mut tracker = existing();
        said(&mut tracker, 101, Some(in_transaction()));
        let mut state = quiet();
        state.last_recv = Some(at(101));
        tracker.apply(&Event::Wire { at: at(102), conn: CONN, local_port: None, state });
        assert_eq!(verdicts(&tracker, 150), []);
        assert_eq!(tracker.connection(CONN).unwrap().user(), Some("me"), "who it is stays");

        let mut tracker = existing();
        said(&mut tracker, 101, Some(in_transaction()));
        said(&mut tracker, 102, None);
        assert_eq!(verdicts(&tracker, 150), []);
    }

    #[test]
    fn the_wire_comes_first() {
        let mut tracker = existing();
        let mut state = quiet();
        (state.phase, state.active) = (WirePhase::Ready, Some(false));
        (state.status, state.user) = (Some(TxStatus::Idle), Some("other".to_owned()));
        tracker.apply(&Event::Wire { at: at(100), conn: CONN, local_port: None, state });
        said(&mut tracker, 101, Some(in_transaction()));
        assert_eq!(verdicts(&tracker, 150), []);
        assert_eq!(tracker.connection(CONN).unwrap().user(), Some("other"));
    }

    #[test]
    fn who_listens_by_the_servers_word_is_silent_on_purpose() {
        let mut tracker = existing();
        let listen = Statement::Sql { text: "LISTEN orders".to_owned(), cut: false };
        let listens = |statement| SessionSaid { statement, ..in_transaction() };
        said(&mut tracker, 101, Some(listens(Some(listen))));
        assert_eq!(verdicts(&tracker, 150), []);
        let unlisten = Statement::Sql { text: "UNLISTEN *".to_owned(), cut: false };
        said(&mut tracker, 102, Some(listens(Some(unlisten))));
        assert_eq!(verdicts(&tracker, 150), [Verdict::IdleInTransaction]);
    }

    #[test]
    fn a_statement_that_the_server_works_on_is_a_long_query() {
        let mut tracker = existing();
        let wait = Some("Lock: relation".to_owned());
        let state = Some(SessionState::Active);
        said(&mut tracker, 101, Some(SessionSaid { state, wait, ..in_transaction() }));
        let findings = tracker.findings(at(102));
        assert_eq!(findings[0].verdict, Verdict::LongQuery);
        assert!(findings[0].evidence[1].contains("waits for a lock"), "{:?}", findings[0].evidence);
    }

    fn quiet() -> WireState {
        WireState {
            phase: WirePhase::Unknown,
            last_send: None,
            last_recv: None,
            bytes_sent: 0,
            bytes_received: 0,
            statements: 0,
            active: None,
            status: None,
            uses: 0,
            begun: None,
            last_statement: None,
            listening: false,
            advisory_lock: false,
            copy: false,
            replication: false,
            user: None,
            database: None,
            application_name: None,
            backend_pid: None,
            peer_closed: false,
            checkout: None,
        }
    }
}
