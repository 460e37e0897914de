//! One connection as the model knows it, and the facts that every rule asks of it.
//!
//! May import `model::event`, `model::process` and what is kept of a look at a thread. Pure: facts
//! only, no threshold and no verdict.

use std::sync::Arc;

use super::{
    event::{
        ConnId, Existing, Fd, Frame, FrameKind, MonoNanos, Peer, Pid, SessionState, Stack,
        StackEvent, Statement, TxStatus, WirePhase, WireState,
    },
    holder::Look,
    process::{Identity, PathKey, ProcId},
    said::Said,
};

/// Callers that tell uses by one line apart.
const MAX_CALLERS: usize = 16;

/// Distinct paths remembered for one connection; later ones replace the oldest.
const MAX_PATHS: usize = 8;

/// How a connection came to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Time of `connect`, or of the start for a connection that existed before.
    pub at: MonoNanos,
    pub pid: Pid,
    pub fd: Fd,
    pub tid: Option<u32>,
    pub peer: Peer,
    pub existing: Option<Existing>,
}

/// A stack and the use (or acquire) that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackOf {
    pub uses: u64,
    pub stack: Arc<Stack>,
}

/// A return to the pool while the server said that a transaction is open, which nothing was seen to
/// end since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOpen {
    /// The first such return.
    pub since: MonoNanos,
    /// The last one.
    last: MonoNanos,
    /// Returns like this seen so far.
    pub times: u64,
    /// The pool gave it out again before anything was sent: somebody is inside a transaction that
    /// is not his own.
    pub inherited: bool,
    /// Bytes sent until the last return.
    sent: u64,
}

/// Bytes of the server's that wait for the process to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    pub bytes: u64,
    /// The first look that saw bytes wait; nothing was received since.
    pub since: MonoNanos,
    /// The last look.
    pub seen: MonoNanos,
}

impl Unread {
    /// How long bytes were seen to wait, in nanoseconds: from the first look to the last.
    #[must_use]
    pub const fn waited(&self) -> u64 {
        self.seen.since(self.since)
    }
}

/// A connection that is open in at least one process.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: ConnId,
    /// The process that answers for it: the opener while it holds a descriptor, then another
    /// holder.
    pub owner: ProcId,
    pub opener: ProcId,
    pub opened: Opened,
    pub local_port: Option<u16>,
    /// `None` until its state was read once.
    pub wire: Option<WireState>,
    acquire: Option<StackOf>,
    open: Option<StackOf>,
    last_use: Option<StackOf>,
    begin: Option<StackOf>,
    unread: Option<Unread>,
    look: Option<Look>,
    pub(super) said: Option<Said>,
    left_open: Option<LeftOpen>,
    /// Acquire and last use of whoever gave it back like that, kept when it went out again.
    left_by: [Option<StackOf>; 2],
    /// Number of (process, descriptor) pairs that refer to it.
    pub(super) holders: u32,
    /// First time it was seen used.
    pub(super) used_at: Option<MonoNanos>,
    /// Blame frames of its uses as sampled, and of its open.
    pub(super) paths: Vec<PathKey>,
    /// The last sampled use was already counted as followed.
    pub(super) followed: bool,
    /// It looked lost once and was used again.
    pub(super) refuted: bool,
    /// It was silent past the threshold once, and was used again.
    pub(super) woke: bool,
}

impl Connection {
    pub(super) fn new(id: ConnId, owner: ProcId, opened: Opened) -> Self {
        Self {
            id,
            owner,
            opener: owner,
            opened,
            local_port: None,
            wire: None,
            acquire: None,
            open: None,
            last_use: None,
            begin: None,
            unread: None,
            look: None,
            said: None,
            left_open: None,
            left_by: [None, None],
            holders: 0,
            used_at: None,
            paths: Vec::new(),
            followed: false,
            refuted: false,
            woke: false,
        }
    }

    /// Time of the last data sent; for one that existed before the start, as the kernel knew it.
    #[must_use]
    pub fn last_send(&self) -> Option<MonoNanos> {
        let before = self.opened.existing.and_then(|existing| existing.last_send_ago);
        self.wire.as_ref().and_then(|wire| wire.last_send).or_else(|| self.ago(before))
    }

