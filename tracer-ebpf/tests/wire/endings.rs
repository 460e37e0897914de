//! What cannot be walked to its end, and connections met in mid-life.

use tracer_ebpf::wire::{
    MARK_RESYNCED, PHASE_ENCRYPTED, PHASE_READY, PHASE_STARTING, PHASE_UNKNOWN, STATEMENT_SQL,
    Segments,
};

use super::{
    messages::{
        bind, complete, copy_data, copy_done, execute, extended, extended_answer, notification,
        one_row, password, query, ready, row, row_description, startup_answer, sync, terminate,
        tls_record,
    },
    peer::Peer,
};

fn rows(count: usize) -> Vec<u8> {
    let mut bytes = row_description();
    for index in 0..count {
        bytes.extend(row(&format!("value {index}")));
    }
    bytes.extend(complete(&format!("SELECT {count}")));
    bytes.extend(ready(b'T'));
    bytes
}

/// Many Bind and Execute, then Sync.
fn batch(count: usize) -> Vec<u8> {
    let one = [bind("s_1", &["7", "seven"]), execute()].concat();
    [one.repeat(count), sync()].concat()
}

#[test]
fn a_result_of_ten_thousand_rows_over_many_reads_ends_idle() {
    let result = rows(10_000);
    for size in [1_000, 1_448, 4_096, 8_192, 65_536, result.len() - 3, result.len()] {
        let mut peer = Peer::ready();
        peer.send(&query("SELECT * FROM t"));
        let mut reads = result.chunks(size).peekable();
        while let Some(read) = reads.next() {
            peer.receive(read);
            assert!(peer.memory.reads < 40, "{} reads of memory", peer.memory.reads);
            let idle = reads.peek().is_none().then_some('T');
            assert_eq!(peer.idle(), idle, "reads of {size}");
        }
        peer.send(&query("COMMIT"));
        assert_eq!(peer.wire.pending(), 1);
        peer.receive(&[complete("COMMIT"), ready(b'I')].concat());
        assert_eq!(peer.idle(), Some('I'));
        assert!(!peer.marked(MARK_RESYNCED), "a client that waits is followed exactly");
    }
}

#[test]
fn a_long_result_whose_ready_for_query_is_split_ends_idle() {
    let result = rows(100);
    for tail in 1..6 {
        let mut peer = Peer::ready();
        peer.send(&query("SELECT * FROM t"));
        let (most, end) = result.split_at(result.len() - tail);
        peer.receive(most);
        assert_eq!(peer.idle(), None);
        for byte in end {
            assert_eq!(peer.idle(), None);
            peer.receive(&[*byte]);
        }
        assert_eq!(peer.idle(), Some('T'), "{tail} bytes in the last reads");
    }
}

#[test]
fn a_payload_longer_than_its_read_is_not_lost() {
    // A row of a megabyte, whose reads each end like a ReadyForQuery.
    let value = "Z\0\0\0\u{5}I".repeat(200_000);
    let big = [row_description(), row(&value), complete("SELECT 1"), ready(b'T')].concat();
    let begin = row_description().len() + row("").len();
    let mut peer = Peer::ready();
    peer.send(&query("SELECT big"));
    let (head, rest) = big.split_at(begin);
    peer.receive(head);
    let mut reads = rest.chunks(6 * 1_000).peekable();
    while let Some(read) = reads.next() {
        peer.receive(read);
        assert_eq!(peer.idle(), reads.peek().is_none().then_some('T'));
    }
}

#[test]
fn a_batch_too_long_to_walk_is_active_until_it_is_answered() {
    for count in 1..200 {
        let mut peer = Peer::ready();
        for _ in 0..3 {
            peer.send(&batch(count));
            assert_eq!(peer.wire.pending(), 1, "{count} rows");
            assert!(peer.memory.reads < 60, "{} reads of memory", peer.memory.reads);
            peer.receive(&[complete("INSERT 0 1").repeat(count), ready(b'T')].concat());
            assert_eq!(peer.idle(), Some('T'), "{count} rows");
        }
    }
}

#[test]
fn a_batch_that_ends_with_a_payload_is_followed_as_far_as_it_is_walked() {
    // 16 messages, the last of which has a payload that is all that is left.
    let mut peer = Peer::ready();
    peer.send(&[execute().repeat(15), query("SELECT 1")].concat());
    assert_eq!((peer.wire.pending(), peer.wire.statements), (1, 16));
    assert!(!peer.marked(MARK_RESYNCED));
    peer.receive(&ready(b'I'));
    peer.send(&query("SELECT 1"));
    assert_eq!(peer.wire.pending(), 1);
}

