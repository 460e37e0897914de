//! What the real-kernel tests stand on: a PostgreSQL server, clients that do what they are told,
//! and the built `connleak` watching them.
//!
//! May import `std`, `serde_json` and `tempfile`. Invariants: nothing waits for a fixed time; every
//! wait is for a line of output and has a deadline; whatever was started ends with its value, by
//! process id.

pub mod client;
pub mod process;
pub mod report;
pub mod server;
pub mod tracer;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The top of the repository.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace").into()
}

/// How much slower than usual this machine is: 30 in an emulated guest.
pub fn slowness() -> u32 {
    if std::env::var_os(server::PREPARED_DATA).is_some() { 30 } else { 1 }
}

/// How long anything that is not the passing of a threshold may take.
pub fn deadline() -> Duration {
    Duration::from_secs(20) * slowness()
}
