//! `cargo xtask setup`: find or install what building and testing need.
//!
//! Every other task calls [`ensure`] for the groups it uses, so no step has to be typed before
//! it. Looking is quick and repeated each time: what is there cannot go stale. Packages come from
//! the distribution where we can install them (Debian, as root or with sudo); the rest goes into
//! the target directory, at pinned versions. Nothing is written into anyone's home.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::{clients, mysql, postgres, sh, workspace};

use crate::go;
use crate::needs::{self, Need, Probe};
use crate::pythons;
use crate::toolchain::{self, Compiler};

/// Find or install everything that building and testing need
#[derive(clap::Args)]
pub struct Options {
    /// Only what tests need, beyond a build
    #[arg(long)]
    test: bool,
    /// Only what building needs
    #[arg(long, conflicts_with = "test")]
    build: bool,
}

/// What a task is going to do, so that nothing is installed that it does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The eBPF object and the user binary.
    Build,
    /// PostgreSQL with Node and Go clients.
    Demo,
    /// The check of what dependencies may be.
    Licences,
    /// The tests that unwind the stacks of programs in all languages.
    Programs,
    /// The tests that read executables, those of other Go toolchains too.
    Binaries,
    /// The tests of what only root may see.
    Root,
    /// The tests on this kernel.
    Real,
    /// The same on further versions of languages.
    Versions,
    /// All clients of the corpus.
    Corpus,
    /// The tests under other kernels.
    Vm,
}

/// A package that is missing, and what for.
#[derive(Debug)]
pub struct Missing {
    package: String,
    why: String,
}

/// What cannot be had from here.
#[derive(Debug)]
pub enum Unavailable {
    /// The one list of packages that are missing and cannot be installed.
    Packages(Vec<Missing>),
    /// Something of the network, and why it could not be fetched.
    Download { what: &'static str, why: String },
}

impl Unavailable {
    /// Why something is left out, in one line.
    pub fn reason(&self) -> String {
        match self {
            Self::Packages(missing) => {
                let names: Vec<_> = missing.iter().map(|one| one.package.as_str()).collect();
                format!("needs {}", names.join(", "))
            }
            Self::Download { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = match self {
            Self::Packages(missing) => missing,
            Self::Download { what, why } => return write!(f, "{what} cannot be fetched: {why}"),
        };
        writeln!(f, "these are missing and cannot be installed from here:")?;
        for missing in missing {
            writeln!(f, "  {}: {}", missing.package, missing.why)?;
        }
        f.write_str(
            "The names are Debian's. On Debian, run `apt-get install` with them as root; \
             elsewhere, install what your distribution calls the same. Then try again.",
        )
    }
}

impl Error for Unavailable {}

/// What tests need, beyond a build.
const TEST: [Group; 7] = [
    Group::Demo,
    Group::Licences,
    Group::Programs,
    Group::Binaries,
    Group::Root,
    Group::Real,
    Group::Vm,
];

/// Looks for everything, installs what is missing, and says so line by line.
pub fn run(options: &Options) -> Result<()> {
    let groups: &[Group] = match (options.test, options.build) {
        (true, _) => &TEST,
        (_, true) => &[Group::Build],
        _ => &[&[Group::Build][..], &TEST].concat(),
    };
    install(groups, Voice::Everything)?;
    println!("setup: complete");
    Ok(())
}

/// The same for one group and silent about what is there: what other tasks call first.
pub fn ensure(group: Group) -> Result<()> {
    install(&[group], Voice::Changes)
}

/// The same for all that tests need, best effort: packages in one go, and what cannot be had is left
/// for whoever needs it to tell.
pub fn ensure_all() {
    let needs: Vec<_> = TEST.iter().flat_map(|group| packages(*group)).collect();
    let met = install_packages(&needs, Voice::Changes);
    let rest = [Group::Demo, Group::Real].map(ensure);
    for error in [met].into_iter().chain(rest).filter_map(Result::err) {
        println!("setup: {error:#}");
    }
}

/// How much to say: all that was looked at, or only what is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Everything,
    Changes,
}

impl Voice {
    fn found(self, what: impl fmt::Display) {
        if self == Self::Everything {
            println!("setup: found {what}");
        }
    }
}

/// Installs those that are not there.
fn install_packages(needs: &[&Need], voice: Voice) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for need in needs {
        if !seen.insert(need.debian) {
            continue;
        }
        if is_met(need) {
            voice.found(need.debian);
        } else {
            missing.push(Missing { package: need.debian.to_owned(), why: need.why.to_owned() });
        }
    }
    apt_install(missing)
}

fn install(groups: &[Group], voice: Voice) -> Result<()> {
    let needs: Vec<_> = groups.iter().flat_map(|group| packages(*group)).collect();
    install_packages(&needs, voice)?;
    if groups.contains(&Group::Build) {
        let compiler = compiler(voice)?;
        linker(compiler, voice)?;
    }
    let further = groups.contains(&Group::Versions);
    let real = further || groups.contains(&Group::Real) || groups.contains(&Group::Corpus);
    if groups.contains(&Group::Demo) || real {
        node_clients(voice)?;
    }
    if groups.contains(&Group::Demo) {
        clients::build_demo()?;
    }
    if groups.contains(&Group::Binaries) || real {
        python_clients(voice)?;
    }
    if real {
        clients::build_go()?;
        clients::build_c()?;
        clients::build_rust()?;
    }
    if groups.contains(&Group::Corpus) {
        clients::build_rust_variants()?;
    }
    if real && clients::install_newer_node()? {
        println!("setup: installed another version of Node.js");
    }
    if real && clients::build_typescript()? {
        println!("setup: built the TypeScript client into {}", clients::typescript_dir().display());
    }
    if groups.contains(&Group::Corpus) && clients::install_older_nodes()? {
        println!("setup: installed older versions of Node.js");
    }
    if real {
        clients::build_java_frames()?;
        for major in clients::JAVAS {
            if (further || major == clients::NEWER_JAVA) && clients::install_java(major)? {
                println!("setup: installed Java {major}");
            }
        }
    }
    if real && clients::build_java()? {
        println!("setup: built the Java client into {}", clients::java_dir().display());
    }
    if groups.contains(&Group::Licences) {
        cargo_deny(voice)?;
    }
    // Last, for the mirror that they come from may be out of reach.
    let binaries = groups.contains(&Group::Binaries);
    if binaries || real {
        go::ensure(binaries)?;
    }
    if real {
        clients::build_newest_go()?;
        pythons::ensure(further)?;
    }
    Ok(())
}

/// The lists that a group's work needs, one after the other.
fn packages(group: Group) -> impl Iterator<Item = &'static Need> {
    let lists: &[&'static [Need]] = match group {
        Group::Build => &[needs::BUILD],
        Group::Licences => &[needs::BUILD],
        Group::Demo => &[needs::SERVER, needs::LANGUAGES, needs::DEMO],
        Group::Programs => &[needs::BUILD, needs::LANGUAGES, needs::PYTHON],
        Group::Binaries => &[
            needs::BUILD,
            needs::LANGUAGES,
            needs::PYTHON,
            needs::DEMO,
            needs::CLIENTS,
            needs::BINARIES,
        ],
        Group::Root => &[needs::BUILD, needs::PYTHON, needs::NETWORK],
        Group::Real | Group::Versions => &[
            needs::SERVER,
            needs::LANGUAGES,
            needs::PYTHON,
            needs::DEMO,
            needs::CLIENTS,
            needs::JAVA,
            needs::MYSQL,
            needs::SCRIPTS,
            needs::TLS,
            needs::NETWORK,
        ],
        Group::Corpus => &[
            needs::SERVER,
            needs::LANGUAGES,
            needs::PYTHON,
            needs::DEMO,
            needs::CLIENTS,
            needs::TLS,
            needs::JAVA,
            needs::MYSQL,
            needs::SCRIPTS,
        ],
        Group::Vm => &[needs::SERVER, needs::VM],
    };
    lists.iter().copied().flatten()
}

