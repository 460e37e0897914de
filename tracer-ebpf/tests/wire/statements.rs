//! Which statement is kept, and what it marks.

use tracer_ebpf::{
    limits::STATEMENT_BYTES,
    statement::{MARK_ADVISORY_LOCK, MARK_LISTEN},
    wire::{STATEMENT_NAME, STATEMENT_NONE, STATEMENT_SQL},
};

use super::{
    messages::{bind, complete, describe, execute, extended, parse, query, ready, sync},
    peer::Peer,
};

fn run(name: &str) -> Vec<u8> {
    [bind(name, &["7"]), execute(), sync()].concat()
}

#[track_caller]
fn assert_kept(peer: &Peer, kind: u32, text: &str) {
    assert_eq!((peer.wire.statement_kind, peer.statement()), (kind, text));
}

#[test]
fn the_text_of_a_query_is_kept_and_cut() {
    let mut peer = Peer::ready();
    assert_eq!(peer.wire.statement_kind, STATEMENT_NONE);
    peer.send(&query("SELECT 1"));
    assert_kept(&peer, STATEMENT_SQL, "SELECT 1");
    let long = format!("SELECT '{}'", "x".repeat(500));
    peer.send(&query(&long));
    assert_kept(&peer, STATEMENT_SQL, &long[..STATEMENT_BYTES - 2]);
}

#[test]
fn the_text_of_a_parse_is_kept_for_unnamed_and_named_statements() {
    for name in ["", "s_1"] {
        let mut peer = Peer::ready();
        peer.send(&[parse(name, "SELECT $1"), describe(name), sync()].concat());
        assert_kept(&peer, STATEMENT_SQL, "SELECT $1");
        peer.send(&run(name));
        assert_kept(&peer, STATEMENT_SQL, "SELECT $1");
    }
}

#[test]
fn running_a_statement_prepared_earlier_keeps_its_name() {
    let mut peer = Peer::ready();
    peer.send(&[parse("s_1", "SELECT 1"), sync()].concat());
    peer.send(&[parse("s_2", "SELECT 2"), sync()].concat());
    peer.send(&run("s_1"));
    assert_kept(&peer, STATEMENT_NAME, "s_1");
    peer.send(&run("s_3"));
    assert_kept(&peer, STATEMENT_NAME, "s_3");
    peer.send(&query("SELECT 3"));
    peer.send(&run("s_1"));
    assert_kept(&peer, STATEMENT_NAME, "s_1");
}

#[test]
fn names_of_the_same_beginning_are_told_apart() {
    let long = "s".repeat(50);
    let (one, two) = (format!("{long}1"), format!("{long}2"));
    let mut peer = Peer::ready();
    peer.send(&[parse(&one, "SELECT 1"), sync()].concat());
    peer.send(&run(&one));
    assert_kept(&peer, STATEMENT_SQL, "SELECT 1");
    peer.send(&run(&two));
    assert_kept(&peer, STATEMENT_NAME, &two);
}

#[test]
fn the_text_behind_a_name_too_long_to_look_at_is_unknown() {
    for len in [61, 62, 63, 64, 100] {
        let name = "n".repeat(len);
        let mut peer = Peer::ready();
        peer.send(&query("SELECT 'before'"));
        peer.send(&[parse(&name, "SELECT 1"), sync()].concat());
        if len < 62 {
            assert_kept(&peer, STATEMENT_SQL, "SELECT 1");
        } else {
            assert_eq!(peer.wire.statement_kind, STATEMENT_NONE, "name of {len} bytes");
        }
        peer.send(&[bind(&name, &["a value"]), execute(), sync()].concat());
        if len >= 62 {
            assert_kept(&peer, STATEMENT_NAME, &name);
        }
    }
}

#[test]
fn the_last_statement_of_a_send_is_kept() {
    let mut peer = Peer::ready();
    peer.send(&[query("BEGIN"), query("SELECT 1")].concat());
    assert_kept(&peer, STATEMENT_SQL, "SELECT 1");
    peer.send(&[query("BEGIN"), extended("SELECT $1")].concat());
    assert_kept(&peer, STATEMENT_SQL, "SELECT $1");
    peer.send(&[query("BEGIN"), run("s_1")].concat());
    assert_kept(&peer, STATEMENT_NAME, "s_1");
    peer.send(&[extended("SELECT $1"), query("COMMIT")].concat());
    assert_kept(&peer, STATEMENT_SQL, "COMMIT");
}

#[test]
fn a_query_followed_by_a_sync_keeps_its_text() {
    let mut peer = Peer::ready();
    peer.send(&[query("LISTEN jobs"), sync()].concat());
    assert_kept(&peer, STATEMENT_SQL, "LISTEN jobs");
    assert!(peer.marked(MARK_LISTEN));
}

#[test]
fn a_text_in_another_buffer_is_unknown_rather_than_the_one_before() {
    for next in [query("SELECT 'after'"), parse("", "SELECT 'after'"), parse("s", "SELECT 'after'")]
    {
        for cut in 1..=5 {
            let (one, two) = next.split_at(cut);
            let mut sends = Peer::ready();
            sends.send(&query("SELECT 'before'"));
            sends.send(one);
            sends.send(two);
            let mut buffers = Peer::ready();
            buffers.send(&query("SELECT 'before'"));
            buffers.send_parts(&[one, two]);
            for peer in [sends, buffers] {
                // A header collected byte by byte may end where the text begins.
                if peer.wire.statement_kind != STATEMENT_NONE {
                    assert_kept(&peer, STATEMENT_SQL, "SELECT 'after'");
                }
                assert!(cut < 5 || peer.wire.statement_kind == STATEMENT_NONE);
            }
        }
    }
}

#[test]
fn a_name_cut_by_its_buffer_is_not_taken_for_another() {
    let batch = run("s_12345");
    let mut peer = Peer::ready();
    peer.send(&query("SELECT 'before'"));
    for cut in 6..14 {
        peer.send_parts(&[&batch[..cut], &batch[cut..]]);
        assert_ne!(peer.wire.statement_kind, STATEMENT_NAME, "cut at {cut}");
    }
    peer.send(&batch);
    assert_kept(&peer, STATEMENT_NAME, "s_12345");
}

#[test]
fn statements_that_make_silence_meant_are_marked_and_cleared() {
    let mut peer = Peer::ready();
    for (sql, listen, lock) in [
        ("LISTEN jobs", true, false),
        ("SELECT 1", true, false),
        ("select pg_advisory_lock(7)", true, true),
        ("UNLISTEN *", false, true),
        ("SELECT pg_advisory_unlock(7)", false, false),
        ("SELECT pg_try_advisory_lock(7)", false, true),
        ("LISTEN more", true, true),
        ("DISCARD ALL", false, false),
    ] {
        for send in [query(sql), extended(sql)] {
            peer.send(&send);
            peer.receive(&[complete("X"), ready(b'I')].concat());
            let marks = (peer.marked(MARK_LISTEN), peer.marked(MARK_ADVISORY_LOCK));
            assert_eq!(marks, (listen, lock), "{sql}");
        }
    }
}

#[test]
fn the_name_of_a_statement_marks_nothing() {
    let mut peer = Peer::ready();
    peer.send(&run("listen jobs"));
    assert_kept(&peer, STATEMENT_NAME, "listen jobs");
    assert!(!peer.marked(MARK_LISTEN));
}
