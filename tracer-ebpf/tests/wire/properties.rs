//! What holds for every conversation, however it is cut, and for bytes of any shape.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_ebpf::{
    limits::{PASS_STEPS, WALK_STEPS},
    wire::{MARK_RESYNCED, PHASE_FOREIGN, PHASE_NEW, Segments, Stream, Wire},
};

use super::{
    messages::{
        bind, complete, copy_data, copy_done, copy_response, describe, error, execute, flush,
        function_call, message, notice, one_row, parameter_status, parse, query, ready, row,
        row_description, startup, startup_answer, sync,
    },
    peer::Peer,
};

/// Reads of memory that one call may take: each step loads a buffer (2) and reads a header or a
/// byte and a status (2); texts, names and tails come on top.
const MAX_READS: u32 = WALK_STEPS * 4 + 20;

/// Turns of a conversation: what the client sends, then what the server answers.
type Turns = Vec<(Vec<u8>, Vec<u8>)>;

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,40}"
}

fn status() -> impl Strategy<Value = u8> {
    select(b"ITE".to_vec())
}

/// Messages that the server may send by itself before it is ready.
fn asides() -> impl Strategy<Value = Vec<u8>> {
    vec(select(vec![notice(), parameter_status("TimeZone", "UTC")]), 0..2)
        .prop_map(|messages| messages.concat())
}

/// Values of rows, as few or as many as a result has.
fn values() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![4 => vec(text(), 0..4), 1 => vec(text(), 20..200)]
}

fn simple() -> impl Strategy<Value = Turns> {
    (text(), values(), asides(), status()).prop_map(|(sql, values, asides, status)| {
        let rows: Vec<u8> = values.iter().flat_map(|value| row(value)).collect();
        let answer = [row_description(), rows, complete("SELECT"), asides, ready(status)].concat();
        vec![(query(&sql), answer)]
    })
}

fn batch() -> impl Strategy<Value = Turns> {
    let parameters = prop_oneof![4 => vec(text(), 1..4), 1 => vec(text(), 10..60)];
    (text(), parameters, any::<bool>(), status()).prop_map(|(sql, parameters, fails, status)| {
        let mut client = [parse("s_1", &sql), describe("s_1")].concat();
        let mut server = [message(b'1', b""), message(b't', &[0, 0]), message(b'n', b"")].concat();
        for parameter in &parameters {
            client.extend(bind("s_1", &[parameter]));
            client.extend(execute());
            if !fails {
                server.extend(message(b'2', b""));
                server.extend(complete("INSERT 0 1"));
            }
        }
        if fails {
            server.extend(error("duplicate key"));
        }
        client.extend(sync());
        server.extend(ready(status));
        vec![(client, server)]
    })
}

fn copy_in() -> impl Strategy<Value = Turns> {
    let data = vec(text(), 0..60);
    (data, any::<bool>(), status()).prop_map(|(data, simple, status)| {
        let data: Vec<u8> = data.iter().flat_map(|line| copy_data(line.as_bytes())).collect();
        let end = [complete("COPY"), ready(status)].concat();
        let start = copy_response(b'G');
        if simple {
            let data = [data, copy_done()].concat();
            vec![(query("COPY t FROM STDIN"), start), (data, end)]
        } else {
            let batch = [parse("", "COPY t FROM STDIN"), bind("", &[]), execute(), sync()].concat();
            let start = [message(b'1', b""), message(b'2', b""), start].concat();
            vec![(batch, start), ([data, copy_done(), sync()].concat(), end)]
        }
    })
}

fn copy_out() -> impl Strategy<Value = Turns> {
    (vec(text(), 0..60), status()).prop_map(|(data, status)| {
        let mut answer = copy_response(b'H');
        answer.extend(data.iter().flat_map(|line| copy_data(line.as_bytes())));
        answer.extend([copy_done(), complete("COPY"), ready(status)].concat());
        vec![(query("COPY t TO STDOUT"), answer)]
    })
}

fn call() -> impl Strategy<Value = Turns> {
    status().prop_map(|status| {
        let answer = [message(b'V', &[0, 0, 0, 1, 7]), ready(status)].concat();
        vec![(function_call(), answer)]
    })
}

fn prepare() -> impl Strategy<Value = Turns> {
    (text(), status()).prop_map(|(sql, status)| {
        let described = [message(b'1', b""), message(b't', &[0, 0]), message(b'n', b"")].concat();
        let ran = [message(b'2', b""), one_row(), ready(status)].concat();
        vec![
            ([parse("s_1", &sql), describe("s_1"), flush()].concat(), described),
            ([bind("s_1", &["7"]), execute(), sync()].concat(), ran),
        ]
    })
}

