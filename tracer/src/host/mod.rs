//! What the host and its processes say: /proc, namespaces, sock_diag, BTF, kernel features.
//!
//! May import [`crate::model`]'s plain types, `binary`'s table of runtimes and the contract; no
//! aya, no `unsafe`. Invariants: it reads and never writes; what a process can choose (its name,
//! paths, cgroup, maps) is parsed totally and read up to a limit; a process that ends while it is
//! read is an absence, never an error.

pub mod btf;
pub mod clock;
pub mod doctor;
pub mod facts;
pub mod proc;
pub mod sockets;
