//! Where things are: the checkout, the target directory, and what the tasks keep there.
//!
//! Owns every path in the target directory that is not cargo's own. Also compiled into the build
//! script of `tracer`, which looks for the eBPF object here. May import `std` only; reads the
//! environment and nothing else.

use std::env;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The variable that moves the target directory, as cargo knows it.
pub const TARGET_DIR: &str = "CARGO_TARGET_DIR";

/// The variable in which cargo says whose program it runs.
pub const MANIFEST_DIR: &str = "CARGO_MANIFEST_DIR";

/// The root of the checkout. As cargo says it when it runs us, for it may run what it compiled for
/// another checkout with the same target directory.
#[must_use]
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let compiled = || env!("CARGO_MANIFEST_DIR").into();
        let manifest = PathBuf::from(env::var_os(MANIFEST_DIR).unwrap_or_else(compiled));
        manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
    });
    &ROOT
}

/// Where cargo puts what it builds, and the tasks what they keep between runs: `target` or what
/// `CARGO_TARGET_DIR` says. A relative one begins at the checkout's root, for tests and build
/// scripts run in other directories than the command that starts them.
#[must_use]
pub fn target() -> PathBuf {
    let named = env::var_os(TARGET_DIR).filter(|dir| !dir.is_empty());
    root().join(named.unwrap_or_else(|| "target".into()))
}

/// The eBPF object that `tracer/build.rs` embeds. In a target directory that checkouts may share
/// each has its own, lest one embeds what another one built.
#[must_use]
pub fn bpf_object() -> PathBuf {
    let target = target();
    if target.starts_with(root()) {
        return target.join("bpf/connleak.bpf.o");
    }
    let mut hasher = DefaultHasher::new();
    root().hash(&mut hasher);
    target.join(format!("bpf/connleak-{:016x}.bpf.o", hasher.finish()))
}

/// What was installed to build and test with; good for every checkout.
#[must_use]
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// A pinned tool's own installation directory.
#[must_use]
pub fn tool(name: &str, version: &str) -> PathBuf {
    tools().join(format!("{name}-{version}"))
}
