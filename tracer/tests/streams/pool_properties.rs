//! Properties of the verdicts about what goes back to pools, on generated streams.

use proptest::prelude::*;
use tracer::model::{
    Certainty, Event, Finding, Runtime, Settings, StackEvent, Tracker, TxStatus, Verdict,
};

use super::scene::{Conn, Scene, THRESHOLD, seen, stack};

const POOL: &str = "database/sql";
const OBSERVED: &[(&str, bool)] = &[(POOL, true)];

fn findings(events: &[Event]) -> Vec<Finding> {
    let mut tracker = Tracker::new(Settings::new(THRESHOLD * 1_000_000));
    for event in events {
        tracker.apply(event);
    }
    tracker.findings(tracker.now())
}

fn transaction(scene: &mut Scene, at: u64, conn: &mut Conn, open: bool) {
    let status = if open { TxStatus::InTransaction } else { TxStatus::Idle };
    scene.query(at, conn, "SELECT ?");
    scene.tell(at + 2, conn, |state| {
        state.status = Some(status);
        state.bytes_sent += 30;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    /// Whatever the demand, and whenever its probes are attached.
    #[test]
    fn an_observed_pool_that_ends_its_transactions_gives_no_finding(
        demands in proptest::collection::vec((1usize..8, 0u64..40_000), 1..12),
        attached in 0usize..12,
        lifo: bool,
        transactions: bool,
    ) {
        let mut scene = Scene::default();
        scene.process(0, 7, seen("billing", Runtime::Go, &[]));
        let mut idle: Vec<Conn> = Vec::new();
        let mut at = 1_000;
        for (round, (demand, pause)) in demands.into_iter().enumerate() {
            if round == attached {
                scene.process(at, 7, seen("billing", Runtime::Go, OBSERVED));
                at += 1;
            }
            let observed = round >= attached;
            let mut taken = Vec::new();
            for _ in 0..demand {
                at += 3;
                let next = if lifo { idle.pop() } else { (!idle.is_empty()).then(|| idle.remove(0)) };
                let mut conn = match next {
                    Some(conn) => conn,
                    None => {
                        let conn = scene.open(at, 7);
                        at += 12;
                        scene.stack(at + 1, &conn, StackEvent::Open, 0, stack("handle", "/srv/a.go", 5));
                        conn
                    }
                };
                if observed {
                    scene.acquire(at, &mut conn, POOL);
                }
                transaction(&mut scene, at + 1, &mut conn, transactions);
                scene.used_by(at + 4, &conn, stack("handle", "/srv/a.go", 5));
                at += 5;
                taken.push(conn);
            }
            for conn in &mut taken {
                at += 4;
                transaction(&mut scene, at, conn, false);
                if observed {
                    scene.release(at + 3, conn);
                }
            }
            idle.append(&mut taken);
            at += 5 + pause;
            scene.tick(at);
        }
        scene.tick(at + THRESHOLD * 2);
        let found = findings(&scene.sorted());
        prop_assert!(found.is_empty(), "{:#?}", found);
    }

    /// Groups of one size, this far apart: found whole when it went on for the threshold.
    #[test]
    fn pools_given_up_one_after_the_other_are_found_whole(
        pools in 2u64..9, size in 1u64..4, apart in 2_000u64..20_000,
    ) {
        let mut scene = Scene::default();
        scene.process(0, 7, seen("billing", Runtime::Go, OBSERVED));
        for pool in 0..pools {
            let at = 1_000 + pool * apart;
            let mut conns: Vec<_> = (0..size).map(|n| scene.open(at + n * 11, 7)).collect();
            for conn in &mut conns {
                scene.acquire(at + 40, conn, POOL);
                scene.query(at + 45, conn, "SELECT ?");
                scene.release(at + 50, conn);
                let open = stack("report", "/srv/report.go", 9);
                scene.stack(at + 1_500, conn, StackEvent::Open, 0, open);
            }
        }
        scene.tick(1_000 + pools * apart + THRESHOLD);
        let found = findings(&scene.sorted());
        let last_open = (pools - 1) * apart + (size - 1) * 11;
        if pools > 3 && last_open >= THRESHOLD + 50 {
            let [found] = found.as_slice() else {
                return Err(TestCaseError::fail(format!("{found:#?}")));
            };
            prop_assert_eq!(found.verdict, Verdict::AbandonedPool);
            prop_assert_eq!(found.certainty, Certainty::Strong);
            prop_assert_eq!(found.connections.len() as u64, pools * size);
            let (of, frame) = found.blame.clone().expect("the line that opens");
            let line = frame.symbol.and_then(|symbol| symbol.line);
            prop_assert_eq!((of, line), (StackEvent::Open, Some(9)));
        } else {
            prop_assert!(found.is_empty(), "{:#?}", found);
        }
    }

    /// Found when nothing ended the transaction for the threshold, and only then.
    #[test]
    fn a_return_inside_a_transaction_is_found_unless_it_is_ended(
        ended_after in prop::option::of(0u64..60_000), until in 1_000u64..90_000, failed: bool,
    ) {
        let mut scene = Scene::default();
        scene.process(0, 7, seen("billing", Runtime::Go, OBSERVED));
        let mut conn = scene.open(100, 7);
        scene.acquire(200, &mut conn, POOL);
        transaction(&mut scene, 210, &mut conn, true);
        if failed {
            scene.tell(215, &mut conn, |state| state.status = Some(TxStatus::Failed));
        }
        scene.release(300, &mut conn);
        let ended = ended_after.map(|after| 301 + after).filter(|at| *at < 300 + until);
        if let Some(at) = ended {
            transaction(&mut scene, at, &mut conn, false);
        }
        scene.tick((300 + until).max(ended.unwrap_or(0) + 2));
        let found = findings(&scene.sorted());
        if ended.is_none() && until >= THRESHOLD {
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].verdict, Verdict::ReturnedInTransaction);
            prop_assert_eq!(found[0].certainty, Certainty::Proven);
        } else {
            // Silent by the wire a little longer than given back by the pool.
            let silent = ended.is_none() && until + 90 >= THRESHOLD;
            prop_assert!(silent || found.is_empty(), "{:#?}", found);
        }
    }

    /// What was taken before the probes were there is suspected at most.
    #[test]
    fn a_leak_from_before_the_probes_is_suspected_at_most(
        leaks in 2u64..9, pause in 6_000u64..20_000,
    ) {
        let mut scene = Scene::default();
        scene.process(0, 7, seen("billing", Runtime::Go, &[]));
        for n in 0..leaks {
            let at = 1_000 + n * pause;
            let mut conn = scene.open(at, 7);
            scene.query(at + 20, &mut conn, "SELECT ?");
            scene.used_by(at + 1_500, &conn, stack("handle", "/srv/handle.go", 5));
        }
        let attached = 1_000 + leaks * pause;
        scene.process(attached, 7, seen("billing", Runtime::Go, OBSERVED));
        scene.tick(attached + THRESHOLD);
        let found = findings(&scene.sorted());
        let [found] = found.as_slice() else {
            return Err(TestCaseError::fail(format!("{found:#?}")));
        };
        prop_assert_eq!((found.verdict, found.certainty), (Verdict::Leak, Certainty::Suspected));
        prop_assert_eq!(found.from_before, found.connections.len());
    }
}
