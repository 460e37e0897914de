//! Which watched connection a server's session is the other end of.
//!
//! May import its neighbours and the model. Pure. A wrong join would have one connection judged by
//! another's state, so every fact that both sides know must agree, and where two sessions or two
//! connections fit, none does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Answer, Endpoint, Linked, Place, Session};
use crate::model::{ConnId, Connection, MonoNanos, Peer, SessionSaid};

/// The client's own end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub addr: IpAddr,
    /// In the network namespace of this process.
    pub same_network: bool,
}

/// What the answers say of each connection.
#[must_use]
pub fn join<'a>(
    answers: &[&Answer],
    connections: impl Iterator<Item = &'a Connection>,
    local: &BTreeMap<ConnId, Local>,
) -> BTreeMap<ConnId, (MonoNanos, SessionSaid)> {
    let index: Vec<Index> = answers.iter().map(|answer| Index::of(answer)).collect();
    // By answer and session: one that two connections claim is neither's.
    let mut claims: BTreeMap<(usize, usize), Vec<ConnId>> = BTreeMap::new();
    for conn in connections {
        let fits = |(number, index): (usize, &Index)| {
            Some((number, index.find(answers.get(number)?, conn, local.get(&conn.id))?))
        };
        let mut found = index.iter().enumerate().filter_map(fits);
        if let (Some(claim), None) = (found.next(), found.next()) {
            claims.entry(claim).or_default().push(conn.id);
        }
    }
    let mut said = BTreeMap::new();
    for ((number, session), conns) in claims {
        let ([conn], Some(answer)) = (conns.as_slice(), answers.get(number)) else { continue };
        let Some(session) = answer.sessions.get(session) else { continue };
        said.insert(*conn, words(answer, session, answers));
    }
    said
}

/// An answer's sessions by what connections are found with.
struct Index {
    by_client: BTreeMap<Endpoint, Vec<usize>>,
    by_pid: BTreeMap<u32, usize>,
}

impl Index {
    fn of(answer: &Answer) -> Self {
        let mut index = Self { by_client: BTreeMap::new(), by_pid: BTreeMap::new() };
        for (number, session) in answer.sessions.iter().enumerate() {
            match (session.client, session.pid) {
                (Some(client), _) => index.by_client.entry(client).or_default().push(number),
                (None, Some(pid)) => {
                    index.by_pid.insert(pid, number);
                }
                (None, None) => {}
            }
        }
        index
    }

    /// The one session that fits.
    fn find(&self, answer: &Answer, conn: &Connection, local: Option<&Local>) -> Option<usize> {
        let seen_pid = conn.wire.as_ref().and_then(|wire| wire.backend_pid);
        let number = match &conn.opened.peer {
            Peer::Tcp { addr, port } => {
                let (addr, local) = (addr.parse::<IpAddr>().ok()?.to_canonical(), local?);
                let sessions = self.by_client.get(&(local.addr, conn.local_port?))?;
                let [number] = sessions.as_slice() else { return None };
                let session = answer.sessions.get(*number)?;
                // Only a server knows what it called its backend.
                let named = session.pid.is_some() && session.pid == seen_pid;
                (named || is_at(&answer.place, addr, *port, local)).then_some(*number)?
            }
            Peer::Unix { port, .. } => {
                let here = answer.place.local && answer.place.ports.contains(port);
                here.then(|| self.by_pid.get(&seen_pid?).copied()).flatten()?
            }
        };
        agrees(answer.sessions.get(number)?, conn, seen_pid).then_some(number)
    }
}

/// The connection goes to where the server is.
fn is_at(place: &Place, addr: IpAddr, port: u16, local: &Local) -> bool {
    // Each network namespace has a loopback device of its own.
    let to_own_host = addr.is_loopback() || addr == local.addr;
    place.ports.contains(&port)
        && if addr.is_loopback() || (to_own_host && place.local) {
            place.local && local.same_network
        } else {
            place.addrs.contains(&addr)
        }
}

