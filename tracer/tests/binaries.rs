//! Readers of executables against real ones: what the Go toolchains, a C compiler and the
//! system's libraries make.
//!
//! Needs the toolchains and clients that `cargo xtask setup` provides; a missing one fails the
//! test.

#[path = "binaries/build.rs"]
mod build;
#[path = "binaries/goroutines.rs"]
mod goroutines;
#[path = "binaries/hostile.rs"]
mod hostile;
#[path = "binaries/pools.rs"]
mod pools;
#[path = "binaries/table.rs"]
mod table;