fn exchange() -> impl Strategy<Value = Turns> {
    prop_oneof![simple(), batch(), copy_in(), copy_out(), call(), prepare()]
}

/// So few messages, also with their headers in pieces, that every way of walking them reaches their end.
fn few(of: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    vec(select(of), 0..=PASS_STEPS as usize / 2).prop_map(|messages| messages.concat())
}

fn few_sent() -> impl Strategy<Value = Vec<u8>> {
    let long = "x".repeat(300);
    few(vec![
        query("select 1"),
        query(&long),
        parse("s_1", "select 1"),
        parse("a name of more than sixteen bytes", &long),
        bind("s_1", &["7"]),
        bind("a name of more than sixteen bytes", &[&long]),
        bind(&long[..70], &[]),
        describe("s_1"),
        execute(),
        flush(),
        function_call(),
        sync(),
        copy_data(b"1"),
        copy_done(),
        b"?\0\0\0\x04".to_vec(),
    ])
}

fn few_received() -> impl Strategy<Value = Vec<u8>> {
    few(vec![
        row_description(),
        row("1"),
        row(&"x".repeat(300)),
        complete("SELECT 1"),
        error("no"),
        notice(),
        message(b'1', b""),
        message(b'2', b""),
        message(b'K', &[0, 0, 0, 9, 0, 0, 0, 8]),
        copy_response(b'G'),
        copy_response(b'H'),
        copy_response(b'W'),
        ready(b'I'),
        ready(b'T'),
        ready(b'?'),
        b"?\0\0\0\x04".to_vec(),
    ])
}

/// What a wire says, without where its last calls were walked to.
fn said(peer: &Peer) -> Wire {
    let mut wire = peer.wire;
    for stream in [&mut wire.send, &mut wire.recv] {
        stream.segments = Segments::default();
    }
    Wire { text_at: 0, text_left: 0, bind_at: 0, bind_left: 0, ..wire }
}

/// Where to cut bytes: parts of these sizes, again and again.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1usize..8, 8usize..64, 64usize..5_000], 1..6)
}

fn parts<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, behind) = rest.split_at((*cut).min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts
}

fn last_status(answer: &[u8]) -> Option<char> {
    let status = answer.len() - 1;
    answer[..status].ends_with(b"Z\0\0\0\x05").then(|| char::from(answer[status]))
}

/// One of these many messages, complete, answered each by one ReadyForQuery.
fn requests() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let request = prop_oneof![
        (text(), status())
            .prop_map(|(sql, status)| { (query(&sql), [complete("SET"), ready(status)].concat()) }),
        (text(), status()).prop_map(|(value, status)| {
            let client = [bind("s_1", &[&value]), execute(), sync()].concat();
            (client, [message(b'2', b""), complete("INSERT 0 1"), ready(status)].concat())
        }),
        status()
            .prop_map(|status| (function_call(), [message(b'V', &[0; 4]), ready(status)].concat())),
    ];
    vec(request, 1..12)
}

