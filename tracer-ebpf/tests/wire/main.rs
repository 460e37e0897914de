//! The wire walker over recorded shapes of the PostgreSQL protocol (PostgreSQL 18 documentation,
//! sections 54.2 "Message Flow" and 54.7 "Message Formats"), and over bytes of any shape.

mod endings;
mod messages;
mod mysql;
mod peer;
mod properties;
mod sessions;
mod statements;
mod transactions;
