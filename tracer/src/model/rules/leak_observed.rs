//! `leak`, observed: a pool's probes saw the acquire and no release, and the wire is silent.
//!
//! May import the model only. Both ends of a checkout are probed, so nothing is inferred. While the
//! server owes an answer, the silence is its own; unless the answer is there and nobody reads it.

use super::{Case, Grounds, Rule, Scene, leak_unread};
use crate::model::{
    connection::Connection,
    event::MonoNanos,
    finding::{Certainty, Span, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct LeakObserved;

impl Rule for LeakObserved {
    fn verdict(&self) -> Verdict {
        Verdict::Leak
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let checkout = conn.pool_checkout().filter(|checkout| checkout.held)?;
        // Just taken and not spoken on yet: the wire's silence is older than the checkout.
        let taken = scene.now.since(checkout.acquired_at?);
        let quiet = scene.is_silent(conn) && taken >= scene.settings.threshold;
        if !quiet {
            return None;
        }
        match conn.active() {
            Some(true) => scene.left_unread(conn).map(|unread| Grounds::Checkout(Some(unread))),
            _ => Some(Grounds::Checkout(None)),
        }
    }

    fn held_since(&self, conn: &Connection) -> Option<MonoNanos> {
        conn.pool_checkout()?.acquired_at
    }

    fn certainty(&self, _settings: Settings, _group: &[Case]) -> Certainty {
        Certainty::Proven
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let mut evidence = Vec::new();
        let held = Span::of(
            group.iter().filter_map(|case| Some(case.at.since(self.held_since(&case.conn)?))),
        );
        if let Some(held) = held {
            evidence.push(format!(
                "The pool gave {} out and never saw {} again; the shortest has been out for {}.",
                count(group.len(), "connection", "connections"),
                if group.len() == 1 { "it" } else { "them" },
                duration(held.min),
            ));
        }
        let unread = leak_unread::left_unread(group);
        let others = group.len() - unread.len();
        evidence.push(format!(
            "No byte moved in either direction for more than the threshold of {}{}.",
            duration(settings.threshold),
            match others {
                0 => String::new(),
                _ if unread.is_empty() => ", and the server is not working on anything".to_owned(),
                n => format!(", and the server is not working on anything for {n} of them"),
            },
        ));
        evidence.extend(leak_unread::words(&unread));
        let open = group.iter().filter(|case| case.conn.in_transaction().is_some()).count();
        if open > 0 {
            evidence.push(format!(
                "The server says that {} idle in transaction: locks and old row versions are kept \
                 as well.",
                if open == 1 { "1 is".to_owned() } else { format!("{open} are") },
            ));
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "Give the connection back on every path out of this function, early returns and errors \
         included (defer, finally, using, with, or close the rows)."
    }
}