proptest! {
    #[test]
    fn a_client_that_waits_is_idle_after_each_answer_however_it_is_cut(
        exchanges in vec(exchange(), 1..5),
        sends in cuts(),
        buffers in cuts(),
        receives in cuts(),
        existing in any::<bool>(),
    ) {
        let mut peer = if existing { Peer::existing() } else { Peer::ready() };
        for (client, server) in exchanges.iter().flatten() {
            for send in parts(client, &sends) {
                peer.send_parts(&parts(send, &buffers));
            }
            for receive in parts(server, &receives) {
                peer.receive(receive);
            }
            if let Some(status) = last_status(server) {
                prop_assert_eq!(peer.idle(), Some(status));
            }
        }
    }

    #[test]
    fn what_is_at_hand_changes_the_price_and_nothing_else(
        turns in vec((few_sent(), few_received()), 1..4),
        sends in cuts(),
        receives in cuts(),
        window in prop_oneof![0u64..300, Just(255)],
    ) {
        let (mut plain, mut near) = (Peer::ready(), Peer::ready());
        plain.memory.window_bytes = 0;
        near.memory.window_bytes = window;
        for (client, server) in &turns {
            for send in parts(client, &sends) {
                plain.send(send);
                near.send(send);
                prop_assert_eq!(said(&plain), said(&near));
                prop_assert_eq!(plain.statement(), near.statement());
            }
            for receive in parts(server, &receives) {
                plain.receive(receive);
                near.receive(receive);
                prop_assert_eq!(said(&plain), said(&near));
            }
        }
    }

    #[test]
    fn a_client_that_waits_is_active_until_its_answer_has_ended(
        exchanges in vec(exchange(), 1..5),
        buffers in cuts(),
        receives in cuts(),
    ) {
        let mut peer = Peer::ready();
        for (client, server) in exchanges.iter().flatten() {
            // Whole messages, one or several buffers to a send.
            for message in messages(client) {
                peer.send_parts(&parts(message, &buffers)[..1]);
                let rest = &message[parts(message, &buffers)[0].len()..];
                if !rest.is_empty() {
                    peer.send(rest);
                }
            }
            let owed = last_status(server).is_some();
            for receive in parts(server, &receives) {
                prop_assert!(!owed || peer.wire.pending() == 1, "{}", peer.wire.pending());
                peer.receive(receive);
            }
            prop_assert!(!owed || peer.wire.pending() == 0);
        }
        prop_assert!(!peer.marked(MARK_RESYNCED));
    }

    #[test]
    fn a_pipeline_is_counted_exactly_while_it_can_be_walked(
        requests in requests(),
        sends in vec(1usize..4, 1..4),
        receives in vec(1usize..5, 1..4),
        cut in any::<prop::sample::Index>(),
        ahead in 0usize..6,
    ) {
        // Some requests to a send and some answers to a receive, each up to 16 messages; one of
        // the receives is cut anywhere.
        let mut peer = Peer::ready();
        let (mut sent, mut answered) = (0, 0);
        let (mut send, mut receive) = (sends.iter().cycle(), receives.iter().cycle());
        while answered < requests.len() {
            if sent < requests.len() && sent <= answered + ahead {
                let end = (sent + send.next().expect("short in tests")).min(requests.len());
                let bytes: Vec<u8> = requests[sent..end].iter().flat_map(|it| it.0.clone()).collect();
                peer.send(&bytes);
                sent = end;
            } else {
                let end = (answered + receive.next().expect("short in tests")).min(sent);
                let bytes: Vec<u8> =
                    requests[answered..end].iter().flat_map(|it| it.1.clone()).collect();
                let (one, two) = bytes.split_at(cut.index(bytes.len()));
                if !one.is_empty() {
                    peer.receive(one);
                }
                peer.receive(two);
                answered = end;
                prop_assert_eq!(peer.wire.status, *bytes.last().expect("short in tests"));
            }
            prop_assert_eq!(peer.wire.pending(), (sent - answered) as i32);
        }
        prop_assert!(!peer.marked(MARK_RESYNCED));
    }

    #[test]
    fn a_pipeline_of_any_length_is_settled_by_its_last_answer(
        requests in requests(),
        repeat in 1usize..12,
        sends in cuts(),
        receives in cuts(),
    ) {
        let client: Vec<u8> = requests.iter().flat_map(|it| it.0.clone()).collect();
        let server: Vec<u8> = requests.iter().flat_map(|it| it.1.clone()).collect();
        let mut peer = Peer::ready();
        for _ in 0..3 {
            for send in parts(&client.repeat(repeat), &sends) {
                peer.send(send);
            }
            for receive in parts(&server.repeat(repeat), &receives) {
                peer.receive(receive);
            }
            prop_assert_eq!(peer.idle(), Some(char::from(*server.last().expect("short in tests"))));
        }
        peer.send(&query("SELECT 1"));
        prop_assert_eq!(peer.wire.pending(), 1);
    }

    #[test]
    fn the_order_of_two_reports_does_not_change_what_they_settle(
        requests in requests(),
        swapped in any::<u16>(),
    ) {
        let mut ordered = Peer::ready();
        let mut raced = Peer::ready();
        for (index, (client, server)) in requests.iter().enumerate() {
            ordered.send(client);
            ordered.receive(server);
            if swapped & (1 << index) == 0 {
                raced.send(client);
                raced.receive(server);
            } else {
                raced.receive(server);
                raced.send(client);
            }
            prop_assert_eq!(known(&ordered.wire), known(&raced.wire));
        }
    }

    #[test]
    fn cutting_a_short_send_anywhere_does_not_change_what_it_counts(
        requests in requests(),
        cut in any::<prop::sample::Index>(),
    ) {
        let client: Vec<u8> = requests.iter().take(3).flat_map(|it| it.0.clone()).collect();
        let (one, two) = client.split_at(1 + cut.index(client.len() - 1));
        let mut whole = Peer::ready();
        whole.send(&client);
        let mut sends = Peer::ready();
        sends.send(one);
        if !two.is_empty() {
            sends.send(two);
        }
        let mut buffers = Peer::ready();
        buffers.send_parts(&[one, two]);
        prop_assert_eq!(known(&whole.wire), known(&sends.wire));
        prop_assert_eq!(known(&whole.wire), known(&buffers.wire));
    }

    #[test]
    fn bytes_of_any_shape_are_bounded_and_never_read_beyond_their_buffers(
        phase in PHASE_NEW..=PHASE_FOREIGN,
        calls in vec((any::<bool>(), shapeless(), cuts(), any::<bool>()), 1..12),
    ) {
        let stream = Stream { synced: 1, ..Stream::default() };
        let mut peer =
            Peer::with(Wire { phase, send: stream, recv: stream, ..Wire::default() });
        for (send, bytes, cuts, several) in calls {
            // Peer itself refuses reads outside of the buffers.
            match (send, several) {
                (true, true) => peer.send_parts(&parts(&bytes, &cuts)),
                (true, false) => peer.send(&bytes),
                (false, true) => peer.receive_parts(&parts(&bytes, &cuts)),
                (false, false) => peer.receive(&bytes),
            }
            prop_assert!(peer.memory.reads <= MAX_READS, "{} reads", peer.memory.reads);
            prop_assert!(matches!(peer.wire.status, 0 | b'I' | b'T' | b'E'));
            prop_assert!(peer.wire.phase <= PHASE_FOREIGN);
        }
    }

    #[test]
    fn a_session_recovers_from_sends_of_any_shape_at_the_end_of_an_answer(
        sends in vec(shapeless(), 1..8),
        status in status(),
    ) {
        let mut peer = Peer::ready();
        // Out of step, and known to be.
        peer.send(&[0; 5]);
        for send in &sends {
            peer.send(send);
        }
        peer.receive(&[one_row(), ready(status)].concat());
        prop_assert_eq!(peer.idle(), Some(char::from(status)));
        for _ in 0..2 {
            peer.send(&query("SELECT 1"));
            prop_assert_eq!(peer.wire.pending(), 1);
            peer.receive(&[one_row(), ready(b'I')].concat());
            prop_assert_eq!(peer.idle(), Some('I'));
        }
    }

    #[test]
    fn arrays_of_buffers_anywhere_are_only_followed_by_reading(
        entries in vec((address(), address()), 0..20),
        count in prop_oneof![0u64..24, any::<u64>()],
        len in prop_oneof![1u64..4_096, any::<u64>()],
        send in any::<bool>(),
        starting in any::<bool>(),
    ) {
        let mut peer = if starting { Peer::new() } else { Peer::ready() };
        peer.memory.begin();
        let text = query("SELECT 1");
        let at = peer.memory.put(&text);
        let mut array = Vec::new();
        for (base, len) in entries {
            // Some entries name bytes that are there.
            array.extend(base.unwrap_or(at).to_ne_bytes());
            array.extend(len.unwrap_or(text.len() as u64).to_ne_bytes());
        }
        let array = peer.memory.put(&array);
        peer.memory.roam = true;
        let segments = Segments::vector(array, count, len);
        if send { peer.sent(segments) } else { peer.received(segments) }
        prop_assert!(peer.memory.reads <= MAX_READS);
    }
}

