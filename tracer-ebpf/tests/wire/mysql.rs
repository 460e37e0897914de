//! MySQL: told by who speaks first, then direction, time and the first byte of commands.

use tracer_ebpf::wire::{
    MARK_COPY_BOTH, PHASE_ENCRYPTED, PHASE_FOREIGN, PHASE_GREETED, PHASE_MYSQL, PHASE_NEW,
    PHASE_READY, mysql::STMT_CLOSE,
};

use super::{
    messages::{query, ready, startup, startup_answer},
    peer::Peer,
};

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    [&len[..3], &[sequence], payload].concat()
}

fn greeting() -> Vec<u8> {
    packet(0, &[b"\x0a10.11.19-MariaDB\0", &[7; 60][..]].concat())
}

fn login() -> Vec<u8> {
    packet(1, &[&[0; 32][..], b"app\0\x03abcshop\0"].concat())
}

fn ok(sequence: u8) -> Vec<u8> {
    packet(sequence, &[0, 0, 0, 2, 0, 0, 0])
}

fn command(command: u8, rest: &[u8]) -> Vec<u8> {
    packet(0, &[&[command], rest].concat())
}

/// Logged in, with nothing asked yet.
fn logged_in() -> Peer {
    let mut peer = Peer::new();
    peer.receive(&greeting());
    peer.send(&login());
    peer.receive(&ok(2));
    peer
}

#[test]
fn a_login_is_no_use_and_its_parameters_are_kept() {
    let peer = logged_in();
    assert_eq!((peer.wire.phase, peer.wire.statements), (PHASE_GREETED, 0));
    assert_eq!(peer.memory.startup, login()[4..]);
    assert!(peer.wire.settled());
}

#[test]
fn a_command_is_a_use_and_its_answer_settles_it() {
    let mut peer = logged_in();
    peer.uses = 0;
    for count in 1..=3 {
        peer.send(&command(3, b"select 1"));
        assert_eq!((peer.wire.phase, peer.wire.statements, peer.uses), (PHASE_MYSQL, count, count));
        assert!(!peer.wire.settled());
        peer.receive(&[packet(1, &[1]), packet(2, b"column"), packet(3, b"\x011"), ok(4)].concat());
        assert!(peer.wire.settled());
    }
}

#[test]
fn drivers_own_commands_are_no_statements() {
    let mut peer = logged_in();
    for quiet in [0x0e, STMT_CLOSE, 0x1f, 0x01] {
        peer.send(&command(quiet, &[]));
    }
    assert_eq!(peer.wire.statements, 0);
    peer.send(&command(0x12, &[0; 10]));
    assert!(peer.marked(MARK_COPY_BOTH));
}

#[test]
fn a_greeting_whose_header_is_read_alone_is_one() {
    let mut peer = Peer::new();
    let greeting = greeting();
    let (header, rest) = greeting.split_at(4);
    peer.receive(header);
    peer.receive(rest);
    assert_eq!(peer.wire.phase, PHASE_GREETED);
}

#[test]
fn after_a_request_for_tls_nothing_is_read() {
    let mut peer = Peer::new();
    peer.receive(&greeting());
    peer.send(&packet(1, &[0; 32]));
    assert_eq!(peer.wire.phase, PHASE_ENCRYPTED);
}

#[test]
fn other_servers_that_speak_first_are_no_mysql() {
    for first in [&b"220 mail ESMTP\r\n"[..], b"SSH-2.0-OpenSSH\r\n", b"\0\0\0", b"+OK\r\n"] {
        let mut peer = Peer::new();
        peer.receive(first);
        assert_eq!(peer.wire.phase, PHASE_NEW, "{first:?}");
    }
    let mut peer = Peer::new();
    peer.receive(b"220 mail ESMTP\r\n");
    peer.send(b"EHLO localhost\r\n");
    assert_eq!(peer.wire.phase, PHASE_FOREIGN);
}

#[test]
fn postgresql_is_what_it_was() {
    let mut peer = Peer::new();
    peer.send(&startup());
    peer.receive(&startup_answer(3, 4242));
    peer.send(&query("select 1"));
    peer.receive(&ready(b'I'));
    assert_eq!((peer.wire.phase, peer.wire.statements), (PHASE_READY, 1));
}
