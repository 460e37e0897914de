//! Builds the test programs, once per toolchain and mode.

use std::{
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use xtask::clients;

/// A Go toolchain: the system's, or one that the tasks keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Go 1.19 of Debian 12: the function table's layout of 1.18.
    System,
    /// Go 1.24 of Debian 13: the layout of 1.20, with the text address in the table's header.
    V1_24,
    /// The newest of Debian unstable, 1.26 or later: without that address.
    Newest,
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Default,
    Stripped,
    StrippedPie,
    /// Linked by the C compiler's linker, which moves Go's code within `.text`.
    ExternalPie,
}

/// Each layout of the table with each way to link that changes where it is found.
pub const MATRIX: [(Go, Mode); 7] = [
    (Go::System, Mode::Default),
    (Go::System, Mode::Stripped),
    (Go::System, Mode::ExternalPie),
    (Go::V1_24, Mode::Stripped),
    (Go::Newest, Mode::Default),
    (Go::Newest, Mode::StrippedPie),
    (Go::Newest, Mode::ExternalPie),
];

impl Go {
    /// `GOROOT` of the toolchain.
    pub fn root(self) -> PathBuf {
        let name = match self {
            Self::System => return PathBuf::from("/usr/lib/go"),
            Self::V1_24 => "go-1.24",
            Self::Newest => clients::NEWEST_GO,
        };
        clients::go_root(name).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Its `go`; pgx v5 needs a newer one than the system's.
    fn command(self) -> Command {
        let root = self.root();
        match self {
            Self::Newest => clients::go_of(&root),
            _ => {
                let mut go = clients::go(root.join("bin/go"));
                go.env("GOROOT", root);
                go
            }
        }
    }

    /// Builds the program in `tests/binaries/go/NAME` and gives its path.
    pub fn build(self, name: &str, mode: Mode, more: &[&str]) -> PathBuf {
        // One build at a time: tests want the same programs.
        static BUILDING: Mutex<()> = Mutex::new(());
        let _building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let out = tmp.join(format!("go-{name}-{self:?}-{mode:?}-{:08x}", hash(more)));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/binaries/go").join(name);
        let flags: &[&str] = match mode {
            Mode::Default => &[],
            Mode::Stripped => &["-ldflags=-s -w"],
            Mode::StrippedPie => &["-buildmode=pie", "-ldflags=-s -w"],
            Mode::ExternalPie => &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"],
        };
        let output = self
            .command()
            .arg("build")
            .args(flags)
            .args(more)
            .arg("-o")
            .arg(&out)
            .arg(".")
            .current_dir(source)
            .output()
            .expect("go runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    }
}

/// A number for file names.
pub fn hash(value: &[&str]) -> u32 {
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}

/// Builds the C program in `tests/binaries/c/NAME.c` and gives its path.
pub fn build_c(name: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-{name}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/binaries/c/{name}.c"));
    let status = Command::new("cc").arg("-O2").arg("-o").arg(&out).arg(source).arg("-ldl").status();
    assert!(status.expect("cc runs").success());
    out
}
