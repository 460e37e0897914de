//! `connleak`: which line of whose code took the PostgreSQL connections that never came back.
//!
//! Data goes one way and imports point toward the pure core:
//!
//! ```text
//! kernel maps / ring -> ingest -> model -> report -> text | json
//!                         ^         ^
//!        loader, host, pools,    record (replay)
//!        symbolize
//! ```
//!
//! `model` and `report` do no I/O and read no clock: live and replayed runs differ only in where
//! the [`model::Event`]s come from.

pub mod binary;
pub mod cli;
pub mod host;
pub mod ingest;
pub mod loader;
pub mod model;
pub mod pools;
pub mod recognise;
pub mod record;
pub mod report;
pub mod server;
pub mod session;
pub mod sql;
pub mod symbolize;