/// Whole messages of well-formed bytes.
fn messages(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[1..5].try_into().expect("short in tests")) as usize;
        let (message, behind) = rest.split_at(len + 1);
        messages.push(message);
        rest = behind;
    }
    messages
}

/// What is known of a session, without positions in memory.
fn known(wire: &Wire) -> [u32; 8] {
    [
        wire.phase,
        wire.syncs,
        wire.readies,
        wire.status.into(),
        wire.last_frontend.into(),
        wire.last_backend.into(),
        wire.statements,
        wire.marks & MARK_RESYNCED,
    ]
}

/// An address, or the one of bytes that are there.
fn address() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        Just(None),
        any::<u64>().prop_map(Some),
        (0u64..64).prop_map(|below| Some(u64::MAX - below)),
        (0u64..64).prop_map(Some),
    ]
}

/// Bytes that are protocol, nearly protocol, or anything.
fn shapeless() -> impl Strategy<Value = Vec<u8>> {
    let header = (select(b"QPBDECHSFXpdcf1AGIKNRTVWZns\0\x16".to_vec()), 0u32..40, text())
        .prop_map(|(kind, len, text)| [&[kind][..], &len.to_be_bytes(), text.as_bytes()].concat());
    let piece = prop_oneof![
        header,
        vec(any::<u8>(), 1..40),
        select(vec![
            ready(b'I'),
            ready(b'?'),
            sync(),
            query("SELECT 1"),
            bind("s", &[]),
            startup(),
            startup_answer(13, 1),
            vec![0; 20],
            copy_response(b'G'),
        ]),
    ];
    (vec(piece, 1..30), 0usize..12).prop_map(|(pieces, cut)| {
        let mut bytes = pieces.concat();
        // Not always whole.
        bytes.drain(..cut.min(bytes.len() - 1));
        bytes
    })
}
