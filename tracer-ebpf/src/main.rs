//! The eBPF object: the kernel side of connleak.
//!
//! Three programs see what moves over sockets and how TCP connections come and go; on kernels without such
//! hooks, and for what these do not see, one sees every system call at its exit. In both, the saved user
//! registers still hold the call's arguments. One stands by while there is nothing to watch; three follow
//! processes; a numbered set is attached to pool functions. Everything is
//! read-only towards the traced processes, bounded (see [`tracer_ebpf::limits`]) and counts what
//! it cannot keep.
//!
//! Hooks are typed tracepoints (`tp_btf`, kernel 5.5) and uprobes only, so kernels without ftrace
//! or kprobes work. Nothing needs a helper newer than kernel 5.8 (ring buffer), but for the hooks on
//! sockets, which ask for the saved registers (5.15).
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "kernel memory, user memory and map values are reached by pointer")]

mod bpf {
    //! The programs and what they share.
    pub mod count;
    pub mod maps;
    pub mod marks;
    pub mod memory;
    pub mod node;
    pub mod pools;
    pub mod processes;
    pub mod python;
    pub mod socket_hooks;
    pub mod sockets;
    pub mod stacks;
    pub mod standby;
    pub mod syscalls;
    pub mod transfer;
    pub mod waits;
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no panic is reachable: a reachable one would not load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
