//! Whose code a frame is: tables of names, one place for all languages.
//!
//! May import `model` and the table of runtimes; pure. Invariants: total; a name nobody knows in a program's own code
//! is the application's, in a library's the library's. Blame is the innermost
//! [`FrameKind::App`], so a frame that is wrongly the application's hides the right one, and the
//! tables name what is commonly linked into applications.

use crate::binary::runtimes;
use crate::model::FrameKind;

/// Names longer than this are cut: C++ and Rust generics can fill a screen.
const MAX_NAME_BYTES: usize = 512;

/// `name`, cut to a length that can be shown.
pub(super) fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let end = (0..=MAX_NAME_BYTES).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &name[..end])
}

// --- native code ---

/// Beginnings of file names of PostgreSQL drivers.
const DRIVER_LIBRARIES: [&str; 6] =
    ["libpq.so", "libpq-", "libpqxx", "_psycopg", "psqlodbc", "libecpg"];
/// Directories that only a driver is in.
const DRIVER_DIRECTORIES: [&str; 8] = [
    "/psycopg/",
    "/psycopg2/",
    "/psycopg_c/",
    "/psycopg_binary/",
    "/psycopg2_binary.libs/",
    "/asyncpg/",
    "/pg_query_native/",
    "/pg-native/",
];

/// Beginnings of file names of the C and C++ runtimes, and of Java's own libraries.
const RUNTIME_LIBRARIES: [&str; 18] = [
    "libc.so",
    "libc-",
    "ld-linux",
    "ld-",
    "libpthread",
    "libm.so",
    "libdl",
    "librt",
    "libgcc_s",
    "libstdc++",
    "libc++",
    "libresolv",
    "ld-musl",
    "libc.musl",
    "libnio.so",
    "libnet.so",
    "libjava.so",
    "libjli.so",
];

/// Functions of the C library that statically linked programs contain, besides those whose names
/// C reserves with a leading underscore.
const C_FUNCTIONS: [&str; 28] = [
    "start_thread",
    "clone",
    "clone3",
    "read",
    "write",
    "readv",
    "writev",
    "send",
    "sendto",
    "sendmsg",
    "recv",
    "recvfrom",
    "recvmsg",
    "connect",
    "poll",
    "ppoll",
    "select",
    "epoll_wait",
    "nanosleep",
    "clock_nanosleep",
    "pause",
    "sleep",
    "getaddrinfo",
    "malloc",
    "free",
    "abort",
    "raise",
    "syscall",
];

/// Crates that are part of Rust.
const RUST_RUNTIME: [&str; 6] = ["std", "core", "alloc", "test", "proc_macro", "rustc_demangle"];
/// Drivers, pools and the libraries that drive them.
const RUST_DRIVERS: [&str; 18] = [
    "sqlx",
    "sqlx_core",
    "sqlx_postgres",
    "tokio_postgres",
    "postgres",
    "postgres_protocol",
    "postgres_types",
    "deadpool",
    "deadpool_postgres",
    "deadpool_runtime",
    "bb8",
    "bb8_postgres",
    "r2d2",
    "r2d2_postgres",
    "diesel",
    "diesel_async",
    "sea_orm",
    "mobc",
];
/// Other crates commonly between an application and its driver, for programs without file names.
const RUST_LIBRARIES: [&str; 31] = [
    "tokio",
    "tokio_util",
    "tokio_stream",
    "futures",
    "futures_core",
    "futures_util",
    "futures_executor",
    "futures_channel",
    "async_std",
    "smol",
    "async_io",
    "async_executor",
    "mio",
    "hyper",
    "hyper_util",
    "h2",
    "http",
    "axum",
    "axum_core",
    "tower",
    "tower_http",
    "tower_service",
    "actix_web",
    "actix_rt",
    "actix_http",
    "warp",
    "rocket",
    "tonic",
    "tracing",
    "rayon",
    "crossbeam",
];

/// What a native module is to its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NativeModule {
    /// File name, for display.
    pub name: String,
    role: Role,
}

