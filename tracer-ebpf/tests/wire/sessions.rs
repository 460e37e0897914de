//! Sessions from their first byte: startup, queries, pipelines, COPY.

use tracer_ebpf::wire::{
    MARK_COPY, MARK_COPY_BOTH, MARK_RESYNCED, MARK_TERMINATED, PHASE_ASKED, PHASE_CANCEL,
    PHASE_ENCRYPTED, PHASE_FOREIGN, PHASE_NEW, PHASE_READY, PHASE_STARTING, PHASE_UNKNOWN,
};

use super::{
    messages::{
        PARAMETERS, authentication_ok, backend_key, bind, cancel_request, complete, copy_data,
        copy_done, copy_response, describe, error, execute, extended, extended_answer, flush,
        function_call, gss_request, message, notice, notification, one_row, parameter_status,
        parse, password, query, ready, row, row_description, ssl_request, startup, startup_answer,
        sync, terminate, tls_record,
    },
    peer::Peer,
};

/// Message headers in a startup answer beside the parameters.
const OTHERS: usize = 3;

#[test]
fn a_session_starts_with_its_parameters_and_ends_ready() {
    let mut peer = Peer::new();
    peer.send(&startup());
    assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_STARTING, 1));
    assert_eq!(peer.memory.startup, [PARAMETERS, b"\0"].concat());
    // MD5 password request, its answer, and the rest.
    peer.receive(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]));
    peer.send(&password());
    assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_STARTING, 1));
    peer.receive(&startup_answer(12, 4242));
    assert_eq!(peer.idle(), Some('I'));
    assert_eq!(peer.wire.backend_pid, 4242);
    assert_eq!(peer.uses, 0, "starting a session is no use of it");
    assert!(!peer.marked(MARK_RESYNCED));
}

#[test]
fn the_backend_is_known_however_many_parameters_the_server_reports() {
    for parameters in 0..40 {
        let mut peer = Peer::new();
        peer.send(&startup());
        peer.receive(&startup_answer(parameters, 4242));
        assert_eq!(peer.idle(), Some('I'), "{} messages", parameters + OTHERS);
        assert_eq!(peer.wire.backend_pid, 4242, "{} messages", parameters + OTHERS);
        assert_eq!(peer.memory.key, Some((4242, 0xdead_beef)), "{} messages", parameters + OTHERS);
    }
}

#[test]
fn a_negotiated_minor_version_and_a_longer_key_are_a_startup_too() {
    let mut peer = Peer::new();
    let mut bytes = startup();
    bytes[7] = 2;
    peer.send(&bytes);
    // NegotiateProtocolVersion, then BackendKeyData of protocol 3.2 with a key of 32 bytes.
    peer.receive(&message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]));
    let key = message(b'K', &[&[0, 0, 0x10, 0x92][..], &[7; 32]].concat());
    peer.receive(&[authentication_ok(), key, ready(b'I')].concat());
    assert_eq!((peer.idle(), peer.wire.backend_pid), (Some('I'), 4242));
    assert_eq!(peer.memory.key, None, "a part of a key finds nothing");
}

#[test]
fn a_startup_packet_split_over_buffers_and_sends_is_followed() {
    let (packet, whole) = (startup(), startup_answer(3, 4242));
    for cut in 8..packet.len() {
        let (one, two) = packet.split_at(cut);
        let mut sends = Peer::new();
        sends.send(one);
        sends.send(two);
        let mut buffers = Peer::new();
        buffers.send_parts(&[one, two]);
        for mut peer in [sends, buffers] {
            assert!(peer.memory.startup.iter().eq(&packet[8..cut]), "cut at {cut}");
            peer.receive(&whole);
            peer.send(&query("SELECT 1"));
            assert_eq!((peer.statement(), peer.wire.pending()), ("SELECT 1", 1), "cut at {cut}");
        }
    }
}

