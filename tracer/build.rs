//! Tells the user side where the eBPF object is that it embeds.
//!
//! The object is built by `cargo xtask build`, which needs another toolchain; this script only
//! checks that it is there, where the tasks say that it is. `CONNLEAK_BPF_OBJECT` names another
//! object. `CONNLEAK_SKIP_BPF=1` embeds an empty one, for checks and documentation on machines that
//! cannot build it.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../xtask/src/workspace.rs"]
#[expect(dead_code, reason = "the other places are the tasks' and the tests'")]
mod workspace;

fn main() {
    println!("cargo::rerun-if-env-changed=CONNLEAK_BPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CONNLEAK_SKIP_BPF");
    println!("cargo::rerun-if-env-changed={}", workspace::TARGET_DIR);
    let object = if env::var_os("CONNLEAK_SKIP_BPF").is_some_and(|value| value == "1") {
        empty_object()
    } else {
        built_object()
    };
    match object {
        Ok(path) => println!("cargo::rustc-env=CONNLEAK_BPF_OBJECT={}", path.display()),
        Err(sentence) => println!("cargo::error={sentence}"),
    }
}

fn built_object() -> Result<PathBuf, String> {
    let path = match env::var_os("CONNLEAK_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => workspace::bpf_object(),
    };
    println!("cargo::rerun-if-changed={}", path.display());
    path.canonicalize().map_err(|error| {
        format!("the eBPF object {} is missing ({error}): run `cargo xtask build`", path.display())
    })
}

fn empty_object() -> Result<PathBuf, String> {
    let dir = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;
    let path = Path::new(&dir).join("empty.bpf.o");
    fs::write(&path, []).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(path)
}
