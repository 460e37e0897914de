//! The hooks on sockets: tracepoints that the kernel passes when bytes have moved over one, and when a TCP
//! connection has changed its state.
//!
//! May import nothing. They cost nothing to what a process does besides, where the hook on system calls
//! slows all of them down. But they see no descriptors, no Unix sockets' opening and closing, no peer's
//! port as the process asked for it where something rewrote it, and no receive of no bytes, which a process
//! [marks](crate::mark) a checkout with; so the hook on system calls takes their place where one of these is
//! needed.

/// Tracepoints of the sends and the receives of any socket: the socket, the result, and of a receive the
/// flags (Linux 6.3, `include/trace/events/sock.h`).
pub const SENDS: &str = "sock_send_length";
pub const RECEIVES: &str = "sock_recv_length";
/// That of a TCP connection's states (Linux 4.16).
pub const STATES: &str = "inet_sock_set_state";

/// The beginning of `struct sock`, where ports have been since Linux 3.13. Programs read it as it is, as
/// that costs them nothing, so user space sees first whether it is so.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SockHead {
    pub _pad: [u8; 12],
    /// The peer's port in network order.
    pub dport: u16,
    /// The local port in host order.
    pub num: u16,
}

/// States that matter (Linux `include/net/tcp_states.h`).
pub const ESTABLISHED: i32 = 1;
pub const SYN_SENT: i32 = 2;
pub const FIN_WAIT1: i32 = 4;
pub const CLOSE: i32 = 7;
pub const LAST_ACK: i32 = 9;

/// Who follows sends and receives: the value of the map `MODE`. Both kinds of hooks are attached for a
/// moment when one takes the other's place.
pub const BY_SOCKET: u32 = 0;
pub const BY_CALL: u32 = 1;
