//! Standing by: noticing the first connection while system calls are not watched.
//!
//! The hook on system calls costs every process of the host a little, so user space attaches it
//! only while there is something to watch. Until then this program, on a tracepoint that fires
//! when a TCP connection changes its state, wakes user space at the first one to a watched port.
//!
//! May import the maps, `count`, `memory` and `sockets`.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use tracer_ebpf::record::{CONNECT, Record};

use super::{
    count::{emit, now},
    maps::CONFIG,
    memory::kernel,
    sockets::is_watched_port,
};

/// State of a connection that was asked for (kernel `include/net/tcp_states.h`).
const TCP_SYN_SENT: i32 = 2;

/// A TCP socket changed its state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn on_tcp_state(ctx: BtfTracePointContext) -> u32 {
    let state: i32 = ctx.arg(2);
    if state != TCP_SYN_SENT {
        return 0;
    }
    let Some(config) = CONFIG.get(0) else { return 0 };
    let sock: u64 = ctx.arg(0);
    let Some(port) = kernel::<u16>(sock + u64::from(config.off.sock_dport)) else { return 0 };
    if is_watched_port(config, u16::from_be(port)) {
        // Within `connect`, so this is the process that called it.
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        emit(Record { kind: CONNECT, tgid, at: now(), ..Record::default() }, true);
    }
    0
}