/// Roles of native modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// The program, compiled from the application's source and the libraries linked into it.
    Program,
    Driver,
    Library,
    Runtime,
}

impl NativeModule {
    /// `path` as in `/proc/PID/maps`; `interpreted`: the process runs an interpreter.
    pub fn new(path: &[u8], is_executable: bool, interpreted: bool) -> Self {
        let path = String::from_utf8_lossy(path);
        let name = path.rsplit('/').next().unwrap_or_default();
        let begins = |table: &[&str]| table.iter().any(|start| name.starts_with(start));
        let role = if begins(&DRIVER_LIBRARIES)
            || DRIVER_DIRECTORIES.iter().any(|directory| path.contains(directory))
        {
            Role::Driver
        } else if begins(&RUNTIME_LIBRARIES)
            || runtimes::is_interpreter(name.as_bytes())
            || (is_executable && interpreted)
        {
            Role::Runtime
        } else if is_executable {
            Role::Program
        } else {
            Role::Library
        };
        Self { name: shortened(name), role }
    }

    pub fn role(&self) -> Role {
        self.role
    }
}

/// Whether one of the files is an interpreter, whose native frames are never the application's.
pub(super) fn runs_an_interpreter<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> bool {
    paths.into_iter().any(|path| {
        runtimes::is_interpreter(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default())
    })
}

/// The owner of a function of C, C++ or Rust in a module.
pub(super) fn native(role: Role, function: &str, file: Option<&str>) -> FrameKind {
    match role {
        Role::Driver => FrameKind::Driver,
        Role::Runtime => FrameKind::Runtime,
        Role::Library => FrameKind::Library,
        Role::Program => {
            file.and_then(rust_file).unwrap_or_else(|| program_function(function, file.is_some()))
        }
    }
}

/// What the path of a Rust source file says; `None` when it says nothing.
fn rust_file(file: &str) -> Option<FrameKind> {
    // The standard library's paths begin with the compiler's commit, or are in its sources.
    if file.starts_with("/rustc/") || file.contains("/lib/rustlib/src/rust/") {
        return Some(FrameKind::Runtime);
    }
    // `~/.cargo/registry/src/INDEX/NAME-VERSION/src/...`, `~/.cargo/git/checkouts/NAME-HASH/...`
    let package = if let Some((_, rest)) = file.split_once("/registry/src/") {
        rest.split('/').nth(1)?
    } else {
        let (_, rest) = file.split_once("/git/checkouts/")?;
        rest.split('/').next()?
    };
    let name = package.rsplit_once('-').map_or(package, |(name, _)| name).replace('-', "_");
    let is_driver = RUST_DRIVERS.contains(&name.as_str());
    Some(if is_driver { FrameKind::Driver } else { FrameKind::Library })
}

/// What the name of a function in a program says.
fn program_function(function: &str, has_source: bool) -> FrameKind {
    if let Some(package) = rust_crate(function) {
        return if RUST_RUNTIME.contains(&package) {
            FrameKind::Runtime
        } else if RUST_DRIVERS.contains(&package) {
            FrameKind::Driver
        } else if RUST_LIBRARIES.contains(&package) {
            FrameKind::Library
        } else {
            FrameKind::App
        };
    }
    // Statically linked libraries: libpq's functions begin with PQ and pq, C keeps names with
    // underscores for itself.
    if function.starts_with("PQ") || function.starts_with("pq") {
        FrameKind::Driver
    } else if function.starts_with("__")
        || function.starts_with("_dl_")
        || function.starts_with("_IO_")
        || function == "_start"
        || (!has_source && C_FUNCTIONS.contains(&function))
    {
        FrameKind::Runtime
    } else {
        FrameKind::App
    }
}

/// The crate of a Rust path (`tokio::runtime::...`, `<sqlx_core::pool::Pool<DB>>::acquire`,
/// `<alloc::boxed::Box<F> as core::ops::FnOnce>::call_once`).
fn rust_crate(function: &str) -> Option<&str> {
    let path = function.trim_start_matches(['<', '&', '*', '(']);
    let path = ["mut ", "const ", "dyn ", "impl "]
        .iter()
        .fold(path, |path, word| path.strip_prefix(word).unwrap_or(path));
    let (name, rest) = path.split_once("::")?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && !rest.is_empty()).then_some(name)
}