    /// Time of the last data received, likewise.
    #[must_use]
    pub fn last_recv(&self) -> Option<MonoNanos> {
        let before = self.opened.existing.and_then(|existing| existing.last_recv_ago);
        self.wire.as_ref().and_then(|wire| wire.last_recv).or_else(|| self.ago(before))
    }

    fn ago(&self, nanos: Option<u64>) -> Option<MonoNanos> {
        Some(MonoNanos(self.opened.at.0.saturating_sub(nanos?)))
    }

    /// Time of the last byte in either direction; where none is known, of the open or the start,
    /// so silence is never overstated.
    #[must_use]
    pub fn last_byte(&self) -> MonoNanos {
        self.last_send().max(self.last_recv()).unwrap_or(self.opened.at)
    }

    /// Time since the last byte in nanoseconds.
    #[must_use]
    pub fn silence(&self, now: MonoNanos) -> u64 {
        now.since(self.last_byte())
    }

    /// Whether the server owes an answer; where the wire cannot be read by the server's word or
    /// else by direction, `None` where not even that is known.
    #[must_use]
    pub fn active(&self) -> Option<bool> {
        if let Some(active) = self.wire.as_ref().and_then(|wire| wire.active) {
            return Some(active);
        }
        if let Some(state) = self.said_now().and_then(|said| said.state) {
            return Some(state == SessionState::Active);
        }
        match (self.last_send(), self.last_recv()) {
            (None, None) => None,
            (send, recv) => Some(send > recv),
        }
    }

