//! The server's side, asked for with `--server`: what PostgreSQL (`pg_stat_activity`) or PgBouncer
//! (`SHOW CLIENTS`) says of its sessions.
//!
//! `url` and `password` say whom to ask and as whom, `wire` talks, `postgres` and `pgbouncer` ask,
//! `join` finds the watched connection that a session is the other end of. May import the model's
//! types, `sql`, and the clock. Invariants: each server is asked by a thread of its own, so one that
//! is slow, silent or hostile delays nothing; nothing is written to a server; answers are bounded
//! before they are kept; a password is in no error and no output; literals leave SQL here.

pub mod join;
mod password;
mod pgbouncer;
mod postgres;
mod tls;
mod url;
mod wire;

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

pub use self::url::{Target, UrlError};
use self::wire::{Failure, Wire};
use crate::host::clock;
use crate::model::{MonoNanos, ServerUse, SessionState, Statement};

/// One question and its answer may take this long, a connection as long again.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server that could not be reached is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// A server that owes an answer for this long is not waited for at the end.
const HANGS: Duration = Duration::from_secs(2);

/// A TCP endpoint as one side of a connection sees it.
pub type Endpoint = (IpAddr, u16);

/// A session of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The client's end as the server sees it; `None` over a Unix socket.
    pub client: Option<Endpoint>,
    pub pid: Option<u32>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    pub state: Option<SessionState>,
    /// For how long, in nanoseconds before the answer.
    pub state_for: Option<u64>,
    pub xact_for: Option<u64>,
    pub wait: Option<String>,
    pub statement: Option<Statement>,
    pub replication: bool,
    pub advisory_lock: bool,
    /// Of a pooler's client: the server session that it has at present.
    pub linked: Option<Linked>,
}

/// A pooler's own connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The pooler's end; `None` over a Unix socket.
    pub client: Option<Endpoint>,
    pub pid: u32,
}

/// Where the server is, as far as a client's connection tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Addresses that its name resolved to, and the one that it says itself.
    pub addrs: Vec<IpAddr>,
    /// Ports that it was reached at, and that it says itself.
    pub ports: Vec<u16>,
    /// It is on this host: reached over a Unix socket or the loopback device.
    pub local: bool,
}

/// What a server said at one time.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Before it was asked.
    pub at: MonoNanos,
    pub place: Place,
    pub sessions: Vec<Session>,
    pub used: ServerUse,
    /// What it did not tell, in a sentence.
    pub note: Option<String>,
}

/// How thoroughly to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Usual,
    /// Advisory locks too, which costs a busy server more.
    Thorough,
}

/// A server that is asked.
pub struct Watched {
    name: String,
    questions: Sender<Question>,
    answers: Receiver<Result<Answer, Failure>>,
    /// Questions without an answer yet.
    open: u32,
    asked: Instant,
    hangs: bool,
    answered: bool,
    failure: Option<String>,
    note: Option<String>,
}

impl Watched {
    /// Starts to ask, with the first question at once.
    #[must_use]
    pub fn start(target: Target) -> Self {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let name = target.name();
        let started = thread::Builder::new().name("server".to_owned()).spawn(move || {
            let mut asker = Asker { target, connected: None, not_before: None, locks: Vec::new() };
            while let Ok(question) = asked.recv() {
                if answer.send(asker.ask(question)).is_err() {
                    break;
                }
            }
        });
        let failure = started.err().map(|error| format!("no thread to ask it: {error}"));
        let mut watched = Self {
            name,
            questions,
            answers,
            open: 0,
            asked: Instant::now(),
            hangs: false,
            answered: false,
            failure,
            note: None,
        };
        watched.ask(Question::Thorough);
        watched
    }

    fn ask(&mut self, question: Question) {
        if self.questions.send(question).is_ok() {
            self.open += 1;
            self.asked = Instant::now();
        }
    }

    /// Asks again, unless it still owes an answer.
    pub fn ask_again(&mut self) {
        if self.open == 0 {
            self.ask(Question::Usual);
        }
    }

