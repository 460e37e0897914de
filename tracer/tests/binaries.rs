//! Readers of executables against real ones: what the Go toolchains, a C compiler and the
//! system's libraries make.
//!
//! Needs the toolchains that `cargo xtask setup` provides; a missing one fails the test.

#[path = "binaries/build.rs"]
mod build;
#[path = "binaries/table.rs"]
mod table;