#[test]
fn a_startup_packet_cut_within_its_code_is_understood_later() {
    for cut in 1..8 {
        let mut peer = Peer::new();
        let packet = startup();
        let (one, two) = packet.split_at(cut);
        peer.send(one);
        peer.send(two);
        assert_eq!(peer.wire.phase, PHASE_UNKNOWN, "cut at {cut}");
        peer.receive(&startup_answer(3, 4242));
        peer.send(&query("SELECT 1"));
        assert_eq!((peer.wire.phase, peer.wire.pending()), (PHASE_READY, 1), "cut at {cut}");
        peer.receive(&[one_row(), ready(b'I')].concat());
        assert_eq!(peer.idle(), Some('I'), "cut at {cut}");
    }
}

#[test]
fn messages_in_the_send_of_the_startup_packet_are_followed() {
    let mut peer = Peer::new();
    peer.send(&[startup(), query("SELECT 1")].concat());
    assert_eq!(peer.wire.pending(), 2);
    peer.receive(&[startup_answer(3, 4242), one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn a_session_without_encryption_follows_a_refused_one() {
    for request in [ssl_request(), gss_request()] {
        let mut peer = Peer::new();
        peer.send(&request);
        assert_eq!(peer.wire.phase, PHASE_ASKED);
        peer.receive(b"N");
        assert_eq!(peer.wire.phase, PHASE_NEW);
        peer.send(&startup());
        peer.receive(&startup_answer(3, 4242));
        assert_eq!(peer.idle(), Some('I'));
    }
}

#[test]
fn an_accepted_encryption_hides_the_session() {
    for (request, answer) in [(ssl_request(), b"S"), (gss_request(), b"G")] {
        let mut peer = Peer::new();
        peer.send(&request);
        peer.receive(answer);
        assert_eq!(peer.wire.phase, PHASE_ENCRYPTED);
        let before = peer.wire;
        peer.send(&tls_record(22));
        peer.receive(&tls_record(22));
        assert_eq!(peer.wire.phase, PHASE_ENCRYPTED);
        assert_eq!((peer.wire.syncs, peer.wire.readies), (before.syncs, before.readies));
    }
}

#[test]
fn direct_tls_hides_the_session() {
    let mut peer = Peer::new();
    peer.send(&tls_record(22));
    assert_eq!(peer.wire.phase, PHASE_ENCRYPTED);
}

#[test]
fn an_answer_to_the_request_for_encryption_that_was_not_seen_is_told_by_the_next_send() {
    for (next, phase) in [(startup(), PHASE_STARTING), (tls_record(22), PHASE_ENCRYPTED)] {
        let mut peer = Peer::new();
        peer.send(&ssl_request());
        peer.send(&next);
        assert_eq!(peer.wire.phase, phase);
    }
}

#[test]
fn an_empty_buffer_is_no_answer() {
    let mut peer = Peer::new();
    peer.send(&ssl_request());
    peer.receive_parts(&[b"", b"S"]);
    assert_eq!(peer.wire.phase, PHASE_ASKED);
    peer.send(&tls_record(22));
    assert_eq!(peer.wire.phase, PHASE_ENCRYPTED);
}

#[test]
fn a_cancel_request_is_no_session() {
    let mut peer = Peer::new();
    peer.send(&cancel_request());
    assert_eq!(peer.wire.phase, PHASE_CANCEL);
    assert_eq!(peer.wire.pending(), 0);
}

#[test]
fn other_protocols_are_foreign() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        // Protocol 2.0, gone since PostgreSQL 14, and a startup packet longer than servers take.
        &[0, 0, 1, 0x28, 0, 2, 0, 0, 0, 0],
        &[0, 0, 0x27, 0x11, 0, 3, 0, 0, 0, 0],
    ] {
        let mut peer = Peer::new();
        peer.send(bytes);
        assert_eq!(peer.wire.phase, PHASE_FOREIGN, "{bytes:?}");
        peer.receive(&ready(b'I'));
        peer.send(&query("SELECT 1"));
        assert_eq!((peer.wire.phase, peer.wire.syncs), (PHASE_FOREIGN, 0));
    }
}

#[test]
fn a_query_is_active_until_it_is_answered() {
    for status in *b"ITE" {
        let mut peer = Peer::ready();
        peer.send(&query("SELECT 1"));
        assert_eq!((peer.wire.pending(), peer.wire.statements), (1, 1));
        peer.receive(&one_row());
        assert_eq!(peer.wire.pending(), 1);
        peer.receive(&ready(status));
        assert_eq!(peer.idle(), Some(char::from(status)));
    }
}

#[test]
fn a_ready_for_query_packed_with_others_is_seen() {
    let mut peer = Peer::ready();
    peer.send(&query("BEGIN; SELECT 1"));
    peer.receive(&[complete("BEGIN"), one_row(), ready(b'T')].concat());
    assert_eq!(peer.idle(), Some('T'));
}

#[test]
fn a_ready_for_query_split_anywhere_is_seen() {
    let answer = [one_row(), ready(b'E')].concat();
    for cut in 1..answer.len() {
        let (one, two) = answer.split_at(cut);
        let mut receives = Peer::ready();
        receives.send(&query("SELECT 1"));
        receives.receive(one);
        assert_eq!(receives.wire.pending(), 1, "cut at {cut}");
        receives.receive(two);
        let mut buffers = Peer::ready();
        buffers.send(&query("SELECT 1"));
        buffers.receive_parts(&[one, two]);
        for peer in [receives, buffers] {
            assert_eq!(peer.idle(), Some('E'), "cut at {cut}");
            assert!(!peer.marked(MARK_RESYNCED));
        }
    }
}

#[test]
fn a_ready_for_query_split_around_an_empty_buffer_is_seen() {
    let answer = ready(b'E');
    for cut in 0..=answer.len() {
        let (one, two) = answer.split_at(cut);
        let mut peer = Peer::ready();
        peer.send(&query("SELECT 1"));
        peer.receive_parts(&[one, b"", two]);
        assert_eq!(peer.idle(), Some('E'), "cut at {cut}");
    }
}

#[test]
fn a_receive_that_begins_and_ends_within_a_header_is_walked() {
    let answer =
        [message(b'1', b""), message(b'2', b""), copy_response(b'G'), notice(), notice()].concat();
    for begin in 1..5 {
        for end in 11..15 {
            let mut peer = Peer::ready();
            peer.send(&[parse("", "COPY t FROM STDIN"), bind("", &[]), execute(), sync()].concat());
            peer.receive(&answer[..begin]);
            peer.receive(&answer[begin..end]);
            peer.receive(&answer[end..]);
            assert!(peer.marked(MARK_COPY), "cut at {begin} and {end}");
        }
    }
}

#[test]
fn drivers_that_read_header_and_payload_apart_are_followed() {
    let mut peer = Peer::ready();
    peer.send(&query("SELECT 1"));
    for part in [row_description(), row("1"), complete("SELECT 1"), ready(b'I')] {
        peer.receive(&part[..1]);
        peer.receive(&part[1..5]);
        if part.len() > 5 {
            assert_eq!(peer.wire.pending(), 1);
            peer.receive(&part[5..]);
        }
    }
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn the_extended_protocol_counts_its_sync() {
    let batch = extended("SELECT $1");
    let mut peer = Peer::ready();
    peer.send(&batch);
    assert_eq!((peer.wire.pending(), peer.wire.statements), (1, 1));
    peer.receive(&[extended_answer(), ready(b'I')].concat());
    assert_eq!((peer.idle(), peer.uses), (Some('I'), 1));
}

#[test]
fn an_extended_batch_cut_anywhere_counts_the_same() {
    let batch = extended("SELECT $1");
    for cut in 1..batch.len() {
        let (one, two) = batch.split_at(cut);
        let mut sends = Peer::ready();
        sends.send(one);
        assert_eq!(sends.wire.pending(), 0, "cut at {cut}");
        sends.send(two);
        let mut buffers = Peer::ready();
        buffers.send_parts(&[one, two]);
        for peer in [sends, buffers] {
            assert_eq!((peer.wire.pending(), peer.wire.statements), (1, 1), "cut at {cut}");
            assert_eq!(peer.wire.last_frontend, b'S');
            assert!(!peer.marked(MARK_RESYNCED));
        }
    }
}

#[test]
fn an_extended_batch_of_one_buffer_per_message_is_followed() {
    let parts =
        [parse("", "SELECT $1"), bind("", &["7"]), describe(""), execute(), flush(), sync()];
    let mut peer = Peer::ready();
    peer.send_parts(&parts.each_ref().map(Vec::as_slice));
    assert_eq!((peer.wire.pending(), peer.wire.statements), (1, 1));
    assert_eq!(peer.statement(), "SELECT $1");
}

#[test]
fn a_flush_is_not_answered_by_ready_for_query() {
    let mut peer = Peer::ready();
    peer.send(&[parse("s", "SELECT 1"), describe("s"), flush()].concat());
    peer.receive(&[message(b'1', b""), message(b't', &[0, 0]), row_description()].concat());
    assert_eq!(peer.wire.pending(), 0);
    peer.send(&[bind("s", &[]), execute(), sync()].concat());
    assert_eq!(peer.wire.pending(), 1);
    peer.receive(&[message(b'2', b""), row("1"), complete("SELECT 1"), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn an_error_in_a_batch_is_answered_once() {
    let mut peer = Peer::ready();
    peer.send(&extended("SELEC $1"));
    peer.receive(&[error("syntax error"), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn a_function_call_is_answered() {
    let mut peer = Peer::ready();
    peer.send(&function_call());
    assert_eq!(peer.wire.pending(), 1);
    peer.receive(&[message(b'V', &[0, 0, 0, 1, 7]), ready(b'T')].concat());
    assert_eq!(peer.idle(), Some('T'));
}

#[test]
fn terminate_is_remembered() {
    let mut peer = Peer::ready();
    assert!(!peer.marked(MARK_TERMINATED));
    peer.send(&terminate());
    assert!(peer.marked(MARK_TERMINATED));
    assert_eq!(peer.wire.pending(), 0);
}

#[test]
fn copy_out_is_marked_until_it_ends() {
    let mut peer = Peer::ready();
    peer.send(&query("COPY t TO STDOUT"));
    peer.receive(&copy_response(b'H'));
    assert!(peer.marked(MARK_COPY));
    for _ in 0..100 {
        peer.receive(&copy_data(b"1\tone\n").repeat(50));
        assert_eq!(peer.wire.pending(), 1);
    }
    peer.receive(&[copy_done(), complete("COPY 5000"), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
    assert!(!peer.marked(MARK_COPY));
}

#[test]
fn copy_in_of_the_simple_protocol_is_one_use() {
    let mut peer = Peer::ready();
    peer.send(&query("COPY t FROM STDIN"));
    peer.receive(&copy_response(b'G'));
    assert!(peer.marked(MARK_COPY));
    for _ in 0..10 {
        peer.send(&copy_data(&b"1\tone\n".repeat(1000)));
        assert_eq!(peer.wire.pending(), 1);
    }
    peer.send(&copy_done());
    peer.receive(&[complete("COPY 10000"), ready(b'I')].concat());
    assert_eq!((peer.idle(), peer.uses), (Some('I'), 1));
    assert!(!peer.marked(MARK_COPY));
}

#[test]
fn the_sync_that_came_with_an_extended_copy_in_is_ignored() {
    let mut peer = Peer::ready();
    peer.send(&[parse("", "COPY t FROM STDIN"), bind("", &[]), execute(), sync()].concat());
    peer.receive(&[message(b'1', b""), message(b'2', b""), copy_response(b'G')].concat());
    for _ in 0..10 {
        peer.send(&copy_data(&b"1\tone\n".repeat(1000)));
    }
    peer.send(&[copy_done(), sync()].concat());
    assert_eq!(peer.wire.pending(), 1);
    peer.receive(&[complete("COPY 10000"), ready(b'I')].concat());
    assert_eq!((peer.idle(), peer.uses), (Some('I'), 1));
    assert!(!peer.marked(MARK_COPY | MARK_RESYNCED));
}

#[test]
fn an_extended_copy_in_that_fails_waits_for_its_sync() {
    for ending in [vec![], message(b'f', b"no more\0")] {
        let mut peer = Peer::ready();
        peer.send(&[parse("", "COPY t FROM STDIN"), bind("", &[]), execute(), sync()].concat());
        peer.receive(&[message(b'1', b""), message(b'2', b""), copy_response(b'G')].concat());
        peer.send(&copy_data(b"one\n"));
        peer.receive(&error("invalid input syntax"));
        peer.send(&[ending, sync()].concat());
        assert_eq!(peer.wire.pending(), 1);
        peer.receive(&ready(b'I'));
        assert_eq!(peer.idle(), Some('I'));
    }
}

#[test]
fn a_replication_stream_is_marked_and_active() {
    let mut peer = Peer::ready();
    peer.send(&query("START_REPLICATION 0/0"));
    peer.receive(&copy_response(b'W'));
    assert!(peer.marked(MARK_COPY) && peer.marked(MARK_COPY_BOTH));
    peer.receive(&copy_data(&[b'k'; 18]));
    peer.send(&copy_data(&[b'r'; 34]));
    assert_eq!((peer.wire.pending(), peer.uses), (1, 1));
}

#[test]
fn each_sync_of_a_pipeline_is_answered_by_its_own_ready_for_query() {
    let mut peer = Peer::ready();
    for _ in 0..5 {
        peer.send(&extended("SELECT $1"));
    }
    assert_eq!((peer.wire.pending(), peer.uses), (5, 1));
    for left in (0..5).rev() {
        assert_eq!(peer.idle(), None);
        peer.receive(&[extended_answer(), ready(b'T')].concat());
        assert_eq!(peer.wire.pending(), left);
    }
    assert_eq!(peer.idle(), Some('T'));
    assert!(!peer.marked(MARK_RESYNCED));
}

#[test]
fn packed_replies_of_a_pipeline_are_counted_one_by_one() {
    let one = [complete("SET"), ready(b'T')].concat();
    for packed in 1..=8 {
        let mut peer = Peer::ready();
        for _ in 0..9 {
            peer.send(&query("SET x = 1"));
        }
        // Up to 16 messages, the last of them a ReadyForQuery.
        peer.receive(&one.repeat(packed));
        assert_eq!(peer.wire.pending(), 9 - packed as i32);
        assert!(!peer.marked(MARK_RESYNCED), "{packed} replies");
        peer.receive(&one.repeat(9 - packed));
        assert_eq!(peer.idle(), Some('T'));
    }
}

#[test]
fn a_receive_reported_before_its_send_heals() {
    let mut peer = Peer::ready();
    for _ in 0..3 {
        peer.receive(&[one_row(), ready(b'I')].concat());
        assert_eq!(peer.wire.pending(), -1);
        peer.send(&query("SELECT 1"));
        assert_eq!(peer.idle(), Some('I'));
    }
    peer.send(&query("SELECT 1"));
    assert_eq!(peer.wire.pending(), 1);
}

#[test]
fn messages_that_come_by_themselves_leave_the_session_idle() {
    let alone = [notice(), parameter_status("TimeZone", "UTC"), notification()];
    let mut peer = Peer::ready();
    for message in &alone {
        peer.receive(message);
        assert_eq!(peer.idle(), Some('I'));
        peer.receive(&message[..3]);
        peer.receive(&message[3..]);
        assert_eq!(peer.idle(), Some('I'));
    }
    for message in &alone {
        peer.send(&query("LISTEN jobs"));
        peer.receive(&[complete("LISTEN"), ready(b'I'), message.clone()].concat());
        assert_eq!(peer.idle(), Some('I'));
        // Two more, and one cut in the middle.
        peer.receive(&[&message.repeat(2)[..], &message[..7]].concat());
        peer.receive(&message[7..]);
        assert_eq!(peer.idle(), Some('I'));
    }
    assert!(!peer.marked(MARK_RESYNCED));
    peer.send(&query("SELECT 1"));
    peer.receive(&[one_row(), ready(b'I')].concat());
    assert_eq!(peer.idle(), Some('I'));
}

#[test]
fn a_key_between_messages_of_a_session_is_kept() {
    let mut peer = Peer::ready();
    peer.receive(&backend_key(7));
    assert_eq!(peer.wire.backend_pid, 7);
}
