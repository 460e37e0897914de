//! `idle in transaction`: the server's last word was an open transaction, and then silence.
//!
//! May import the model only. The state is the server's own (ReadyForQuery `T` or `E`, or its answer
//! when it was asked), so no pool has to be known.

use super::{Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::{MonoNanos, Stack, StackEvent, TxStatus},
    finding::{Certainty, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct IdleInTransaction;

impl Rule for IdleInTransaction {
    fn verdict(&self) -> Verdict {
        Verdict::IdleInTransaction
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let status = conn.in_transaction()?;
        // A closed peer has rolled back.
        (scene.is_silent(conn) && !conn.peer_closed()).then_some(Grounds::Transaction(status))
    }

    fn held_since(&self, conn: &Connection) -> Option<MonoNanos> {
        conn.transaction_since()
    }

    fn lost_since(&self, conn: &Connection) -> MonoNanos {
        conn.last_byte()
    }

    fn stacks<'c>(&self, conn: &'c Connection) -> Vec<(StackEvent, &'c Stack)> {
        conn.stacks_of_transaction()
    }

    fn certainty(&self, _settings: Settings, _group: &[Case]) -> Certainty {
        Certainty::Proven
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let mut evidence = vec![format!(
            "The server's last word on {} was that a transaction is open, and nothing was sent \
             since for more than the threshold of {}.",
            count(group.len(), "connection", "connections"),
            duration(settings.threshold),
        )];
        let said = group.iter().filter(|case| case.conn.state_is_said()).count();
        if said > 0 {
            evidence.push(format!(
                "Of {said} of them the server itself was asked, because the wire did not tell."
            ));
        }
        let open = group
            .iter()
            .filter_map(|case| Some(case.at.since(case.conn.transaction_since()?)))
            .max();
        if let Some(open) = open {
            evidence.push(format!(
                "{} been open for {}.",
                if group.len() == 1 {
                    "The transaction has"
                } else {
                    "The longest of these transactions has"
                },
                duration(open)
            ));
        }
        let failed = group
            .iter()
            .filter(|case| matches!(case.grounds, Grounds::Transaction(TxStatus::Failed)))
            .count();
        if failed > 0 {
            evidence
                .push(format!("In {failed} of them a statement failed: only ROLLBACK can follow."));
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "End the transaction on every path (COMMIT, or ROLLBACK on errors) and do slow outside \
         work before BEGIN; until then its locks and old row versions stay."
    }
}
