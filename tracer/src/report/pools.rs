//! What of a pool is observed, what is inferred and what cannot be known, in words.
//!
//! May import `model`. Pure. One place for the report and `connleak probes`.

use crate::model::{Behaviour, IdleOrder, PoolSeen, Presence, Protocol, duration};

/// How certain a pool is and what is seen of it, in a few words.
#[must_use]
pub fn standing(pool: &PoolSeen) -> &'static str {
    match (pool.observed, pool.pooler, pool.presence) {
        (true, ..) => "checkouts observed",
        (_, true, _) => "a pooler, nothing of it is reported",
        (.., Presence::Loaded) => "checkouts inferred",
        (.., Presence::Installed) => "possibly, checkouts inferred",
    }
}

/// What tells a leak in a pool that is not observed, and what does not; `None` where there is
/// nothing to infer.
#[must_use]
pub fn inference(pool: &PoolSeen) -> Option<String> {
    if pool.pooler {
        return Some(
            "Whether its connections are held is the doing of its own clients.".to_owned(),
        );
    }
    let behaviour = pool.behaviour.as_ref().filter(|_| !pool.observed)?;
    if behaviour.protocol != Protocol::Postgresql {
        return Some("Its connections are no PostgreSQL sessions.".to_owned());
    }
    let mut sentences = vec![format!("A leak shows when {}.", any_of(&signs(behaviour)))];
    if behaviour.opens_while_idle {
        sentences.push(
            "Under TLS it does not show, because the pool may also open one while others idle."
                .to_owned(),
        );
    }
    sentences.push("Until then a silent connection may be idle in the pool.".to_owned());
    Some(sentences.join(" "))
}

fn signs(behaviour: &Behaviour) -> Vec<String> {
    let time = |ms: u64| duration(ms.saturating_mul(1_000_000));
    let mut signs = vec![
        if behaviour.opens_unasked {
            "a new connection is opened, and used at once, beside the silent one"
        } else {
            "a new connection is opened beside the silent one"
        }
        .to_owned(),
    ];
    if behaviour.idle_order == Some(IdleOrder::Fifo) {
        signs.push("the others are used in turn without it".to_owned());
    }
    if let Some(ms) = behaviour.idle_timeout_ms {
        signs.push(format!("others are closed after {} without a byte and it is not", time(ms)));
    }
    if let Some(ms) = behaviour.max_lifetime_ms {
        signs.push(format!("others are closed at the age of {} and it is not", time(ms)));
    }
    signs
}

fn any_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{}, or {last}", first.join(", ")),
    }
}