/// What both sides know is the same.
fn agrees(session: &Session, conn: &Connection, seen_pid: Option<u32>) -> bool {
    fn same<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
        one.zip(other).is_none_or(|(one, other)| one == other)
    }
    let wire = conn.wire.as_ref();
    let seen = |of: fn(&crate::model::WireState) -> Option<&str>| wire.and_then(of);
    let user = seen(|wire| wire.user.as_deref());
    let database = seen(|wire| wire.database.as_deref().or(wire.user.as_deref()));
    same(session.pid, seen_pid)
        && same(session.user.as_deref(), user)
        // A walsender has none of its own.
        && same(session.database.as_deref(), database)
}

fn words(answer: &Answer, session: &Session, answers: &[&Answer]) -> (MonoNanos, SessionSaid) {
    let behind = session.linked.and_then(|linked| behind(linked, answers));
    // What a pooler passes on, the server behind it knows; who the client is, the pooler.
    let (at, inner) = behind.unwrap_or((answer.at, session));
    let ago = |nanos: Option<u64>| nanos.map(|nanos| MonoNanos(at.0.saturating_sub(nanos)));
    let said = SessionSaid {
        server: answer.used.server.clone(),
        backend_pid: session.linked.map(|linked| linked.pid).or(session.pid),
        user: session.user.clone(),
        database: session.database.clone(),
        application_name: session.application_name.clone(),
        state: inner.state,
        state_since: ago(inner.state_for),
        xact_since: ago(inner.xact_for),
        wait: inner.wait.clone(),
        statement: inner.statement.clone(),
        replication: inner.replication,
        advisory_lock: inner.advisory_lock,
    };
    // While nothing moves, neither link nor state changes: both hold from the earlier one on.
    (at.min(answer.at), said)
}

