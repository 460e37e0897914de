//! The contract between the kernel side and user space.
//!
//! Owns every layout that crosses the boundary (connections, stack slots, ring records, probe
//! specifications, configuration), every limit, the table of drop reasons, and the pure byte and
//! state logic that the kernel side runs and the host tests: the wire walker and the statement
//! classifier.
//!
//! May import `core` only. Invariants: no I/O, no allocation, no `unsafe`, no panics that the
//! eBPF verifier would have to prove away; layouts are `repr(C)`, made of fixed-width integers
//! with explicit padding, and their size is asserted beside them.
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod conn;
pub mod drops;
pub mod fd;
pub mod limits;
pub mod mark;
pub mod node;
pub mod parts;
pub mod probe;
pub mod python;
pub mod record;
pub mod runtime;
pub mod socket;
pub mod stack;
pub mod statement;
pub mod wait;
pub mod wire;
