//! The test clients of `tests/clients`, as the README there describes them.
//!
//! May import `std`, `xtask` and its neighbours. Uses what is installed and installs nothing.

use std::path::PathBuf;
use std::process::Command;

use xtask::postgres::Server;
use xtask::{clients, workspace};

use super::deadline;
use super::process::Process;

/// How the Go client was built.
#[derive(Clone, Copy, Debug)]
pub enum Build {
    Plain,
    /// `-ldflags "-s -w"`: no symbol table, no DWARF.
    Stripped,
    Pie,
    /// Stripped, by the newest toolchain.
    Newest,
}

/// How a Rust client was built.
#[derive(Clone, Copy, Debug)]
pub enum Profile {
    Release,
    /// With link-time optimisation.
    Thin,
    Fat,
    /// No symbols.
    Stripped,
}

/// Which program.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// node-postgres, with pool options as a JSON object.
    Node(&'static str),
    /// The same program on another library.
    NodeWith(&'static str, &'static str),
    /// The same programs by another version of Node.js: its number and the library.
    NodeAt(u8, &'static str),
    /// The TypeScript client, as made by the compiler or the bundler: a file that it wrote.
    TypeScript(u8, &'static str),
    /// With the flags that make V8 write down the names of its code.
    NodeWithPerfMap,
    /// With command-line flags.
    Go(Build, &'static [&'static str]),
    /// The Go client on pgx v5, with command-line flags.
    Go5(&'static [&'static str]),
    Python,
    /// The same program, with neither psycopg2 nor libpq before its first command.
    LatePython,
    /// The same program with another library, and with more flags.
    PythonWith(&'static str, &'static [&'static str]),
    /// With packages of versions that behave differently.
    OlderPythonWith(&'static str),
    /// The same program by another version of Python, 3.N with its own system around it.
    PythonAt(u8, &'static str),
    Descriptors,
    C,
    /// With options of HikariCP as `name=value`.
    Java(&'static [&'static str]),
    /// The client whose stacks are hard to read, by a version of Java.
    JavaFrames(u8),
    Php,
    Ruby,
    /// The client of a pool, as a profile builds it.
    Rust(&'static str, Profile),
    /// That of r2d2, with so many connections at most.
    R2d2(&'static str),
}

pub const NODE: Kind = Kind::Node("{}");
pub const GO: Kind = Kind::Go(Build::Plain, &[]);

/// The line of `go/leaks.go` that takes the connections of this shape.
pub fn leak_line(shape: &str) -> u64 {
    leak_line_in("go/leaks.go", shape)
}

/// The line of a client's source that a report must name for this shape.
pub fn leak_line_in(source: &str, shape: &str) -> u64 {
    let path = clients::sources().join(source);
    let source = std::fs::read_to_string(&path).expect("the client's source is in the repository");
    let marker = format!("LEAK-LINE {shape}");
    let index = source.lines().position(|line| line.trim_end_matches(" */").ends_with(&marker));
    index.unwrap_or_else(|| panic!("{} has no {marker}", path.display())) as u64 + 1
}

impl Kind {
    /// The command that starts it, without the server's variables.
    pub fn command(self) -> Command {
        match self {
            Self::Node(options) => node(&[options]),
            Self::NodeWith(library, options) => node(&["--with", library, options]),
            Self::NodeAt(major, library) => {
                node_at(clients::node(major), &[], &["--with", library])
            }
            Self::TypeScript(major, file) => {
                let file = clients::typescript_dir().join(file).display().to_string();
                node_at(clients::node(major), &[], &["--with", &file])
            }
            Self::NodeWithPerfMap => {
                let flags = ["--perf-basic-prof", "--interpreted-frames-native-stack"];
                node_at(PathBuf::from("node"), &flags, &["{}"])
            }
            Self::Go(build, flags) => {
                let name = match build {
                    Build::Plain => "go/client",
                    Build::Stripped => "go/client-stripped",
                    Build::Pie => "go/client-pie",
                    Build::Newest => "go/client-newest",
                };
                let mut go = Command::new(workspace::target().join("clients").join(name));
                go.args(flags);
                go
            }
            Self::Go5(flags) => {
                let mut go = Command::new(clients::go_dir().join("client-5"));
                go.args(flags);
                go
            }
            Self::Python => python("python/main.py"),
            Self::LatePython => {
                let mut late = python("python/main.py");
                late.arg("--late");
                late
            }
            Self::PythonWith(library, flags) => {
                let mut with = python("python/main.py");
                with.args(["--with", library]).args(flags);
                with
            }
            Self::OlderPythonWith(library) => {
                let mut with = Self::PythonWith(library, &[]).command();
                with.env("PYTHONPATH", clients::older_python_packages());
                with
            }
            Self::PythonAt(minor, library) => {
                python_at(minor, &format!("/usr/bin/python3.{minor}"), library)
            }
            Self::Descriptors => python("python/descriptors.py"),
            Self::Rust(pool, profile) => Command::new(rust_client(pool, profile)),
            Self::R2d2(max_size) => {
                let mut rust = Command::new(rust_client("r2d2", Profile::Release));
                rust.arg(max_size);
                rust
            }
            Self::C => Command::new(clients::c_dir().join("client")),
            Self::Java(options) => {
                let mut java = Command::new("java");
                // HikariCP looks after its pool twice a minute by default.
                java.arg("-Dcom.zaxxer.hikari.housekeeping.periodMs=300");
                java.arg("-cp")
                    .arg(clients::java_class_path(clients::java_dir()))
                    .arg("Main")
                    .args(options);
                java
            }
            Self::JavaFrames(major) => {
                let mut java = Command::new(clients::java(major));
                java.arg("-cp").arg(clients::java_class_path(clients::java_frames_dir()));
                java.arg("Frames");
                java
            }
            Self::Php => {
                let mut php = Command::new("php");
                // As `php.ini` for development has it.
                php.args(["-d", "zend.exception_ignore_args=Off"]);
                php.arg(clients::sources().join("php/main.php"));
                php
            }
            Self::Ruby => {
                let mut ruby = Command::new("ruby");
                ruby.arg(clients::sources().join("ruby/main.rb"));
                ruby
            }
        }
    }
}

/// The Rust client of a pool.
pub fn rust_client(pool: &str, profile: Profile) -> PathBuf {
    let profile = match profile {
        Profile::Release => "release",
        Profile::Thin => "thin",
        Profile::Fat => "fat",
        Profile::Stripped => "stripped",
    };
    clients::rust_dir().join(profile).join(format!("{pool}-client"))
}

/// Another tracer, with uretprobes on functions of a process: each is a file and an offset in it.
pub fn uretprobes(pid: u32, functions: &[(PathBuf, u64)]) -> Client {
    let mut command = python("python/uretprobes.py");
    command.arg(pid.to_string());
    for (file, offset) in functions {
        command.arg(format!("{}:{offset}", file.display()));
    }
    Client::spawn(&mut command)
}

/// The same command run by another, which is named with its first arguments.
pub fn through(wrapper: &[&str], command: &Command) -> Command {
    let (program, arguments) = wrapper.split_first().expect("a wrapper");
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped
}

fn node(arguments: &[&str]) -> Command {
    node_at(PathBuf::from("node"), &[], arguments)
}

fn node_at(program: PathBuf, flags: &[&str], arguments: &[&str]) -> Command {
    let mut node = Command::new(program);
    node.args(flags).arg(clients::sources().join("node/main.js")).args(arguments);
    node.env("NODE_PATH", clients::node_modules());
    node
}

fn python(script: &str) -> Command {
    let mut python = Command::new(clients::python());
    // The sources stay as they are.
    python.arg("-B").arg(clients::sources().join(script));
    python
}

/// A program of the system of Python 3.`minor`, which is an interpreter, with a library.
pub fn python_at(minor: u8, program: &str, library: &str) -> Command {
    const INSIDE: &str = "mount --bind $0 $1$2 && exec chroot $1 $3 -B $2/python/main.py --with $4";
    let mut python = Command::new("unshare");
    python.args(["--mount", "sh", "-c", INSIDE]);
    python.arg(clients::sources()).arg(clients::python_root(minor));
    python.args([clients::PYTHON_ROOT_SOURCES, program, library]);
    python.env("PYTHONPATH", clients::PYTHON_ROOT_PACKAGES);
    python
}

/// A running client.
pub struct Client {
    process: Process,
    pid: u32,
    description: Option<String>,
}

impl Client {
    pub fn start(kind: Kind, server: &Server) -> Self {
        Self::spawn(kind.command().envs(server.environment()))
    }

    /// Starts a command that runs a client in the end, whatever is in front of it.
    pub fn spawn(command: &mut Command) -> Self {
        // V8 leaves a perf map in /tmp, named after the process, whatever the directory.
        let mut process = Process::start(command);
        let line = match process.stdout.next(deadline()) {
            Some(line) => line,
            None => panic!("{command:?} ended: {}", process.stderr.rest(deadline())),
        };
        let mut words = line.splitn(3, ' ');
        let ready = words.next().filter(|word| *word == "ready");
        let pid = ready.and_then(|_| words.next()?.parse().ok());
        Self {
            pid: pid.unwrap_or_else(|| panic!("not ready: {line}")),
            description: words.next().map(str::to_owned),
            process,
        }
    }

    /// The process id, as the client itself sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it says it is, with versions.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The process id of what was started, which may have the client as its child.
    pub fn started_pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has the client carry out a command.
    pub fn run(&mut self, command: &str) {
        self.process.send(command);
        match self.process.stdout.next(deadline()) {
            Some(answer) if answer == format!("done {command}") => {}
            Some(answer) => panic!("{command}: {answer}"),
            None => panic!("{command}: ended: {}", self.process.stderr.rest(deadline())),
        }
    }

    pub fn quit(mut self) {
        self.process.send("quit");
        self.process.finish(deadline());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Only a Node client has left one; it is named after this process and nobody else's.
        drop(std::fs::remove_file(format!("/tmp/perf-{}.map", self.pid)));
    }
}
