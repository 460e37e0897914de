//! Tells the user side where the eBPF object is that it embeds.
//!
//! The object is built by `cargo xtask build`, which needs another toolchain; this script only
//! checks that it is there. `CONNLEAK_BPF_OBJECT` names another object. `CONNLEAK_SKIP_BPF=1`
//! embeds an empty one, for checks and documentation on machines that cannot build it.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=CONNLEAK_BPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CONNLEAK_SKIP_BPF");
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
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/connleak.bpf.o"),
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