// --- Go ---

/// Import paths of drivers and of what sits on them; a path also covers those below it.
const GO_DRIVERS: [&str; 14] = [
    "database/sql",
    "github.com/lib/pq",
    "github.com/jackc",
    "github.com/go-pg",
    "github.com/uptrace/bun",
    "github.com/jmoiron/sqlx",
    "gorm.io",
    "entgo.io/ent",
    "github.com/go-sql-driver/mysql",
    "github.com/volatiletech/sqlboiler",
    "xorm.io",
    "github.com/aarondl/sqlboiler",
    "github.com/upper/db",
    "github.com/doug-martin/goqu",
];

/// First elements of the standard library's import paths.
const GO_STANDARD: [&str; 53] = [
    "archive",
    "arena",
    "bufio",
    "builtin",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "type",
    "type:",
    "unicode",
    "unique",
    "unsafe",
    "vendor",
];

/// Parts of the paths of files that were fetched, not written for the program.
const GO_FETCHED: [&str; 4] = ["/pkg/mod/", "/vendor/", "/usr/share/gocode/", "@v"];

/// The owner of a Go function, by its full name (`github.com/lib/pq.(*conn).query`).
pub(super) fn go(function: &str, file: Option<&str>) -> FrameKind {
    let package = go_package(function);
    let is_below = |path: &&str| {
        package.strip_prefix(*path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if GO_DRIVERS.iter().any(is_below) {
        return FrameKind::Driver;
    }
    if package == "main" {
        return FrameKind::App;
    }
    let first = package.split('/').next().unwrap_or_default();
    // Functions without a package are assembly and cgo stubs.
    if package.is_empty() || GO_STANDARD.contains(&first) || first.starts_with("_cgo") {
        return FrameKind::Runtime;
    }
    match file {
        Some(file) if GO_FETCHED.iter().any(|part| file.contains(part)) => FrameKind::Library,
        _ => FrameKind::App,
    }
}

/// `github.com/lib/pq` of `github.com/lib/pq.(*conn).query[...]`.
fn go_package(function: &str) -> &str {
    // Type arguments hold paths of other packages.
    let plain = function.split('[').next().unwrap_or_default();
    let last_element = plain.rfind('/').map_or(0, |slash| slash + 1);
    match plain[last_element..].find('.') {
        Some(dot) => &plain[..last_element + dot],
        None => "",
    }
}

// --- Python ---

/// Packages that are drivers or pools.
const PYTHON_DRIVERS: [&str; 14] = [
    "psycopg",
    "psycopg2",
    "psycopg_c",
    "psycopg_binary",
    "psycopg_pool",
    "psycopg2cffi",
    "asyncpg",
    "aiopg",
    "pg8000",
    "postgresql",
    "psqlpy",
    "pymysql",
    "MySQLdb",
    "mysql",
];

/// Of these, names that an application's own directories have, too.
const PYTHON_COMMON: [&str; 2] = ["postgresql", "mysql"];

/// The kind of a Python function by the file it was compiled from.
pub(super) fn python(file: &str) -> FrameKind {
    if file.starts_with("<frozen ") {
        return FrameKind::Runtime;
    }
    // The innermost: a virtual environment can lie anywhere.
    let installed = ["/site-packages/", "/dist-packages/"]
        .iter()
        .filter_map(|directory| Some(file.rfind(directory)? + directory.len()))
        .max();
    if let Some(start) = installed {
        let package = file[start..].split(['/', '.']).next().unwrap_or_default();
        return if PYTHON_DRIVERS.contains(&package) {
            FrameKind::Driver
        } else {
            FrameKind::Library
        };
    }
    // Packages copied into the application, or installed beside it: pip's `--target`, a zip.
    let mut directories = file.split('/').rev().skip(1);
    if directories.any(|name| PYTHON_DRIVERS.contains(&name) && !PYTHON_COMMON.contains(&name)) {
        return FrameKind::Driver;
    }
    // The standard library: lib/python3.11/queue.py, lib/python311.zip/queue.pyc.
    let in_library = file.split('/').collect::<Vec<_>>().windows(3).any(|elements| {
        let [library, python, _] = elements else { return false };
        let version = python.strip_prefix("python3");
        library.starts_with("lib")
            && version.is_some_and(|version| {
                let version = version.strip_suffix(".zip").unwrap_or(version);
                version.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit())
            })
    });
    if in_library { FrameKind::Runtime } else { FrameKind::App }
}

// --- PHP ---

/// The kind of a PHP function by the file it was compiled from; those of the engine and its
/// extensions have none.
pub(super) fn php(function: &str, file: Option<&str>) -> FrameKind {
    match file {
        None if function.starts_with("PDO") || function.starts_with("pg_") => FrameKind::Driver,
        None => FrameKind::Runtime,
        // Composer's packages, and those that Debian installs.
        Some(file) if file.contains("/vendor/") || file.starts_with("/usr/share/php/") => {
            FrameKind::Library
        }
        Some(_) => FrameKind::App,
    }
}

// --- JavaScript ---

/// Packages that are drivers, pools or sit on them.
const NODE_DRIVERS: [&str; 29] = [
    "pg",
    "pg-pool",
    "pg-protocol",
    "pg-cursor",
    "pg-query-stream",
    "pg-native",
    "pg-promise",
    "pg-types",
    "pgpass",
    "postgres",
    "knex",
    "sequelize",
    "typeorm",
    "objection",
    "bookshelf",
    "slonik",
    "kysely",
    "drizzle-orm",
    "prisma",
    "@prisma",
    "@mikro-orm",
    "@vercel/postgres",
    "@neondatabase/serverless",
    "@pgtyped",
    "massive",
    "tarn",
    "generic-pool",
    "mysql2",
    "zapatos",
];

/// The owner of a JavaScript function, by its file.
pub(super) fn script(file: Option<&str>) -> FrameKind {
    let Some(file) = file else { return FrameKind::App };
    if file.starts_with("node:") || file.starts_with("internal/") {
        return FrameKind::Runtime;
    }
    // The innermost: package managers nest the directories.
    let Some((_, inside)) = file.rsplit_once("/node_modules/") else { return FrameKind::App };
    let mut elements = inside.split('/');
    let first = elements.next().unwrap_or_default();
    let scoped = format!("{first}/{}", elements.next().unwrap_or_default());
    if NODE_DRIVERS.contains(&first) || NODE_DRIVERS.contains(&scoped.as_str()) {
        FrameKind::Driver
    } else {
        FrameKind::Library
    }
}

/// The owner of a source that scripts were made from, by its path.
pub(super) fn original(path: &str) -> FrameKind {
    let path = path.trim_start_matches('/');
    // What the bundler puts in to load the rest.
    if path.starts_with("webpack/") {
        return FrameKind::Library;
    }
    script(Some(&format!("/{path}")))
}

// --- Java and other generated code ---

const JAVA_RUNTIME: [&str; 6] = ["java.", "javax.", "jdk.", "sun.", "com.sun.", "kotlin."];
const JAVA_DRIVERS: [&str; 43] = [
    "org.postgresql.",
    "com.impossibl.postgres.",
    "com.mysql.",
    "org.mariadb.",
    "software.amazon.jdbc.",
    "io.r2dbc.",
    "io.vertx.pgclient.",
    "io.vertx.sqlclient.",
    "io.vertx.mysqlclient.",
    "com.github.jasync.",
    "com.zaxxer.hikari.",
    "org.apache.commons.dbcp",
    "org.apache.commons.pool2.",
    "org.apache.commons.dbutils.",
    "org.apache.tomcat.jdbc.",
    "com.mchange.",
    "io.agroal.",
    "com.alibaba.druid.",
    "org.vibur.dbcp.",
    "com.jolbox.bonecp.",
    "oracle.ucp.",
    "com.p6spy.",
    "net.ttddyy.dsproxy.",
    "org.hibernate.",
    "org.eclipse.persistence.",
    "org.apache.openjpa.",
    "org.apache.ibatis.",
    "org.mybatis.",
    "org.jooq.",
    "org.jdbi.",
    "com.querydsl.",
    "io.ebean.",
    "org.ktorm.",
    "org.jetbrains.exposed.",
    "scalikejdbc.",
    "slick.",
    "doobie.",
    "org.flywaydb.",
    "liquibase.",
    "org.springframework.jdbc.",
    "org.springframework.orm.",
    "org.springframework.data.",
    "org.springframework.r2dbc.",
];
const JAVA_LIBRARIES: [&str; 60] = [
    "org.springframework.",
    "org.apache.",
    "io.netty.",
    "io.vertx.",
    "reactor.",
    "scala.",
    "com.google.",
    "org.eclipse.",
    "jakarta.",
    "io.quarkus.",
    "io.smallrye.",
    "io.micronaut.",
    "io.helidon.",
    "io.undertow.",
    "org.jboss.",
    "org.wildfly.",
    "org.glassfish.",
    "org.xnio.",
    "io.dropwizard.",
    "io.javalin.",
    "spark.",
    "io.ktor.",
    "kotlinx.",
    "akka.",
    "org.apache.pekko.",
    "play.",
    "cats.",
    "zio.",
    "fs2.",
    "org.http4s.",
    "clojure.",
    "groovy.",
    "org.codehaus.",
    "io.grpc.",
    "io.reactivex.",
    "rx.",
    "com.netflix.",
    "feign.",
    "retrofit2.",
    "okhttp3.",
    "com.fasterxml.",
    "net.bytebuddy.",
    "net.sf.cglib.",
    "javassist.",
    "org.aspectj.",
    "org.aopalliance.",
    "org.slf4j.",
    "ch.qos.logback.",
    "io.micrometer.",
    "io.opentelemetry.",
    "io.opentracing.",
    "datadog.",
    "com.newrelic.",
    "com.codahale.",
    "io.github.resilience4j.",
    "com.github.benmanes.caffeine.",
    "org.quartz.",
    "org.junit.",
    "org.mockito.",
    "org.graalvm.",
];
/// What the names of classes have that are made while the program runs or is built: lambdas,
/// proxies, and subclasses that do something before and after.
const JAVA_GENERATED: [&str; 12] = [
    "$$Lambda",
    "$$EnhancerBy",
    "$$FastClassBy",
    "$$SpringCGLIB$$",
    "$$_Weld",
    "_ClientProxy",
    "$HibernateProxy$",
    "$HibernateInstantiator$",
    "$ByteBuddy$",
    "$MockitoMock$",
    "_$$_jvst",
    "$Proxy",
];

/// The owner of a method of Java, by its class with its package and its source file.
pub(super) fn java(class: &str, file: Option<&str>) -> FrameKind {
    let begins = |table: &[&str]| table.iter().any(|start| class.starts_with(start));
    if begins(&JAVA_DRIVERS) {
        FrameKind::Driver
    } else if begins(&JAVA_RUNTIME) {
        FrameKind::Runtime
    } else if begins(&JAVA_LIBRARIES)
        || JAVA_GENERATED.iter().any(|part| class.contains(part))
        || file == Some("<generated>")
    {
        FrameKind::Library
    } else {
        FrameKind::App
    }
}

/// The owner of code known by a bare name: a Java method with its package, or a part of the
/// runtime.
pub(super) fn generated(name: &str) -> FrameKind {
    // `void com.example.Service.load(int)`
    let method = name.split('(').next().unwrap_or_default();
    let method = method.rsplit(' ').next().unwrap_or_default();
    if name.contains('(') { java(method, None) } else { FrameKind::Runtime }
}

#[cfg(test)]
mod tests {
    use super::{NativeModule, Role, go, java, native, original, python, script, shortened};
    use crate::model::FrameKind::{App, Driver, Library, Runtime};

    #[test]
    fn go_code_is_told_by_import_path_and_file() {
        for (function, file, kind) in [
            ("main.main", "/srv/app/main.go", App),
            ("main.(*server).handle.func1", "main.go", App),
            ("runtime.goexit", "/usr/lib/go/src/runtime/asm_amd64.s", Runtime),
            ("net/http.HandlerFunc.ServeHTTP", "/usr/lib/go/src/net/http/server.go", Runtime),
            ("database/sql.(*DB).QueryContext", "/usr/lib/go/src/database/sql/sql.go", Driver),
            (
                "github.com/lib/pq.(*conn).query",
                "/root/go/pkg/mod/github.com/lib/pq@v1.10.9/conn.go",
                Driver,
            ),
            ("github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire", "pool.go", Driver),
            ("github.com/jackcompany/web.Serve", "/srv/jackcompany/web.go", App),
            (
                "github.com/gorilla/mux.(*Router).ServeHTTP",
                "/usr/share/gocode/src/github.com/gorilla/mux/mux.go",
                Library,
            ),
            ("gopkg.in/yaml%2ev2.Unmarshal", "gopkg.in/yaml.v2@v2.4.0/yaml.go", Library),
            ("github.com/me/shop/handlers.(*H).Load", "/srv/shop/handlers/h.go", App),
            ("shop/handlers.Load", "/srv/shop/handlers/h.go", App),
            ("main.find[go.shape.*github.com/lib/pq.conn_0]", "/srv/main.go", App),
            (
                "vendor/golang.org/x/net/http2.readFrame",
                "vendor/golang.org/x/net/http2/f.go",
                Runtime,
            ),
            ("type:.eq.main.T", "<autogenerated>", Runtime),
            ("gosave_systemstack_switch", "asm_amd64.s", Runtime),
        ] {
            assert_eq!(go(function, Some(file)), kind, "{function}");
        }
    }

    #[test]
    fn rust_code_is_told_by_file_or_by_crate() {
        let registry = "/root/.cargo/registry/src/index.crates.io-6f17d22bba15001f";
        for (function, file, kind) in [
            ("shop::load::{async_fn#0}", Some("/srv/shop/src/main.rs".to_owned()), App),
            ("acquire", Some(format!("{registry}/sqlx-core-0.7.4/src/pool/mod.rs")), Driver),
            ("poll", Some(format!("{registry}/tokio-1.38.0/src/runtime/task/raw.rs")), Library),
            (
                "poll",
                Some(
                    "/rustc/9fc6b43126469e3858e2fe86cafb4f0fd5068869/library/core/src/future.rs"
                        .to_owned(),
                ),
                Runtime,
            ),
            ("<core::pin::Pin<P> as core::future::future::Future>::poll", None, Runtime),
            ("<sqlx_core::pool::Pool<DB>>::acquire::{{closure}}", None, Driver),
            ("tokio::runtime::task::raw::poll", None, Library),
            ("shop::main", None, App),
        ] {
            assert_eq!(native(Role::Program, function, file.as_deref()), kind, "{function}");
        }
    }

    #[test]
    fn native_modules_are_told_by_their_file() {
        let role = |path: &str, executable, interpreted| {
            NativeModule::new(path.as_bytes(), executable, interpreted).role()
        };
        assert_eq!(role("/srv/shop", true, false), Role::Program);
        assert_eq!(role("/usr/bin/python3.11", true, true), Role::Runtime);
        assert_eq!(role("/usr/local/bin/renamed", true, true), Role::Runtime);
        assert_eq!(role("/usr/bin/nodeexporter", true, false), Role::Program);
        assert_eq!(role("/usr/lib/x86_64-linux-gnu/libc.so.6", false, false), Role::Runtime);
        assert_eq!(role("/usr/lib/x86_64-linux-gnu/libpq.so.5.15", false, false), Role::Driver);
        assert_eq!(role("/venv/psycopg2_binary.libs/libcrypto-1.so", false, true), Role::Driver);
        assert_eq!(role("/usr/lib/libuv.so.1", false, true), Role::Library);
    }

    #[test]
    fn what_is_linked_into_a_program_is_not_the_applications() {
        for (function, file, kind) in [
            ("PQexec", None, Driver),
            ("pqsecure_raw_write", None, Driver),
            ("__libc_start_call_main", None, Runtime),
            ("send", None, Runtime),
            ("send", Some("/srv/shop/mail.c"), App),
            ("load_user", None, App),
        ] {
            assert_eq!(native(Role::Program, function, file), kind, "{function}");
        }
    }

    #[test]
    fn scripts_are_told_by_the_innermost_package() {
        for (file, kind) in [
            ("/srv/node_modules/.pnpm/pg@8.11.0/node_modules/pg/lib/client.js", Driver),
            ("/srv/node_modules/@prisma/client/runtime/library.js", Driver),
            ("/srv/node_modules/@nestjs/core/router.js", Library),
            ("/srv/node_modules/pgx-helpers/index.js", Library),
            ("/srv/pg/app.js", App),
            ("node:internal/timers", Runtime),
        ] {
            assert_eq!(script(Some(file)), kind, "{file}");
        }
    }

    #[test]
    fn sources_are_told_by_the_innermost_package_wherever_they_were() {
        for (path, kind) in [
            ("/srv/node_modules/pg/lib/client.js", Driver),
            ("node_modules/pg/lib/client.js", Driver),
            ("node_modules/express/index.js", Library),
            ("webpack/bootstrap", Library),
            ("src/internal/orders.ts", App),
            ("internal/orders.ts", App),
            ("/srv/src/pg/orders.ts", App),
        ] {
            assert_eq!(original(path), kind, "{path}");
        }
    }

    #[test]
    fn python_code_is_told_by_its_package() {
        for (file, kind) in [
            ("/venv/lib/python3.11/site-packages/asyncpg/pool.py", Driver),
            ("/venv/lib/python3.11/site-packages/psycopg2/__init__.py", Driver),
            ("/venv/lib/python3.11/site-packages/sqlalchemy/pool/base.py", Library),
            ("/usr/lib/python3/dist-packages/django/db/__init__.py", Library),
            ("/opt/python/asyncpg/connection.py", Driver),
            ("/srv/shop/vendor/psycopg/_connection_base.py", Driver),
            ("/srv/shop/postgresql/orders.py", App),
            ("/srv/shop/asyncpg.py", App),
            ("/usr/lib/python3.11/asyncio/events.py", Runtime),
            ("/usr/lib/python311.zip/queue.pyc", Runtime),
            ("<frozen importlib._bootstrap>", Runtime),
            ("<string>", App),
        ] {
            assert_eq!(python(file), kind, "{file}");
        }
    }

    #[test]
    fn java_code_is_told_by_its_class() {
        for (class, file, kind) in [
            ("LeakyService", Some("LeakyService.java"), App),
            ("com.example.orders.Service$Inner", Some("Service.java"), App),
            ("com.example.orders.Service", None, App),
            ("javaee.Shop", Some("Shop.java"), App),
            ("java.util.concurrent.FutureTask", Some("FutureTask.java"), Runtime),
            ("jdk.internal.reflect.GeneratedMethodAccessor12", None, Runtime),
            ("com.sun.proxy.$Proxy12", None, Runtime),
            ("com.zaxxer.hikari.pool.HikariPool", Some("HikariPool.java"), Driver),
            ("org.hibernate.loader.Loader", Some("Loader.java"), Driver),
            ("org.springframework.jdbc.core.JdbcTemplate", Some("JdbcTemplate.java"), Driver),
            ("org.springframework.aop.framework.JdkDynamicAopProxy", None, Library),
            ("com.example.orders.Service$$SpringCGLIB$$0", Some("<generated>"), Library),
            ("com.example.orders.Service$$Lambda$14", None, Library),
            ("com.example.orders.OrderMapperImpl", Some("OrderMapperImpl.java"), App),
        ] {
            assert_eq!(java(class, file), kind, "{class}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "é".repeat(600);
        let cut = shortened(&name);
        assert!(cut.len() <= 516 && cut.ends_with('…'));
        assert_eq!(shortened("short"), "short");
    }
}