#[test]
fn a_batch_written_in_pieces_is_active_from_its_sync_on() {
    let batch = batch(2_000);
    for size in [700, 8_192, 16_384] {
        let mut peer = Peer::ready();
        for _ in 0..3 {
            for piece in batch.chunks(size) {
                peer.send(piece);
            }
            assert!(peer.wire.pending() > 0, "pieces of {size}");
            peer.receive(&[complete("INSERT 0 1").repeat(100), ready(b'T')].concat());
            assert_eq!(peer.idle(), Some('T'), "pieces of {size}");
        }
        peer.send(&query("COMMIT"));
        assert_eq!((peer.wire.pending(), peer.statement()), (1, "COMMIT"));
    }
}

#[test]
fn syncs_passed_over_in_a_batch_do_not_make_later_queries_look_idle() {
    let mut peer = Peer::ready();
    // Twenty Syncs in one send, of which only some are walked.
    peer.send(&extended("SELECT $1").repeat(20));
    for _ in 0..20 {
        peer.receive(&[extended_answer(), ready(b'I')].concat());
        assert!(peer.wire.pending() >= 0);
    }
    assert_eq!(peer.idle(), Some('I'));
    peer.send(&query("SELECT pg_sleep(60)"));
    assert_eq!(peer.wire.pending(), 1, "active while it runs");
}

#[test]
fn replies_passed_over_in_a_receive_do_not_make_the_session_look_active() {
    let mut peer = Peer::ready();
    for _ in 0..30 {
        peer.send(&query("SET x = 1"));
    }
    peer.receive(&[complete("SET"), ready(b'I')].concat().repeat(30));
    assert_eq!(peer.idle(), Some('I'));
    assert!(peer.marked(MARK_RESYNCED));
    peer.send(&query("SELECT 1"));
    assert_eq!(peer.wire.pending(), 1);
}

