//! The kernel side's form of a connection that existed before it was loaded.
//!
//! May import the contract, and the host's and the model's types. Pure. Invariant: what is not known of
//! it says so, and no time is made up.

use std::net::IpAddr;

use tracer_ebpf::{
    conn::{AF_INET, AF_INET6, AF_UNIX, Conn, FLAG_EOF, FLAG_EXISTED},
    limits::{STARTUP_BYTES, STATEMENT_BYTES},
    stack::KINDS,
    wire::{PHASE_UNKNOWN, Wire},
};

use crate::{
    host::sockets::{ListedSocket, State},
    model::Peer,
};

/// A connection as the kernel listed it, held by `pid` as descriptor `fd`.
pub(super) fn existing_conn(socket: &ListedSocket, pid: u32, fd: i32) -> Conn {
    let mut peer_addr = [0; 16];
    let mut family = socket.family;
    let peer_port = match &socket.peer {
        Peer::Tcp { addr, port } => {
            match addr.parse() {
                Ok(IpAddr::V4(addr)) => {
                    peer_addr[..4].copy_from_slice(&addr.octets());
                    family = AF_INET;
                }
                Ok(IpAddr::V6(addr)) => {
                    peer_addr = addr.octets();
                    family = AF_INET6;
                }
                Err(_) => {}
            }
            *port
        }
        Peer::Unix { port, .. } => {
            family = AF_UNIX;
            *port
        }
    };
    let closed = if socket.status.state == State::PeerClosed { FLAG_EOF } else { 0 };
    Conn {
        generation: 0,
        tgid: pid,
        tid: 0,
        fd,
        opened_at: 0,
        inode: socket.inode,
        netns: socket.netns,
        flags: FLAG_EXISTED | closed,
        family,
        peer_port,
        local_port: socket.local_port.unwrap_or(0),
        _pad: 0,
        peer_addr,
        pool: 0,
        held: 0,
        checkouts: 0,
        handle: 0,
        pool_instance: 0,
        acquired_at: 0,
        released_at: 0,
        acquire_tid: 0,
        epoch: 0,
        stacks: [0; KINDS],
        stack_class: 0,
        goid: 0,
        stack_tid: 0,
        runtime: tracer_ebpf::runtime::NONE,
        stack_end: 0,
        sock: 0,
        wire: Wire { phase: PHASE_UNKNOWN, ..Wire::default() },
        startup_len: 0,
        statement_len: 0,
        startup: [0; STARTUP_BYTES],
        statement: [0; STATEMENT_BYTES],
    }
}
