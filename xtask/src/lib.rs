//! What the tasks of `main.rs` and the integration tests of `tracer` share.
//!
//! The tests need the same throwaway PostgreSQL and the same pinned clients as the demo, so both
//! live here once. Nothing in this crate is part of the product.

pub mod clients;
pub mod mysql;
pub mod postgres;
pub mod sh;
pub mod workspace;