#[test]
fn data_that_looks_like_a_header_is_left_behind_by_the_next_answer() {
    let mut peer = Peer::ready();
    peer.send(&query("COPY t FROM STDIN"));
    // Rows too many to walk, so that the next piece begins in the middle of one.
    peer.send(&copy_data(b"1\n").repeat(40));
    for piece in ["Q,value\n", "P1234567\n", "Search\n", "Q\0\u{1}\0\0data"] {
        peer.send(piece.as_bytes());
    }
    peer.send(&copy_done());
    peer.receive(&[complete("COPY 40"), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
    for _ in 0..3 {
        peer.send(&query("SELECT 1"));
        assert_eq!((peer.wire.pending(), peer.statement()), (1, "SELECT 1"));
        peer.receive(&[one_row(), ready(b'I')].concat());
        assert_eq!(peer.idle(), Some('I'));
    }
}

#[test]
fn text_cut_in_the_middle_is_no_header() {
    let mut peer = Peer::ready();
    peer.send(&query("COPY t FROM STDIN"));
    peer.send(&copy_data(b"1\n").repeat(40));
    let before = peer.wire.syncs;
    for piece in ["Q,value\n", "P1234567\n", "Search\n", "F 1 2 3\n"] {
        peer.send(piece.as_bytes());
    }
    assert_eq!(peer.wire.syncs, before);
    assert_eq!(peer.wire.send.synced, 0);
}

#[test]
fn the_end_of_a_payload_is_no_sync() {
    let mut peer = Peer::ready();
    // The walk ends before the last message, whose payload ends like a Sync and goes on.
    let mut bytes = execute().repeat(15);
    let end = query("SELECT 'S\0\0\0\u{4}'");
    bytes.extend(&end[..end.len() - 2]);
    peer.send(&bytes);
    assert_eq!(peer.wire.pending(), 1);
    peer.send(&end[end.len() - 2..]);
    assert_eq!((peer.wire.pending(), peer.wire.send.synced), (1, 1));
}

#[test]
fn zeros_are_no_messages() {
    let mut peer = Peer::ready();
    peer.send(&[0; 100]);
    assert_eq!(peer.wire.send.synced, 0);
    peer.receive(&[0; 100]);
    assert_eq!(peer.wire.recv.synced, 0);
    peer.receive(&ready(b'?'));
    assert_eq!((peer.idle(), peer.wire.recv.synced), (Some('I'), 0));
}

#[test]
fn memory_that_cannot_be_read_puts_the_stream_out_of_step() {
    let mut peer = Peer::ready();
    peer.memory.missing = true;
    peer.send_parts(&[&query("SELECT 1")]);
    assert_eq!(peer.wire.send.synced, 0);
    peer.receive_parts(&[&ready(b'I')]);
    assert_eq!(peer.wire.recv.synced, 0);
    peer.memory.missing = false;
    peer.receive(&[one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'), "the answer to what was not seen");
    peer.send(&query("SELECT 2"));
    assert_eq!((peer.wire.pending(), peer.statement()), (1, "SELECT 2"));
}

#[test]
fn a_first_packet_that_cannot_be_read_is_understood_later() {
    let mut peer = Peer::new();
    peer.memory.missing = true;
    peer.send(&super::messages::startup());
    assert_eq!(peer.wire.phase, PHASE_UNKNOWN);
    peer.memory.missing = false;
    peer.receive(&startup_answer(13, 4242));
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn what_was_sent_unseen_is_level_after_its_answer() {
    // The kernel side marks the stream after a `sendmmsg` of more than it follows.
    let mut peer = Peer::ready();
    peer.send(&query("SELECT 1"));
    peer.wire.send.synced = 0;
    for _ in 0..3 {
        peer.receive(&[one_row(), ready(b'I')].concat());
        assert_eq!(peer.idle(), Some('I'));
    }
    peer.send(&query("SELECT 2"));
    assert_eq!(peer.wire.pending(), 1);
}

#[test]
fn an_existing_session_is_picked_up_by_its_next_query() {
    for query in [query("SELECT 1"), extended("SELECT 1")] {
        let mut peer = Peer::existing();
        peer.send(&query);
        assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_READY, 1));
        assert_eq!((peer.wire.statement_kind, peer.statement()), (STATEMENT_SQL, "SELECT 1"));
        peer.receive(&[one_row(), ready(b'T')].concat());
        assert_eq!(peer.idle(), Some('T'));
    }
}

#[test]
fn an_existing_session_is_picked_up_by_the_end_of_an_answer() {
    let mut peer = Peer::existing();
    peer.receive(&rows(20)[300..]);
    assert_eq!(peer.idle(), Some('T'));
    peer.send(&query("SELECT pg_sleep(60)"));
    assert_eq!(peer.wire.pending(), 1, "active while it runs");
    peer.receive(&[one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn an_existing_session_picked_up_in_the_middle_of_an_exchange_is_level_after_it() {
    for (send, answer) in [
        (password(), startup_answer(13, 7)),
        (copy_data(b"1\n"), [complete("COPY 1"), ready(b'I')].concat()),
        ([copy_done(), sync()].concat(), [complete("COPY 1"), ready(b'I')].concat()),
        (execute(), [one_row(), ready(b'I')].concat()),
    ] {
        let mut peer = Peer::existing();
        peer.send(&send);
        assert_eq!(peer.wire.phase, PHASE_READY);
        peer.receive(&answer);
        assert_eq!(peer.idle(), Some('I'));
        peer.send(&query("SELECT 1"));
        assert_eq!(peer.wire.pending(), 1);
    }
}

#[test]
fn an_existing_session_met_between_answers_waits_for_more() {
    let mut peer = Peer::existing();
    peer.receive(&notification());
    peer.receive(&rows(20)[..300]);
    assert_eq!((peer.wire.phase, peer.idle()), (PHASE_UNKNOWN, None));
    peer.send(&[b'x'; 100]);
    peer.send(b"Q");
    assert_eq!(peer.wire.phase, PHASE_UNKNOWN);
    peer.send(&terminate());
    assert_eq!(peer.wire.phase, PHASE_READY);
}

#[test]
fn an_existing_encrypted_connection_is_known_by_its_records() {
    for kind in 20..=23 {
        let mut peer = Peer::existing();
        peer.receive(&tls_record(kind));
        assert_eq!(peer.wire.phase, PHASE_UNKNOWN);
        peer.send(&tls_record(kind));
        assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_ENCRYPTED, 0));
        assert_eq!(peer.uses, 1);
    }
}

#[test]
fn a_receive_of_several_buffers_too_long_to_walk_leaves_the_session_active_for_one_answer() {
    let result = rows(100);
    let (one, two) = result.split_at(1_000);
    let mut peer = Peer::ready();
    peer.send(&query("SELECT * FROM t"));
    peer.receive_parts(&[one, two]);
    assert_eq!(peer.wire.pending(), 1);
    peer.send(&query("SELECT 1"));
    peer.receive(&[one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn a_message_behind_a_long_result_leaves_the_session_active_for_one_answer() {
    let mut peer = Peer::ready();
    peer.send(&query("SELECT * FROM t"));
    peer.receive(&[rows(100), notification()].concat());
    assert_eq!(peer.wire.pending(), 1);
    peer.send(&query("SELECT 1"));
    peer.receive(&[one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn lengths_and_addresses_of_any_size_are_only_numbers() {
    let mut peer = Peer::ready();
    peer.memory.missing = true;
    for (at, len) in [(u64::MAX, 10), (u64::MAX - 3, u64::MAX), (0, u64::MAX)] {
        peer.sent(Segments::buffer(at, len));
        peer.received(Segments::buffer(at, len));
        peer.sent(Segments::vector(at, u64::MAX, len));
        peer.received(Segments::vector(at, u64::MAX, len));
    }
    let mut starting = Peer::new();
    starting.memory.missing = true;
    starting.sent(Segments::buffer(u64::MAX, u64::MAX));
    assert_ne!(starting.wire.phase, PHASE_STARTING);
}