    /// The next answer that is there.
    pub fn answer(&mut self) -> Option<Answer> {
        loop {
            match self.answers.try_recv() {
                Ok(answer) => {
                    if let Some(answer) = self.take(answer) {
                        return Some(answer);
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            }
        }
    }

    /// Asks a last time.
    pub fn ask_last(&mut self) {
        // One that has been silent for long is not waited for.
        self.hangs = self.open > 0 && self.asked.elapsed() > HANGS;
        self.ask(Question::Thorough);
    }

    /// Waits for the last answer, no longer than until `end`.
    pub fn last_answer(&mut self, end: Instant) -> Option<Answer> {
        let end = if self.hangs { Instant::now() } else { end };
        let mut last = None;
        while self.open > 0 {
            match self.answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(answer) => last = self.take(answer).or(last),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.failure = Some("it did not answer in time".to_owned());
                    break;
                }
            }
        }
        last
    }

    fn take(&mut self, answer: Result<Answer, Failure>) -> Option<Answer> {
        self.open = self.open.saturating_sub(1);
        match answer {
            Ok(answer) => {
                self.answered = true;
                self.failure = None;
                self.note.clone_from(&answer.note);
                Some(answer)
            }
            Err(failure) => {
                self.failure = Some(failure.words);
                None
            }
        }
    }

    /// What the report must say of it: that it did not answer, or not all.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let name = &self.name;
        match (&self.failure, self.answered) {
            (Some(why), false) => {
                Some(format!("server {name}: {why}; the report is without its word"))
            }
            (Some(why), true) => Some(format!("server {name}: {why}; its word is not the latest")),
            (None, true) => self.note.as_ref().map(|note| format!("server {name}: {note}")),
            (None, false) => Some(format!("server {name} was not asked")),
        }
    }
}

/// The thread's side.
struct Asker {
    target: Target,
    connected: Option<Connected>,
    /// Not to be tried again before; `Err`: not at all, for this reason.
    not_before: Option<(Option<Instant>, Failure)>,
    /// Sessions with an advisory lock, from the last thorough question.
    locks: Vec<u32>,
}

struct Connected {
    wire: Wire,
    place: Place,
    pooler: bool,
    /// PgBouncer: clients that it takes at most.
    max_clients: Option<u64>,
}

impl Asker {
    fn ask(&mut self, question: Question) -> Result<Answer, Failure> {
        let answer = self.try_to_ask(question);
        if let Err(failure) = &answer {
            self.connected = None;
            let again = (!failure.refused).then(|| Instant::now() + TRY_AGAIN);
            self.not_before.get_or_insert_with(|| (again, failure.clone()));
        }
        answer
    }

    fn try_to_ask(&mut self, question: Question) -> Result<Answer, Failure> {
        let connected = match self.connected.take() {
            Some(connected) => connected,
            None => self.connect()?,
        };
        let connected = self.connected.insert(connected);
        connected.wire.until(Instant::now() + PATIENCE);
        let name = self.target.name();
        if connected.pooler {
            pgbouncer::ask(connected, name)
        } else {
            let thorough = question == Question::Thorough;
            postgres::ask(connected, name, thorough.then_some(&mut self.locks), &self.target.user)
                .map(|mut answer| {
                    for session in &mut answer.sessions {
                        session.advisory_lock = session.state == Some(SessionState::Idle)
                            && session.pid.is_some_and(|pid| self.locks.contains(&pid));
                    }
                    answer
                })
        }
    }

    fn connect(&mut self) -> Result<Connected, Failure> {
        match &self.not_before {
            Some((None, failure)) => return Err(failure.clone()),
            Some((Some(until), failure)) if Instant::now() < *until => return Err(failure.clone()),
            _ => self.not_before = None,
        }
        let (wire, place) = Wire::connect(&self.target, Instant::now() + PATIENCE)?;
        let pooler = wire.version().ends_with("/bouncer");
        Ok(Connected { wire, place, pooler, max_clients: None })
    }
}

/// The clock of all events.
fn now() -> MonoNanos {
    clock::now()
}
