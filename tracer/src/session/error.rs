//! Why a capture cannot start or go on: one sentence each, with the object and what to do.

use crate::{loader::LoadError, pools::CatalogueError};

/// A failure of a capture.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A process was named that does not exist.
    #[error("there is no process {0}: check the pid (that of the host, not of a container)")]
    NoProcess(u32),
    #[error("cannot read /proc: {0}; mount it with `mount -t proc proc /proc`")]
    Proc(String),
    #[error("cannot wait for events: {0}")]
    Wait(std::io::Error),
    #[error("the clock gave a time that cannot be waited for")]
    Clock,
    #[error("cannot write the recording: {0}")]
    Sink(std::io::Error),
}
