//! Finding the compiler and the linker that make an eBPF object.
//!
//! Two compilers can: rustup's nightly with `rust-src`, which builds `core` itself and is the
//! normal way on a developer's machine, and Debian's own Rust with its prebuilt `core`. Looks
//! only; [`crate::setup`] installs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::{sh, workspace};

use crate::needs;

/// The target of the eBPF object: every machine that is supported is little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// A compiler that can make eBPF objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// rustup's nightly with `rust-src`.
    Nightly,
    /// The distribution's Rust, with a prebuilt `core` for eBPF.
    Distribution,
}

impl Compiler {
    /// The compiler to use, or `None` where there is none yet.
    #[must_use]
    pub fn find() -> Option<Self> {
        [Self::Nightly, Self::Distribution].into_iter().find(|compiler| compiler.is_complete())
    }

    fn is_complete(self) -> bool {
        match self {
            Self::Nightly => sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))
                .is_some_and(|root| {
                    root.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
                }),
            Self::Distribution => {
                Path::new(DEBIAN_CARGO).exists()
                    && sysroot(&mut Command::new(DEBIAN_RUSTC))
                        .is_some_and(|root| root.join("lib/rustlib").join(TARGET).exists())
            }
        }
    }

    /// One line for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Distribution => "the distribution's rustc with a prebuilt core for eBPF",
        }
    }

    /// Its cargo, free of what the cargo that runs us has put into the environment.
    #[must_use]
    pub fn cargo(self) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Distribution => {
                let mut command = Command::new(DEBIAN_CARGO);
                command.env("RUSTC", DEBIAN_RUSTC);
                command
            }
        };
        if self == Self::Nightly {
            command.env_remove("RUSTC");
        }
        for name in ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(name);
        }
        command
    }

    /// The LLVM that it emits bitcode of; the linker must be built against this one or later.
    ///
    /// # Errors
    /// When the compiler cannot be run or does not say.
    pub fn llvm_major(self) -> Result<u32> {
        let mut rustc = match self {
            Self::Nightly => Command::new("rustup"),
            Self::Distribution => Command::new(DEBIAN_RUSTC),
        };
        if self == Self::Nightly {
            rustc.args(["run", "nightly", "rustc"]);
        }
        let version = sh::output(rustc.arg("-vV").env_remove("LD_LIBRARY_PATH"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = llvm.and_then(|llvm| llvm.split('.').next()?.trim().parse().ok());
        major.context("`rustc -vV` names no LLVM version")
    }
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).env_remove("LD_LIBRARY_PATH").output().ok()?;
    let path = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(PathBuf::from(path.trim()))
}

/// The directory of a `bpf-linker` of the pinned version: our own, else the one on `PATH`.
#[must_use]
pub fn linker_dir() -> Option<PathBuf> {
    let own = workspace::tool("bpf-linker", needs::BPF_LINKER).join("bin");
    if own.join("bpf-linker").exists() {
        return Some(own);
    }
    let found = sh::which("bpf-linker")?;
    let version = Command::new(&found).arg("--version").output().ok()?;
    let version = String::from_utf8(version.stdout).ok()?;
    let pinned = version.split_whitespace().any(|word| word == needs::BPF_LINKER);
    pinned.then(|| found.parent().map(Path::to_path_buf))?
}

/// A `cargo-deny`: our own of the pinned version, else the one on `PATH`.
#[must_use]
pub fn cargo_deny() -> Option<PathBuf> {
    let own = workspace::tool("cargo-deny", needs::CARGO_DENY).join("bin/cargo-deny");
    if own.exists() { Some(own) } else { sh::which("cargo-deny") }
}

/// An LLVM to build the linker against: the compiler's own major first, then later ones.
#[must_use]
pub fn llvm_prefix(major: u32) -> Option<(u32, PathBuf)> {
    let usable = needs::BPF_LINKER_LLVM.iter().copied().filter(|candidate| *candidate >= major);
    usable.map(|major| (major, PathBuf::from(format!("/usr/lib/llvm-{major}")))).find(
        |(_, prefix)| {
            prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c").exists()
        },
    )
}

/// `PATH` with `dir` in front.
///
/// # Errors
/// When `dir` has a colon in its name.
pub fn path_with(dir: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).with_context(|| format!("{} cannot be on PATH", dir.display()))
}

/// Whether this is Debian or made from it.
#[must_use]
pub fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .any(|ids| ids.trim_matches('"').split_whitespace().any(|id| id == "debian"))
}