/// The server's session behind a pooler's client.
fn behind<'a>(linked: Linked, answers: &[&'a Answer]) -> Option<(MonoNanos, &'a Session)> {
    let sessions = answers.iter().flat_map(|answer| {
        let at = answer.at;
        answer.sessions.iter().map(move |session| (at, session))
    });
    let mut fit = sessions
        .filter(|(_, session)| session.pid == Some(linked.pid) && session.client == linked.client);
    let found = fit.next()?;
    fit.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Event, Fd, Pid, ServerUse, SessionState, Settings, Tracker, WirePhase, WireState,
    };

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));
    const AT: MonoNanos = MonoNanos(5_000);

    /// A connection from port 4000 + its number to the server.
    fn connection(tracker: &mut Tracker, number: u64, peer: IpAddr, pid: Option<u32>) -> ConnId {
        let (conn, at) = (ConnId(number), MonoNanos(1));
        tracker.apply(&Event::Open {
            at,
            conn,
            pid: Pid(7),
            fd: Fd(i32::try_from(number).unwrap()),
            tid: None,
            peer: Peer::Tcp { addr: peer.to_string(), port: 5432 },
            existing: None,
        });
        let state = WireState {
            phase: WirePhase::Encrypted,
            last_send: None,
            last_recv: None,
            bytes_sent: 1,
            bytes_received: 1,
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
            user: pid.map(|_| "me".to_owned()),
            database: None,
            application_name: None,
            backend_pid: pid,
            peer_closed: false,
            checkout: None,
        };
        let local_port = u16::try_from(4000 + number).ok();
        tracker.apply(&Event::Wire { at, conn, local_port, state });
        conn
    }

    fn session(number: u16, pid: u32) -> Session {
        Session {
            client: Some((CLIENT, 4000 + number)),
            pid: Some(pid),
            user: Some("me".to_owned()),
            database: Some("me".to_owned()),
            state: Some(SessionState::InTransaction),
            ..Session::default()
        }
    }

    fn answer(sessions: Vec<Session>) -> Answer {
        let used = ServerUse {
            server: "db:5432".to_owned(),
            version: String::new(),
            sessions: 0,
            max_sessions: None,
            reserved: None,
        };
        let place = Place { addrs: vec![SERVER], ports: vec![5432], local: false };
        Answer { at: AT, place, sessions, used, note: None }
    }

    /// The pids that connections are joined with.
    fn joined(tracker: &Tracker, answers: &[Answer], same_network: bool) -> Vec<(u64, u32)> {
        let local = |conn: &Connection| (conn.id, Local { addr: CLIENT, same_network });
        let local = tracker.live().map(local).collect();
        let answers: Vec<&Answer> = answers.iter().collect();
        let said = join(&answers, tracker.live(), &local);
        said.into_iter().filter_map(|(conn, (_, said))| Some((conn.0, said.backend_pid?))).collect()
    }

    fn tracker() -> Tracker {
        Tracker::new(Settings::new(1_000))
    }

    #[test]
    fn address_and_port_join_where_the_server_is_the_peer() {
        let mut tracker = tracker();
        connection(&mut tracker, 1, SERVER, None);
        connection(&mut tracker, 2, "10.0.0.6".parse().unwrap(), None);
        let answer = answer(vec![session(1, 11), session(2, 12), session(3, 13)]);
        assert_eq!(joined(&tracker, &[answer], true), [(1, 11)]);
    }

    #[test]
    fn the_backends_pid_joins_through_another_address_and_separates() {
        let mut tracker = tracker();
        // Behind a balancer, and one that another server's session resembles.
        connection(&mut tracker, 1, "10.0.0.6".parse().unwrap(), Some(11));
        connection(&mut tracker, 2, SERVER, Some(99));
        let answer = answer(vec![session(1, 11), session(2, 12)]);
        assert_eq!(joined(&tracker, &[answer], true), [(1, 11)]);
    }

    #[test]
    fn what_both_sides_know_must_agree() {
        let mut tracker = tracker();
        connection(&mut tracker, 1, SERVER, Some(11));
        let other = Session { user: Some("you".to_owned()), ..session(1, 11) };
        assert_eq!(joined(&tracker, &[answer(vec![other])], true), []);
    }

    #[test]
    fn what_fits_twice_is_not_joined() {
        let mut tracker = tracker();
        connection(&mut tracker, 1, SERVER, None);
        let twice = answer(vec![session(1, 11), session(1, 12)]);
        assert_eq!(joined(&tracker, &[twice], true), []);
        let both = [answer(vec![session(1, 11)]), answer(vec![session(1, 12)])];
        assert_eq!(joined(&tracker, &both, true), []);
    }

    #[test]
    fn the_loopback_device_of_another_network_is_another() {
        let mut tracker = tracker();
        connection(&mut tracker, 1, "127.0.0.1".parse().unwrap(), None);
        let mut here = answer(vec![session(1, 11)]);
        here.place.local = true;
        assert_eq!(joined(&tracker, &[here.clone()], true), [(1, 11)]);
        assert_eq!(joined(&tracker, &[here], false), []);
    }

    #[test]
    fn behind_a_pooler_the_servers_session_is_found() {
        let mut tracker = tracker();
        let conn = connection(&mut tracker, 1, SERVER, None);
        let inner = Session { client: Some((SERVER, 999)), ..session(9, 77) };
        let server = Answer { at: MonoNanos(4_000), ..answer(vec![inner]) };
        let linked = Some(Linked { client: Some((SERVER, 999)), pid: 77 });
        let client = Session { pid: None, state: None, linked, ..session(1, 0) };
        let pooler = answer(vec![client]);
        let local = BTreeMap::from([(conn, Local { addr: CLIENT, same_network: true })]);
        let said = join(&[&pooler, &server], tracker.live(), &local);
        let (at, said) = &said[&conn];
        // The earlier of the two answers.
        assert_eq!(*at, MonoNanos(4_000));
        assert_eq!((said.backend_pid, said.state), (Some(77), Some(SessionState::InTransaction)));
    }
}
