//! Where things are: the checkout, its target directory, and what the tasks keep there.
//!
//! Owns every path below `target/` that is not cargo's own. Reads and writes nothing.

use std::path::{Path, PathBuf};

/// The root of the checkout.
#[must_use]
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// What the tasks keep between runs. Always below the checkout, wherever cargo's own artefacts
/// are told to go, so that `tracer/build.rs` finds the eBPF object without being told.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// The eBPF object that `tracer/build.rs` embeds.
#[must_use]
pub fn bpf_object() -> PathBuf {
    target().join("bpf/connleak.bpf.o")
}

/// A pinned tool's own installation directory.
#[must_use]
pub fn tool(name: &str, version: &str) -> PathBuf {
    target().join("tools").join(format!("{name}-{version}"))
}