fn is_met(need: &Need) -> bool {
    match need.probe {
        Probe::Program(name) => sh::which(name).is_some(),
        Probe::StaticProgram(name) => {
            sh::which(name).is_some_and(|program| !sh::succeeds(Command::new("ldd").arg(program)))
        }
        Probe::AnyOf(paths) => paths.iter().any(|path| std::path::Path::new(path).exists()),
        Probe::PythonModule(name) => {
            sh::succeeds(Command::new("python3").args(["-c", &format!("import {name}")]))
        }
        Probe::MysqlServer => mysql::program().is_ok(),
        Probe::Command(command) => match command.split_first() {
            Some((program, arguments)) => sh::succeeds(Command::new(program).args(arguments)),
            None => false,
        },
        Probe::PostgresServer => postgres::bin_dir().is_ok(),
    }
}

/// The compiler for the eBPF object, installed where there is none.
fn compiler(voice: Voice) -> Result<Compiler> {
    if let Some(compiler) = Compiler::find() {
        voice.found(format_args!("an eBPF compiler: {}", compiler.describe()));
        return Ok(compiler);
    }
    let wanted = debian_rust().map(|packages| {
        let why = "compiling the kernel side";
        packages.map(|package| Missing { package: package.to_owned(), why: why.to_owned() })
    });
    let Some(wanted) = wanted else {
        let package = "rustup's nightly with rust-src".to_owned();
        let why = "compiling the kernel side; get it with \
                   `rustup toolchain install nightly --component rust-src`";
        return Err(Unavailable::Packages(vec![Missing { package, why: why.to_owned() }]).into());
    };
    apt_install(wanted.into())?;
    Compiler::find().context("the packages are installed but `rustc --print sysroot` has no bpfel")
}

