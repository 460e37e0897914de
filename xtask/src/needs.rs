//! What building and testing need, as data: the one place to add a package or move a pin.
//!
//! Says what and why; [`crate::setup`] looks for it and installs it.

/// The linker of eBPF objects. A newer one wants a newer LLVM than the toolchains here have.
pub const BPF_LINKER: &str = "0.13.0";

/// The LLVM majors that `BPF_LINKER` can be built against (its `llvm-NN` features).
pub const BPF_LINKER_LLVM: &[u32] = &[21, 22, 23];

/// What checks licences, sources and versions of dependencies.
pub const CARGO_DENY: &str = "0.20.2";

/// Debian's Rust toolchains that have a prebuilt `core` for eBPF, preferred first. Stable
/// releases carry a current compiler under `-web` names, for the browsers; testing and later
/// under the plain ones.
pub const DEBIAN_RUST: &[[&str; 3]] = &[
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
    ["rustc", "cargo", "libstd-rust-dev-bpf"],
];

/// How to see that a need is met, whoever installed it.
pub enum Probe {
    /// A program on `PATH`.
    Program(&'static str),
    /// A program on `PATH` that needs no library.
    StaticProgram(&'static str),
    /// One of these files or directories exists.
    AnyOf(&'static [&'static str]),
    /// The Python on `PATH` can import this.
    PythonModule(&'static str),
    /// MariaDB's server, wherever [`xtask::mysql::program`] finds it.
    MysqlServer,
    /// This command succeeds.
    Command(&'static [&'static str]),
    /// PostgreSQL's server programs, wherever [`xtask::postgres::bin_dir`] finds them.
    PostgresServer,
}

/// Something a distribution's package brings.
pub struct Need {
    /// Its name in Debian.
    pub debian: &'static str,
    /// What it is for, as shown when it is missing.
    pub why: &'static str,
    /// How to see that it is there.
    pub probe: Probe,
}

/// A C compiler links everything that cargo builds, and makes the C programs that tests look into.
pub const BUILD: &[Need] =
    &[Need { debian: "gcc", why: "linking Rust programs", probe: Probe::Program("gcc") }];

/// The server that clients leak connections of.
pub const SERVER: &[Need] =
    &[Need { debian: "postgresql", why: "the server", probe: Probe::PostgresServer }];

/// Languages that clients are written in, besides those of [`BUILD`] and [`PYTHON`].
pub const LANGUAGES: &[Need] = &[
    Need { debian: "golang-go", why: "Go clients", probe: Probe::Program("go") },
    Need { debian: "nodejs", why: "Node clients", probe: Probe::Program("node") },
];

/// The language that only tests use.
pub const PYTHON: &[Need] =
    &[Need { debian: "python3", why: "Python clients", probe: Probe::Program("python3") }];

/// The drivers of the demo's clients.
pub const DEMO: &[Need] = &[
    Need {
        debian: "golang-github-lib-pq-dev",
        why: "Go's lib/pq",
        probe: Probe::AnyOf(&["/usr/share/gocode/src/github.com/lib/pq"]),
    },
    Need { debian: "npm", why: "node-postgres", probe: Probe::Program("npm") },
];

/// The drivers of the tests' clients beyond those.
pub const CLIENTS: &[Need] = &[
    Need {
        debian: "golang-github-jackc-pgx-v4-dev",
        why: "Go's pgxpool",
        probe: Probe::AnyOf(&["/usr/share/gocode/src/github.com/jackc/pgx/v4"]),
    },
    Need {
        debian: "golang-github-go-sql-driver-mysql-dev",
        why: "Go on MySQL",
        probe: Probe::AnyOf(&["/usr/share/gocode/src/github.com/go-sql-driver/mysql"]),
    },
    Need {
        debian: "python3-venv",
        why: "psycopg2 apart from the system's Python",
        probe: Probe::PythonModule("ensurepip"),
    },
    Need {
        debian: "bpftool",
        why: "asking the kernel what a capture left",
        probe: Probe::Program("bpftool"),
    },
    Need {
        debian: "pgbouncer",
        why: "a pooler between clients and server",
        probe: Probe::AnyOf(&["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]),
    },
    Need {
        debian: "pgpool2",
        why: "another pooler",
        probe: Probe::AnyOf(&["/usr/sbin/pgpool", "/usr/bin/pgpool"]),
    },
    Need {
        debian: "libpq-dev",
        why: "C clients",
        probe: Probe::AnyOf(&[
            "/usr/include/postgresql/libpq-fe.h",
            "/usr/include/libpq-fe.h",
            "/usr/include/pgsql/libpq-fe.h",
        ]),
    },
];

/// Another database, for what is not PostgreSQL's. Its server alone, which starts no service.
pub const MYSQL: &[Need] = &[Need {
    debian: "mariadb-server-core",
    why: "a server that speaks MySQL",
    probe: Probe::MysqlServer,
}];

/// Java, with a pool and a driver.
pub const JAVA: &[Need] = &[
    Need { debian: "default-jdk-headless", why: "Java clients", probe: Probe::Program("javac") },
    Need {
        debian: "libhikaricp-java",
        why: "HikariCP",
        probe: Probe::AnyOf(&["/usr/share/java/HikariCP.jar"]),
    },
    Need {
        debian: "libpostgresql-jdbc-java",
        why: "Java's PostgreSQL driver",
        probe: Probe::AnyOf(&["/usr/share/java/postgresql.jar"]),
    },
    Need {
        debian: "libslf4j-java",
        why: "what HikariCP logs with",
        probe: Probe::AnyOf(&["/usr/share/java/slf4j-nop.jar"]),
    },
];

/// Clients in languages whose interpreter is all that they need.
pub const SCRIPTS: &[Need] = &[
    Need { debian: "php-cli", why: "PHP clients", probe: Probe::Program("php") },
    Need {
        debian: "php-pgsql",
        why: "PHP's pgsql and PDO",
        probe: Probe::Command(&["php", "-r", "exit(function_exists('pg_connect') ? 0 : 1);"]),
    },
    Need { debian: "ruby", why: "Ruby clients", probe: Probe::Program("ruby") },
    Need {
        debian: "ruby-pg",
        why: "Ruby's PostgreSQL driver",
        probe: Probe::Command(&["ruby", "-e", "require 'pg'"]),
    },
    Need {
        debian: "ruby-connection-pool",
        why: "Ruby's connection pool",
        probe: Probe::Command(&["ruby", "-e", "require 'connection_pool'"]),
    },
];

/// A server with TLS.
pub const TLS: &[Need] =
    &[Need { debian: "openssl", why: "a server with TLS", probe: Probe::Program("openssl") }];

/// Processes apart from each other.
pub const NETWORK: &[Need] = &[Need {
    debian: "iproute2",
    why: "network namespaces as containers have them",
    probe: Probe::Program("ip"),
}];

/// Executables that are read, and what the readers' results are compared with.
pub const BINARIES: &[Need] = &[
    Need { debian: "binutils", why: "symbols to compare with", probe: Probe::Program("objdump") },
    Need {
        debian: "libpq5",
        why: "the library that C clients use",
        probe: Probe::AnyOf(&["/usr/lib/x86_64-linux-gnu/libpq.so.5"]),
    },
    Need { debian: "apt", why: "fetching Go toolchains", probe: Probe::Program("apt-get") },
    Need {
        debian: "debian-archive-keyring",
        why: "checking what is fetched",
        probe: Probe::AnyOf(&[DEBIAN_KEYRING]),
    },
];

/// What the tests under other kernels need.
pub const VM: &[Need] = &[
    Need {
        debian: "qemu-system-x86",
        why: "virtual machines",
        probe: Probe::Program("qemu-system-x86_64"),
    },
    Need {
        // From QEMU 8 on its own package, called virtiofsd.
        debian: "qemu-system-common",
        why: "sharing the root directory with virtual machines (virtiofsd)",
        probe: Probe::AnyOf(VIRTIOFSD),
    },
    Need {
        debian: "busybox-static",
        why: "the first program of a virtual machine",
        probe: Probe::StaticProgram("busybox"),
    },
    Need { debian: "zstd", why: "unpacking kernels", probe: Probe::Program("zstd") },
    Need { debian: "xz-utils", why: "unpacking kernels", probe: Probe::Program("xz") },
    Need { debian: "lz4", why: "unpacking kernels", probe: Probe::Program("lz4") },
    Need { debian: "dpkg", why: "unpacking kernels", probe: Probe::Program("dpkg-deb") },
    Need { debian: "apt", why: "fetching kernels", probe: Probe::Program("apt-get") },
    Need {
        debian: "debian-archive-keyring",
        why: "checking that kernels are Debian's",
        probe: Probe::AnyOf(&[DEBIAN_KEYRING]),
    },
];

/// The keys that Debian's releases are signed with.
pub const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where distributions put virtiofsd: first QEMU's own one, then the one written in Rust.
pub const VIRTIOFSD: &[&str] = &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