    /// The server owes an answer in a session that was seen to speak, or by its own word.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        let spoken =
            matches!(self.phase(), WirePhase::Ready | WirePhase::Encrypted | WirePhase::Mysql)
                || (self.phase() == WirePhase::Unknown && self.state_is_said());
        spoken && self.active() == Some(true) && !self.peer_closed()
    }

    /// What has come of that answer and waits for the process to read it.
    #[must_use]
    pub fn unread(&self) -> Option<Unread> {
        self.unread.filter(|_| self.awaits_answer())
    }

    /// So many bytes were unread at a look.
    pub(super) fn keep_unread(&mut self, at: MonoNanos, bytes: u64) {
        // What was received after the look may have been these bytes.
        let read = self.last_recv().is_some_and(|read| read >= at);
        self.unread = (bytes > 0 && !read).then(|| match self.unread {
            Some(known) => Unread { bytes, since: known.since, seen: known.seen.max(at) },
            None => Unread { bytes, since: at, seen: at },
        });
    }

    /// Forgets what was unread before the last receive.
    pub(super) fn forget_read(&mut self) {
        let read = self.last_recv();
        let (Some(unread), Some(read)) = (&mut self.unread, read) else { return };
        if read >= unread.seen {
            self.unread = None;
        } else if read >= unread.since {
            unread.since = unread.seen;
        }
    }

    /// The protocol phase; [`WirePhase::Connecting`] until something was read.
    #[must_use]
    pub fn phase(&self) -> WirePhase {
        match &self.wire {
            Some(wire) => wire.phase,
            None if self.opened.existing.is_some() => WirePhase::Unknown,
            None => WirePhase::Connecting,
        }
    }

    /// A session, as far as can be told: not a cancel request, not another protocol,
    /// and connected.
    #[must_use]
    pub fn is_session(&self) -> bool {
        match self.phase() {
            WirePhase::Ready => true,
            // Answered at least once: a refused TLS handshake never gets here.
            WirePhase::Encrypted => self.wire.as_ref().is_some_and(|wire| wire.bytes_received > 0),
            WirePhase::Mysql => self.wire.as_ref().is_some_and(|wire| wire.bytes_sent > 0),
            WirePhase::Unknown => true,
            WirePhase::Connecting | WirePhase::Cancel | WirePhase::Foreign => false,
        }
    }

    /// Whether it was used since it was opened; `None` when the wire cannot tell. What drivers and
    /// pools send by themselves is no use.
    #[must_use]
    pub fn used(&self) -> Option<bool> {
        let wire = self.wire.as_ref()?;
        match wire.phase {
            WirePhase::Ready if self.opened.existing.is_none() => {
                let spoken = wire.statements > 0 || wire.uses > 0;
                Some(self.used_at.is_some() || (spoken && !self.only_made_ready()))
            }
            WirePhase::Ready if wire.statements > 0 || wire.uses > 0 => Some(true),
            // Known from the server's greeting on, so from its opening.
            WirePhase::Mysql => Some(wire.statements > 0),
            _ => None,
        }
    }

    /// Its last statement is one that makes a connection ready for a caller, or tests it: pgjdbc
    /// sends settings at each open, and `isValid` of it and other drivers' pings are empty
    /// statements. Nobody has to have asked for the connection.
    #[must_use]
    pub fn only_made_ready(&self) -> bool {
        let statement = self.wire.as_ref().and_then(|wire| wire.last_statement.as_ref());
        let Some(Statement::Sql { text, .. }) = statement else { return false };
        let text = text.trim_matches([';', ' ', '\n']);
        let word = text.split([' ', '\n']).next().unwrap_or_default();
        text.is_empty() || ["set", "show"].iter().any(|ready| word.eq_ignore_ascii_case(ready))
    }

    /// The transaction is open, by the server's word, and nothing runs in it.
    #[must_use]
    pub fn in_transaction(&self) -> Option<TxStatus> {
        let Some(status) = self.wire.as_ref().and_then(|wire| wire.status) else {
            return self.transaction_said();
        };
        let idle = self.active() == Some(false);
        (idle && matches!(status, TxStatus::InTransaction | TxStatus::Failed)).then_some(status)
    }

    /// It went back to its pool inside a transaction that is still open.
    #[must_use]
    pub const fn left_open(&self) -> Option<LeftOpen> {
        self.left_open
    }

    /// Takes in what a new state says about returns inside a transaction.
    pub(super) fn note_return(&mut self, before: Option<&WireState>) {
        let known = self.left_open;
        if known.is_none_or(|known| !known.inherited) {
            let uses = before.map(|wire| wire.uses);
            let count = before.and_then(|wire| Some(wire.checkout.as_ref()?.count));
            let of = |kept: &Option<StackOf>, number: Option<u64>| {
                kept.clone().filter(|kept| Some(kept.uses) == number)
            };
            self.left_by = [of(&self.acquire, count), of(&self.last_use, uses)];
        }
        let open = |status| matches!(status, TxStatus::InTransaction | TxStatus::Failed);
        let Some(wire) = self.wire.as_ref().filter(|wire| wire.status.is_some_and(open)) else {
            self.left_open = None;
            return;
        };
        let (sent, spoke) = (wire.bytes_sent, self.last_byte());
        let Some(checkout) = self.pool_checkout() else {
            // None, or none that is believed any more.
            self.left_open = None;
            return;
        };
        self.left_open = match (checkout.held, checkout.released_at) {
            // Bytes after the return are the pool's own: it may be about to end the transaction.
            (false, Some(back)) if self.active() == Some(false) && spoke <= back => match known {
                Some(known) if known.last == back => Some(known),
                known => Some(LeftOpen {
                    since: known.map_or(back, |known| known.since),
                    last: back,
                    times: known.map_or(0, |known| known.times) + 1,
                    inherited: known.is_some_and(|known| known.inherited),
                    sent,
                }),
            },
            (true, _) => known
                // What was sent between two looks may have ended it and begun another.
                .filter(|known| known.inherited || known.sent == sent)
                .map(|known| LeftOpen { inherited: true, ..known }),
            _ => None,
        };
    }

    /// The checkout, when a real pool's probes see it.
    #[must_use]
    pub fn pool_checkout(&self) -> Option<&super::event::Checkout> {
        self.wire.as_ref()?.checkout.as_ref().filter(|checkout| checkout.is_pool)
    }

    /// The peer closed it.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.peer_closed)
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        Some(Identity {
            user: self.user()?.to_owned(),
            // MySQL's sessions need none.
            database: self.database().unwrap_or_default().to_owned(),
            application_name: self.application_name().map(ToOwned::to_owned),
        })
    }

    /// Number of the use or acquire that a stack of this kind must belong to.
    pub(super) fn current(&self, of: StackEvent) -> u64 {
        let wire = self.wire.as_ref();
        match of {
            StackEvent::Open => 0,
            StackEvent::Begin => wire.and_then(|wire| wire.begun).map_or(0, |begun| begun.number),
            StackEvent::LastUse => wire.map_or(0, |wire| wire.uses),
            StackEvent::Acquire => {
                wire.and_then(|wire| wire.checkout.as_ref()).map_or(0, |checkout| checkout.count)
            }
        }
    }

    /// The stack of this kind, if it belongs to the present use: a wrong stack is worse than none.
    #[must_use]
    pub fn stack(&self, of: StackEvent) -> Option<&Stack> {
        let kept = match of {
            StackEvent::Acquire => self.acquire.as_ref(),
            StackEvent::Open => self.open.as_ref(),
            StackEvent::Begin => self.begin.as_ref().filter(|_| self.is_begun_before()),
            StackEvent::LastUse => self.last_use.as_ref(),
        }?;
        (kept.uses == self.current(of)).then_some(&*kept.stack)
    }

    /// The stack of this kind that is not there and would say something, by its use number.
    pub(super) fn missing(&self, of: StackEvent) -> Option<u64> {
        let current = self.current(of);
        let exists = match of {
            StackEvent::Open => self.opened.existing.is_none(),
            StackEvent::Begin => self.is_begun_before(),
            StackEvent::LastUse | StackEvent::Acquire => current > 0,
        };
        (exists && self.stack(of).is_none()).then_some(current)
    }

    pub(super) fn keep_stack(&mut self, of: StackEvent, kept: StackOf) {
        match of {
            StackEvent::Acquire => self.acquire = Some(kept),
            StackEvent::Open => self.open = Some(kept),
            StackEvent::Begin => self.begin = Some(kept),
            StackEvent::LastUse => self.last_use = Some(kept),
        }
    }

    /// Another use than the last one began the transaction that is open.
    fn is_begun_before(&self) -> bool {
        let Some(wire) = &self.wire else { return false };
        wire.begun.is_some_and(|begun| begun.number != wire.uses)
    }

    /// Keeps what is known of the use that began the transaction when another one follows.
    pub(super) fn keep_begin(&mut self) {
        let begun = self.current(StackEvent::Begin);
        if let Some(kept) = self.last_use.as_ref().filter(|kept| kept.uses == begun && begun > 0) {
            self.begin = Some(kept.clone());
        }
    }

    /// The last sampled use, current or not.
    pub(super) fn sampled_use(&self) -> Option<&StackOf> {
        self.last_use.as_ref()
    }

    pub(super) fn keep_path(&mut self, path: PathKey) {
        if !self.paths.contains(&path) {
            if self.paths.len() >= MAX_PATHS {
                self.paths.remove(0);
            }
            self.paths.push(path);
        }
    }

    /// The order in which stacks are asked for the frame to blame.
    fn blame_order(&self) -> [StackEvent; 3] {
        if self.pool_checkout().is_some() {
            [StackEvent::Acquire, StackEvent::LastUse, StackEvent::Open]
        } else {
            [StackEvent::LastUse, StackEvent::Acquire, StackEvent::Open]
        }
    }

    /// The stacks there are, the one to read first at the front.
    #[must_use]
    pub fn stacks(&self) -> Vec<(StackEvent, &Stack)> {
        self.blame_order().into_iter().filter_map(|of| Some((of, self.stack(of)?))).collect()
    }

    /// The same for whoever used it last. Where that is nobody's code, because the driver sends from
    /// a task of its own, the code that opened it may have given it back since, unless all that ran
    /// was one statement.
    pub(super) fn stacks_of_use(&self) -> Vec<(StackEvent, &Stack)> {
        let mut stacks = self.stacks();
        let own_task =
            self.stack(StackEvent::LastUse).is_some_and(|used| app_frame(used).is_none());
        if own_task && self.wire.as_ref().is_some_and(|wire| wire.statements > 1) {
            stacks.retain(|(of, _)| *of != StackEvent::Open);
        }
        stacks
    }

    /// The same for whoever is answerable for the transaction that is open: who began it comes
    /// before who used it last, because a connection that was given back inside a transaction is
    /// used by others. But a caller of both is no news.
    pub(super) fn stacks_of_transaction(&self) -> Vec<(StackEvent, &Stack)> {
        let mut stacks = self.stacks();
        let Some(begin) = self.stack(StackEvent::Begin) else { return stacks };
        let last = stacks.iter().position(|(of, _)| *of == StackEvent::LastUse);
        let is_caller = app_frame(begin)
            .is_some_and(|frame| last.is_some_and(|last| stacks[last].1.frames.contains(frame)));
        let place = last.map_or(0, |last| last + usize::from(is_caller));
        stacks.insert(place, (StackEvent::Begin, begin));
        stacks
    }

    pub(super) fn keep_look(&mut self, look: Option<Look>) {
        self.look = look;
    }

    /// What the thread was seen to do that the present stack of this kind was taken on, if nothing
    /// has happened on the connection since.
    pub(super) fn look(&self, of: StackEvent) -> Option<&Look> {
        let look = self.look.as_ref()?;
        let holds = look.of == of && look.uses == self.current(of) && self.last_byte() <= look.at;
        holds.then_some(look)
    }

    /// All of them, with that of its opening at the front.
    pub(super) fn stacks_of_opening(&self) -> Vec<(StackEvent, &Stack)> {
        let mut stacks = self.stacks();
        stacks.sort_by_key(|(of, _)| *of != StackEvent::Open);
        stacks
    }

    /// The stacks of whoever gave it back inside a transaction.
    pub(super) fn stacks_of_return(&self) -> Vec<(StackEvent, &Stack)> {
        if self.left_open.is_none_or(|left| !left.inherited) {
            return self.stacks();
        }
        let of = [StackEvent::Acquire, StackEvent::LastUse];
        let kept = of.into_iter().zip(&self.left_by);
        kept.filter_map(|(of, kept)| Some((of, &*kept.as_ref()?.stack))).collect()
    }

    /// The path that opened it.
    pub(super) fn open_path(&self) -> Option<PathKey> {
        app_frame(self.stack(StackEvent::Open)?).and_then(PathKey::of)
    }

    /// The path of the present use.
    pub(super) fn use_path(&self) -> Option<PathKey> {
        app_frame(self.stack(StackEvent::LastUse)?).and_then(PathKey::of)
    }

    /// The same with who called it, innermost first.
    pub(super) fn use_callers(&self) -> Vec<PathKey> {
        self.stack(StackEvent::LastUse).map_or_else(Vec::new, |stack| own_paths(stack).collect())
    }
}

/// The application's innermost frame of the first stack that shows one.
pub(super) fn blamed<'a>(stacks: &[(StackEvent, &'a Stack)]) -> Option<(StackEvent, &'a Frame)> {
    stacks.iter().find_map(|(of, stack)| Some((*of, app_frame(stack)?)))
}

/// The innermost frame of the application's own that has a name.
pub(super) fn app_frame(stack: &Stack) -> Option<&Frame> {
    own_frames(stack).next()
}

/// Their paths, innermost first, as far as they tell two uses apart.
pub(super) fn own_paths(stack: &Stack) -> impl Iterator<Item = PathKey> {
    own_frames(stack).filter_map(PathKey::of).take(MAX_CALLERS)
}

/// All of them, innermost first.
pub(super) fn own_frames(stack: &Stack) -> impl Iterator<Item = &Frame> {
    let frames = stack.frames.iter();
    frames.filter(|frame| frame.kind == FrameKind::App && frame.symbol.is_some())
}
