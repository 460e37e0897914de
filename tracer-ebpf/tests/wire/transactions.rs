//! Which use began the transaction that is open, and whose stack is kept for it.

use tracer_ebpf::wire::{PHASE_READY, PHASE_UNKNOWN, Wire};

use super::{
    messages::{complete, query, ready, startup, startup_answer},
    peer::Peer,
};

/// In session.
fn session() -> Peer {
    let mut peer = Peer::new();
    peer.send(&startup());
    peer.receive(&startup_answer(3, 4242));
    peer
}

/// One statement, after which the server is in this state.
fn run(peer: &mut Peer, sql: &str, status: u8) {
    peer.send(&query(sql));
    peer.receive(&[complete("DO"), ready(status)].concat());
}

#[test]
fn the_use_that_began_a_transaction_keeps_its_stack_while_others_follow() {
    let mut peer = session();
    run(&mut peer, "SELECT 1", b'I');
    assert_eq!(peer.wire.begun(), None);
    run(&mut peer, "BEGIN", b'T');
    let (number, at, kind) = peer.wire.begun().expect("a transaction");
    assert_eq!((number, at, kind), (2, peer.wire.use_at, peer.wire.use_kind()));
    for (round, status) in [b'T', b'T', b'E', b'E'].into_iter().enumerate() {
        run(&mut peer, "UPDATE stock SET left = 1", status);
        assert_eq!(peer.wire.begun(), Some((number, at, kind)), "round {round}");
        assert_ne!(peer.wire.use_kind(), kind, "round {round}");
    }
    run(&mut peer, "ROLLBACK", b'I');
    assert_eq!(peer.wire.begun(), None);
    run(&mut peer, "BEGIN", b'T');
    let (number, _, kind) = peer.wire.begun().expect("the next transaction");
    assert_eq!((number, kind), (8, peer.wire.use_kind()));
    run(&mut peer, "SELECT 1", b'T');
    assert_eq!(peer.wire.begun().map(|(number, _, kept)| (number, kept)), Some((8, kind)));
}

#[test]
fn a_transaction_from_before_the_watch_has_no_beginning() {
    let mut peer = Peer::new();
    peer.wire = Wire { phase: PHASE_UNKNOWN, ..Wire::default() };
    run(&mut peer, "SELECT 1", b'T');
    assert_eq!(peer.wire.phase, PHASE_READY);
    run(&mut peer, "SELECT 2", b'T');
    assert_eq!((peer.wire.begun(), peer.wire.use_turn), (None, 0));
    run(&mut peer, "COMMIT", b'I');
    run(&mut peer, "BEGIN", b'T');
    assert!(peer.wire.begun().is_some());
}
