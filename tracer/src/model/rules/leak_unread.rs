//! `leak`, by an answer that nobody reads: the server has sent, the bytes wait in the socket for
//! longer than the threshold, and no pool was seen to give the connection out.
//!
//! May import the model only. The wire alone cannot tell this from a long query, because the server
//! owes an answer in both; the kernel's count of unread bytes can. Where a pool's checkout is
//! observed, [`leak_observed`](super::leak_observed) takes the same evidence in.

use super::{Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::MonoNanos,
    finding::{Certainty, Verdict},
    settings::Settings,
    words::duration,
};

/// The rule.
pub(super) struct LeakUnread;

impl Rule for LeakUnread {
    fn verdict(&self) -> Verdict {
        Verdict::Leak
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        // A pool that was seen to give it out, or to take it back, says itself who has it.
        let unobserved = conn.pool_checkout().is_none();
        let unread = scene.left_unread(conn)?;
        (unobserved && scene.is_silent(conn)).then_some(Grounds::Unread(unread))
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn certainty(&self, _settings: Settings, _group: &[Case]) -> Certainty {
        Certainty::Suspected
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let mut evidence = vec![format!(
            "No byte moved in either direction for more than the threshold of {}.",
            duration(settings.threshold),
        )];
        evidence.extend(words(&left_unread(group)));
        evidence.push(
            "A client that is still working on the rows it has looks the same; then this is \
             healthy."
                .to_owned(),
        );
        evidence
    }

    fn hint(&self) -> &'static str {
        "Read the result to its end or close it on every path out of this function, early returns \
         and errors included (close the rows, the cursor or the statement)."
    }
}

/// An answer that waits: how many bytes, and for how long, in nanoseconds.
pub(super) struct Waiting {
    bytes: u64,
    /// From the first look to the verdict: a receive in between would have been seen.
    time: u64,
}

/// What a group has left unread.
pub(super) fn left_unread(group: &[Case]) -> Vec<Waiting> {
    let of = |case: &Case| match case.grounds {
        Grounds::Checkout(unread) => unread,
        Grounds::Unread(unread) => Some(unread),
        _ => None,
    };
    let waiting = |case: &Case| {
        of(case).map(|unread| Waiting { bytes: unread.bytes, time: case.at.since(unread.since) })
    };
    group.iter().filter_map(waiting).collect()
}

/// The same as a sentence; `None` of none.
pub(super) fn words(waiting: &[Waiting]) -> Option<String> {
    let shortest = waiting.iter().map(|waiting| waiting.time).min()?;
    let bytes = waiting.iter().fold(0_u64, |sum, waiting| sum.saturating_add(waiting.bytes));
    let on = match waiting.len() {
        1 => String::new(),
        n => format!("on {n} connections, "),
    };
    Some(format!(
        "{bytes} bytes of the server's answer wait unread, {on}for {} or longer: it is not the \
         server that works, it is the client that does not read.",
        duration(shortest),
    ))
}
