//! `returned in transaction`: the pool has the connection back, and the server still says that a
//! transaction is open.
//!
//! May import the model only. Both halves are observed: the return by the pool's probes, or by the
//! pool's own code that wrote to it last; the state by ReadyForQuery (`T` or `E`). A pool that rolls back on return or closes such connections ends
//! this at once, so a verdict waits for the threshold from the return on; not for silence, because
//! whoever gets the connection next goes on in the same transaction.

use super::{Case, Grounds, Rule, Scene, purpose};
use crate::model::{
    connection::{Connection, LeftOpen},
    event::{MonoNanos, Stack, StackEvent},
    finding::{Certainty, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct ReturnedInTransaction;

fn returns(group: &[Case]) -> impl Iterator<Item = (&Case, LeftOpen)> {
    group.iter().filter_map(|case| match case.grounds {
        Grounds::Returned(left) => Some((case, left)),
        _ => None,
    })
}

impl Rule for ReturnedInTransaction {
    fn verdict(&self) -> Verdict {
        Verdict::ReturnedInTransaction
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let Some(left) = conn.left_open() else {
            let back = conn.pool_checkout().is_none()
                && conn.in_transaction().is_some()
                && scene.is_silent(conn)
                && !conn.peer_closed()
                && purpose::is_written_by_return(scene.process, conn);
            return back.then_some(Grounds::WrittenByReturn);
        };
        let long = scene.now.since(left.since) >= scene.settings.threshold;
        // A closed peer has rolled back.
        ((long || scene.is_silent(conn)) && !conn.peer_closed()).then_some(Grounds::Returned(left))
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn lost_since(&self, conn: &Connection) -> MonoNanos {
        conn.left_open().map_or_else(|| conn.last_byte(), |left| left.since)
    }

    fn stacks<'c>(&self, conn: &'c Connection) -> Vec<(StackEvent, &'c Stack)> {
        if conn.left_open().is_some() {
            return conn.stacks_of_return();
        }
        // Who opened it did not give it back like this; who began the transaction did.
        let mut stacks = conn.stacks_of_transaction();
        stacks.retain(|(of, _)| *of != StackEvent::Open);
        stacks
    }

    fn certainty(&self, _settings: Settings, group: &[Case]) -> Certainty {
        // It may have been taken again, by somebody who sent nothing yet.
        let seen = returns(group).count() == group.len();
        if seen { Certainty::Proven } else { Certainty::Strong }
    }

    fn evidence(&self, _settings: Settings, group: &[Case]) -> Vec<String> {
        let since = |case: &Case| case.at.since(self.lost_since(&case.conn));
        let shortest = group.iter().map(since).min();
        let mut evidence = vec![format!(
            "The pool took {} back while the server still said that a transaction is open, and \
             for {} or longer nothing has ended it.",
            count(group.len(), "connection", "connections"),
            duration(shortest.unwrap_or(0)),
        )];
        let inherited = returns(group).filter(|(_, left)| left.inherited).count();
        evidence.push(if inherited > 0 {
            format!(
                "{inherited} of them went out again like this: what others do there belongs to \
                 the same transaction, and is lost if it is rolled back."
            )
        } else {
            "Whoever takes it next goes on inside this transaction; until then its locks and old \
             row versions stay."
                .to_owned()
        });
        let written = group.len() - returns(group).count();
        if written > 0 {
            evidence.push(format!(
                "{} last written to by the pool's own code that takes one back.",
                count(written, "connection was", "connections were"),
            ));
        }
        let again = returns(group).map(|(_, left)| left.times).max().unwrap_or(0);
        if again > 1 {
            evidence.push(format!("One went back {again} times without its end."));
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "End the transaction before the connection goes back, on every path; with the pool's own \
         transactions (BeginTx, Rollback in a defer) rather than BEGIN as a statement."
    }
}
