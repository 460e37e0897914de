//! `cargo xtask build`: the eBPF object, then the user binary that embeds it.
//!
//! The two halves have different compilers, flags and target directories; only the object file
//! passes between them, and it is replaced only when it changed, so that an unchanged kernel side
//! never rebuilds the user side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use object::build::elf;
use object::elf::SHT_STRTAB;
use xtask::{sh, workspace};

use crate::setup::{self, Group};
use crate::toolchain::{self, Compiler, TARGET};

/// Build the eBPF object and the `connleak` binary
#[derive(clap::Args, Clone, Copy, Default)]
// Two groups called `Options` would meet where another task flattens this one.
#[group(skip)]
pub struct Options {
    /// Optimise the binary (the eBPF object always is)
    #[arg(long)]
    pub release: bool,
}

/// Builds both and prints where the binary is.
pub fn run(options: Options) -> Result<()> {
    let binary = connleak(options)?;
    println!("{}", binary.display());
    Ok(())
}

/// Builds both and gives the binary's path.
pub fn connleak(options: Options) -> Result<PathBuf> {
    object()?;
    let mut command = sh::cargo();
    command.args(["build", "--package", "tracer", "--bin", "connleak"]);
    if options.release {
        command.arg("--release");
    }
    let binary = executables(&mut command)?.into_iter().next();
    Ok(binary.context("cargo built no executable called connleak")?.1)
}

/// Builds the eBPF object at [`workspace::bpf_object`].
pub fn object() -> Result<()> {
    setup::ensure(Group::Build)?;
    let compiler = Compiler::find().context("no eBPF compiler after setup")?;
    let linker = toolchain::linker_dir().context("no bpf-linker after setup")?;
    let target = workspace::target().join("bpf");
    let mut command = compiler.cargo();
    command
        .args(["build", "--package", "tracer-ebpf", "--bin", "connleak-bpf"])
        .args(["--features", "bpf", "--release", "--target", TARGET])
        .current_dir(workspace::root())
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"))
        .env("PATH", toolchain::path_with(&linker)?);
    match compiler {
        Compiler::Nightly => command.args(["-Z", "build-std=core"]),
        // aya-ebpf alone needs an unstable feature (asm_experimental_arch).
        Compiler::Distribution => command.env("RUSTC_BOOTSTRAP", "aya_ebpf"),
    };
    sh::run(&mut command)?;
    let built = target.join(TARGET).join("release/connleak-bpf");
    let built = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let object = without_debug_sections(&built).context("taking debug information out")?;
    replace_if_changed(&object, &workspace::bpf_object())
}

/// The object without what the kernel has no use for: three quarters of it, which the loader would read
/// through in memory. BTF is made from debug information, so it cannot be left out before.
fn without_debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = elf::Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table, the writer in two.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

fn rustflags() -> [String; 4] {
    [
        // aya-ebpf picks the layout of saved registers by the architecture it will run on.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Else numbers at odd places of a packet are put together byte by byte. The kernel allows
        // it where the processor does (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".into(),
    ]
}

fn replace_if_changed(new: &[u8], to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

/// Runs a cargo build command and gives the executables it made or found fresh, by target name.
pub fn executables(command: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    command.arg("--message-format=json-render-diagnostics").current_dir(workspace::root());
    command.stdin(Stdio::null());
    let mut found = Vec::new();
    for line in sh::output(command)?.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("reading cargo's messages")?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}