/// The first of Debian's Rust packages that is as new as the workspace asks for.
fn debian_rust() -> Option<[&'static str; 3]> {
    if !toolchain::is_debian() {
        return None;
    }
    apt_update_once().ok()?;
    needs::DEBIAN_RUST.iter().copied().find(|[rustc, ..]| {
        let version = apt_candidate(rustc);
        version.is_some_and(|version| {
            let minimum = env!("CARGO_PKG_RUST_VERSION");
            sh::succeeds(Command::new("dpkg").args(["--compare-versions", &version, "ge", minimum]))
        })
    })
}

/// The version of `package` that apt would install.
fn apt_candidate(package: &str) -> Option<String> {
    let policy = sh::output(Command::new("apt-cache").args(["policy", package])).ok()?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

/// `bpf-linker` of the pinned version, built into [`workspace::tools`] where there is none.
fn linker(compiler: Compiler, voice: Voice) -> Result<()> {
    if let Some(dir) = toolchain::linker_dir() {
        voice.found(format_args!("bpf-linker {} in {}", needs::BPF_LINKER, dir.display()));
        return Ok(());
    }
    let llvm = compiler.llvm_major()?;
    if toolchain::llvm_prefix(llvm).is_none() {
        let package = format!("llvm-{llvm}-dev");
        let why = format!(
            "building bpf-linker {0}; or put a prebuilt one on PATH with \
             `cargo binstall bpf-linker@{0}`",
            needs::BPF_LINKER
        );
        apt_install(vec![Missing { package, why }])?;
    }
    let (major, prefix) = toolchain::llvm_prefix(llvm)
        .with_context(|| format!("bpf-linker {} cannot use LLVM {llvm}", needs::BPF_LINKER))?;
    println!("setup: building bpf-linker {} against LLVM {major} (a minute)", needs::BPF_LINKER);
    let path = toolchain::path_with(&prefix.join("bin"))?;
    cargo_install("bpf-linker", needs::BPF_LINKER, |install| {
        install.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
        install.env("LLVM_PREFIX", &prefix).env("PATH", path);
    })
}

/// `cargo-deny` of the pinned version, built where there is none.
fn cargo_deny(voice: Voice) -> Result<()> {
    if let Some(found) = toolchain::cargo_deny() {
        voice.found(format_args!("cargo-deny: {}", found.display()));
        return Ok(());
    }
    println!("setup: building cargo-deny {} (two minutes)", needs::CARGO_DENY);
    let built = cargo_install("cargo-deny", needs::CARGO_DENY, |install| {
        // It checks for two seconds; optimising it takes several minutes.
        install.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
    });
    built.map_err(|error| {
        Unavailable::Download { what: "cargo-deny", why: format!("{error:#}") }.into()
    })
}

/// A program from crates.io as a tool of its own, with `adjust` for what it wants besides.
fn cargo_install(name: &str, version: &str, adjust: impl FnOnce(&mut Command)) -> Result<()> {
    let scratch = tempfile::TempDir::with_prefix("connleak-setup-")?;
    let mut install = sh::cargo();
    install.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]);
    install.arg(workspace::tool(name, version)).env(workspace::TARGET_DIR, scratch.path());
    adjust(&mut install);
    sh::run(&mut install)
}

fn node_clients(voice: Voice) -> Result<()> {
    if clients::install_node()? {
        println!("setup: installed the Node clients into {}", clients::node_dir().display());
    } else {
        voice.found("the Node clients");
    }
    Ok(())
}

fn python_clients(voice: Voice) -> Result<()> {
    if clients::install_python()? {
        println!("setup: installed the Python clients into {}", clients::python_dir().display());
    } else {
        voice.found("the Python clients");
    }
    Ok(())
}

/// Installs Debian packages, or says what is missing.
fn apt_install(missing: Vec<Missing>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let apt_get = toolchain::is_debian().then(|| sh::elevated("apt-get".as_ref())).flatten();
    let Some(mut install) = apt_get else {
        return Err(Unavailable::Packages(missing).into());
    };
    apt_update_once()?;
    let names: Vec<_> = missing.iter().map(|missing| &missing.package).collect();
    let options = ["install", "--yes", "--no-install-recommends", "-qq"];
    install.env("DEBIAN_FRONTEND", "noninteractive").args(options).args(names);
    println!("setup: {}", sh::shown(&install));
    sh::run(&mut install)
}

/// Package lists are fetched once per run, and only when something has to be installed.
///
/// Of the system's own sources one may be broken that has nothing to do with us, so a failure is
/// said and not more: whether the lists are good enough is for the installation to find out, which
/// names the package that it does not find.
fn apt_update_once() -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let Some(mut update) = sh::elevated("apt-get".as_ref()) else {
        bail!("apt-get needs root, or sudo");
    };
    println!("setup: apt-get update");
    update.env("DEBIAN_FRONTEND", "noninteractive").args(["update", "-qq"]);
    if let Err(error) = sh::run(&mut update) {
        eprintln!("setup: {error:#}; going on with the package lists that are there");
    }
    Ok(())
}
