//! Pools recognised in processes, on /proc trees made here and on hostile ones.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may panic; clippy knows only the test functions as tests"
)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tracer::{
    host::proc::ProcFs,
    model::{Pid, PoolSeen, Presence, Runtime},
    pools::Catalogue,
    recognise::{self, Facts},
};

const PID: u32 = 41;

/// A process in a tree of its own.
struct Tree {
    dir: TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { dir: TempDir::new().unwrap() };
        fs::create_dir_all(tree.proc().join("fd")).unwrap();
        fs::create_dir_all(tree.inside("/")).unwrap();
        symlink(tree.inside("/"), tree.proc().join("root")).unwrap();
        tree
    }

    fn proc(&self) -> PathBuf {
        self.dir.path().join("proc").join(PID.to_string())
    }

    /// A path of the process, outside.
    fn inside(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.inside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, to: impl AsRef<Path>) {
        let path = self.inside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// Started with these arguments, there, with these variables.
    fn started(&self, arguments: &[&str], cwd: &str, variables: &[&str]) {
        fs::write(self.proc().join("cmdline"), arguments.join("\0") + "\0").unwrap();
        fs::write(self.proc().join("environ"), variables.join("\0") + "\0").unwrap();
        fs::create_dir_all(self.inside(cwd)).unwrap();
        symlink(self.inside(cwd), self.proc().join("cwd")).unwrap();
    }

    /// These files are mapped, and there.
    fn maps(&self, paths: &[&str]) {
        let mut maps = String::new();
        for (n, path) in paths.iter().enumerate() {
            self.file(path, "");
            let start = (n + 1) * 0x10_000;
            maps += &format!("{start:x}-{:x} r--p 0 8:1 {} {path}\n", start + 0x1000, n + 5);
        }
        fs::write(self.proc().join("maps"), maps).unwrap();
    }

    fn opens(&self, fd: u32, path: &str) {
        symlink(self.inside(path), self.proc().join("fd").join(fd.to_string())).unwrap();
    }

    fn npm(&self, directory: &str, version: &str) {
        let json = format!("{{\"version\": \"{version}\", \"main\": \"index.js\"}}");
        self.file(&format!("{directory}/package.json"), json);
    }

    fn pools(&self, facts: &Facts<'_>) -> Vec<PoolSeen> {
        let catalogue = Catalogue::embedded().unwrap();
        let proc = ProcFs::at(self.dir.path().join("proc"));
        recognise::pools(&catalogue, &proc, Pid(PID), facts)
    }

    /// Names and presences for a runtime.
    fn of(&self, runtime: Runtime) -> Vec<(String, Presence)> {
        let facts = Facts { runtime: Some(runtime), ..Facts::default() };
        self.pools(&facts).into_iter().map(|pool| (pool.name, pool.presence)).collect()
    }

    fn how(&self, runtime: Runtime) -> String {
        let facts = Facts { runtime: Some(runtime), ..Facts::default() };
        let how = self.pools(&facts).into_iter().filter_map(|pool| pool.how);
        how.collect::<Vec<_>>().join("\n")
    }
}

fn is(found: &[(String, Presence)], expected: &[(&str, Presence)]) {
    let found: Vec<_> = found.iter().map(|(name, presence)| (name.as_str(), *presence)).collect();
    assert_eq!(found, expected);
}

const LOADED: Presence = Presence::Loaded;
const INSTALLED: Presence = Presence::Installed;

#[test]
fn a_package_of_npm_is_found_as_the_main_script_would() {
    let tree = Tree::new();
    tree.file("/srv/app/src/server.js", "");
    tree.npm("/srv/app/node_modules/pg", "8.16.0");
    tree.npm("/srv/app/node_modules/pg-pool", "3.10.0");
    tree.npm("/srv/app/src/node_modules/other", "1.0.0");
    let arguments = ["node", "--require", "tarn", "--inspect", "src/server.js", "--port", "1"];
    tree.started(&arguments, "/srv/app", &[]);
    is(&tree.of(Runtime::Node), &[("pg-pool", INSTALLED)]);
    let how = tree.how(Runtime::Node);
    assert!(
        how.starts_with(
            "pg-pool 3.10.0 is in /srv/app/node_modules/pg-pool for /srv/app/src/server.js;"
        ),
        "{how}"
    );
    // Another runtime has nothing to do with it.
    is(&tree.of(Runtime::Python), &[]);
}

#[test]
fn a_package_is_found_from_the_package_that_requires_it() {
    let tree = Tree::new();
    // As pnpm lays them out: only what the application names itself is at the top.
    tree.npm("/srv/app/node_modules/.pnpm/knex@3/node_modules/knex", "3.1.0");
    tree.npm("/srv/app/node_modules/.pnpm/knex@3/node_modules/tarn", "3.0.2");
    tree.link("/srv/app/node_modules/knex", ".pnpm/knex@3/node_modules/knex");
    tree.file("/srv/app/main.js", "");
    tree.link("/usr/local/bin/app", "/srv/app/main.js");
    tree.started(&["node", "/usr/local/bin/app"], "/", &[]);
    is(&tree.of(Runtime::Node), &[("tarn", INSTALLED)]);
}

#[test]
fn node_path_and_the_working_directory_count() {
    let tree = Tree::new();
    tree.npm("/opt/modules/mysql2", "3.0.0");
    tree.npm("/srv/app/node_modules/pg-pool", "3.10.0");
    // A process that gave itself a title.
    tree.started(&["app: worker 3"], "/srv/app", &["HOME=/root", "NODE_PATH=/none:/opt/modules"]);
    is(&tree.of(Runtime::Node), &[("mysql2", INSTALLED), ("pg-pool", INSTALLED)]);
}

#[test]
fn a_file_that_marks_checkouts_is_told_by_how_the_process_was_started() {
    let notes = |arguments: &[&str], variables: &[&str]| {
        let tree = Tree::new();
        tree.npm("/srv/app/node_modules/pg-pool", "3.10.0");
        tree.npm("/srv/app/node_modules/tarn", "3.0.0");
        tree.started(arguments, "/srv/app", variables);
        let facts = Facts { runtime: Some(Runtime::Node), ..Facts::default() };
        let said = |pool: PoolSeen| Some((pool.name, pool.note?));
        tree.pools(&facts).into_iter().filter_map(said).collect::<Vec<_>>()
    };
    let note = "The process loads connleak-node.js: checkouts that it marks are observed.";
    let told = [("pg-pool".to_owned(), note.to_owned())];
    let plain = &["node", "main.js"];
    assert_eq!(notes(&["node", "-r", "/opt/connleak-node.js", "main.js"], &[]), told);
    assert_eq!(notes(plain, &["NODE_OPTIONS=-r ./connleak-node.js"]), told);
    assert_eq!(notes(plain, &["OTHER=connleak-node.js"]), []);
}

#[test]
fn a_directory_that_marks_checkouts_is_told_by_what_the_interpreter_heeds() {
    let notes = |arguments: &[&str], variables: &[&str]| {
        let tree = Tree::new();
        let site = "/opt/venv/lib/python3.11/site-packages";
        tree.maps(&[&format!("{site}/asyncpg/protocol/protocol.cpython-311-x86_64-linux-gnu.so")]);
        tree.started(arguments, "/srv/app", variables);
        let facts = Facts { runtime: Some(Runtime::Python), ..Facts::default() };
        let said = |pool: PoolSeen| Some((pool.name, pool.note?));
        tree.pools(&facts).into_iter().filter_map(said).collect::<Vec<_>>()
    };
    let note = "The process loads connleak_python: checkouts that it marks are observed.";
    let told = [("asyncpg".to_owned(), note.to_owned())];
    let search = &["PYTHONPATH=/srv/lib:/opt/connleak_python"];
    for arguments in [
        &["python3", "main.py"][..],
        &["python3", "-Bu", "-W", "error::ImportWarning", "-X", "dev", "-m", "app", "-I"],
        &["python3", "-Wignore:S", "-OO", "main.py", "-S"],
        &["python3", "--check-hash-based-pycs", "never", "-E"],
        &["python3"],
        &["app: worker 3"],
        &[],
    ] {
        assert_eq!(notes(arguments, search), told, "{arguments:?}");
    }
    for arguments in
        [&["python3", "-I", "main.py"][..], &["python3", "-X", "dev", "-BE", "-m", "app"]]
    {
        assert_eq!(notes(arguments, search), [], "{arguments:?}");
    }
    let plain = &["python3", "connleak_python"];
    assert_eq!(notes(plain, &["PYTHONPATH=/opt/connleak_python_2"]), []);
    assert_eq!(notes(plain, &["OTHER=/opt/connleak_python"]), []);
}

#[test]
fn a_perf_map_tells_that_a_package_is_loaded() {
    let tree = Tree::new();
    tree.npm("/srv/app/node_modules/pg-pool", "3.10.0");
    tree.started(&["node", "main.js"], "/srv/app", &[]);
    let map = |path: &str| {
        let filler = "7f00 10 LazyCompile:~f /srv/app/main.js:1:1\n".repeat(20_000);
        tree.file("/tmp/perf-41.map", filler + &format!("7f10 10 LazyCompile:~c {path}:90:10\n"));
    };
    map("/srv/app/node_modules/pg-pool-extra/index.js");
    is(&tree.of(Runtime::Node), &[("pg-pool", INSTALLED)]);
    map("/srv/app/node_modules/pg-pool/index.js");
    is(&tree.of(Runtime::Node), &[("pg-pool", LOADED)]);
}

#[test]
fn python_has_loaded_what_it_has_mapped() {
    let tree = Tree::new();
    let site = "/opt/venv/lib/python3.11/site-packages";
    tree.maps(&[
        &format!("{site}/psycopg2/_psycopg.cpython-311-x86_64-linux-gnu.so"),
        &format!("{site}/sqlalchemy/util/_collections_cy.cpython-311-x86_64-linux-gnu.so"),
        &format!("{site}/asyncpg/protocol/protocol.cpython-311-x86_64-linux-gnu.so"),
    ]);
    tree.file(&format!("{site}/SQLAlchemy-2.1.9.dist-info/METADATA"), "");
    tree.file(&format!("{site}/psycopg2/pool.py"), "");
    tree.file(&format!("{site}/psycopg_pool/__init__.py"), "");
    is(
        &tree.of(Runtime::Python),
        &[("asyncpg", LOADED), ("psycopg2.pool", INSTALLED), ("SQLAlchemy QueuePool", LOADED)],
    );
    let how = tree.how(Runtime::Python);
    assert!(how.contains("is loaded (sqlalchemy 2.1.9)"), "{how}");
}

#[test]
fn python_may_use_what_is_installed() {
    let tree = Tree::new();
    let site = "/opt/venv/lib/python3.11/site-packages";
    tree.file("/opt/venv/pyvenv.cfg", "");
    tree.link("/opt/venv/bin/python3", "/usr/bin/python3");
    tree.started(&["bin/python3", "app.py"], "/opt/venv", &[]);
    tree.maps(&["/usr/lib/x86_64-linux-gnu/libpq.so.5"]);
    tree.file(&format!("{site}/psycopg_pool/__init__.py"), "");
    tree.file(&format!("{site}/psycopg_pool-3.3.3.dist-info/METADATA"), "");
    tree.file(&format!("{site}/sqlalchemy/__init__.py"), "");
    let libpq = PoolSeen {
        name: "libpq".to_owned(),
        observed: false,
        note: None,
        presence: LOADED,
        how: None,
        pooler: false,
        behaviour: None,
    };
    let found = std::slice::from_ref(&libpq);
    let facts = Facts { runtime: Some(Runtime::Python), found, ..Facts::default() };
    let names = |pools: Vec<PoolSeen>| pools.into_iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!(names(tree.pools(&facts)), ["psycopg_pool", "SQLAlchemy QueuePool"]);
    assert!(tree.pools(&facts)[0].how.as_ref().unwrap().starts_with("psycopg_pool 3.3.3 is in"));
    // psycopg 3 loads libpq, and SQLAlchemy its native code where it has some.
    tree.file(&format!("{site}/sqlalchemy/util/_row_cy.cpython-311.so"), "");
    let without = Facts { found: &[], ..facts };
    assert_eq!(names(tree.pools(&without)), Vec::<String>::new());
}

#[test]
fn java_holds_its_jars_open() {
    let tree = Tree::new();
    tree.file("/srv/lib/HikariCP-6.0.0.jar", "");
    tree.file("/srv/lib/postgresql-42.7.4.jar", "");
    tree.opens(5, "/srv/lib/HikariCP-6.0.0.jar");
    tree.opens(6, "/srv/lib/postgresql-42.7.4.jar");
    is(&tree.of(Runtime::Java), &[("HikariCP", LOADED), ("pgjdbc", LOADED)]);

    let tree = Tree::new();
    let directory = b"PK\x01\x02..BOOT-INF/lib/HikariCP-5.1.0.jarPK\x01\x02..PK\x05\x06".to_vec();
    tree.file("/srv/app.jar", [vec![0; 5 << 20], directory].concat());
    tree.opens(5, "/srv/app.jar");
    is(&tree.of(Runtime::Java), &[("HikariCP", INSTALLED)]);
    assert!(tree.how(Runtime::Java).starts_with("HikariCP-5.1.0.jar is in /srv/app.jar;"));
}

#[test]
fn php_ruby_and_dotnet_have_loaded_or_installed_theirs() {
    let tree = Tree::new();
    tree.maps(&["/usr/lib/php/20220829/pdo_pgsql.so"]);
    is(&tree.of(Runtime::Php), &[("PHP persistent connections", LOADED)]);

    let tree = Tree::new();
    let gems = "/usr/local/bundle/gems";
    tree.maps(&[&format!("{gems}/pg-1.5.9/lib/pg_ext.so")]);
    tree.file(&format!("{gems}/activerecord-8.0.1/lib/active_record.rb"), "");
    tree.file(&format!("{gems}/activerecord-import-2.0.0/x.rb"), "");
    is(&tree.of(Runtime::Ruby), &[("Active Record", INSTALLED)]);
    assert!(tree.how(Runtime::Ruby).starts_with("activerecord 8.0.1 is in"));

    let tree = Tree::new();
    tree.maps(&["/app/Npgsql.dll"]);
    is(&tree.of(Runtime::Dotnet), &[("Npgsql", LOADED)]);
}

#[test]
fn a_pooler_is_known_by_its_program() {
    let tree = Tree::new();
    for (comm, exe) in [("pgbouncer", None), ("main", Some("/usr/sbin/pgbouncer"))] {
        let facts = Facts { comm: Some(comm), exe, ..Facts::default() };
        let pools = tree.pools(&facts);
        assert_eq!(pools.len(), 1, "{pools:#?}");
        assert!(pools[0].pooler && pools[0].name == "PgBouncer");
    }
    let facts = Facts { comm: Some("pgbouncer-exporter"), ..Facts::default() };
    assert_eq!(tree.pools(&facts), []);
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let tree = Tree::new();
    let outside = TempDir::new().unwrap();
    fs::create_dir_all(outside.path().join("pg-pool")).unwrap();
    fs::write(outside.path().join("pg-pool/package.json"), "{\"version\":\"1.0.0\"}").unwrap();
    tree.file("/srv/app/main.js", "");
    tree.link("/srv/app/node_modules", outside.path());
    tree.started(&["node", "/srv/app/main.js"], "/srv/app", &[]);
    is(&tree.of(Runtime::Node), &[]);
    let root = ProcFs::at(tree.dir.path().join("proc")).root_of(Pid(PID)).unwrap();
    assert_eq!(root.read(Path::new("/srv/app/node_modules/pg-pool/package.json"), 100), None);
    assert_eq!(root.names(Path::new("/srv/app/node_modules"), 9), Vec::<OsString>::new());
    // The same path below the root is the process's own.
    tree.npm(&format!("{}/pg-pool", outside.path().display()), "2.0.0");
    is(&tree.of(Runtime::Node), &[("pg-pool", INSTALLED)]);
    assert!(tree.how(Runtime::Node).starts_with("pg-pool 2.0.0 "));
    let up = "../".repeat(40) + outside.path().to_str().unwrap();
    tree.link("/srv/app/out", up);
    assert_eq!(
        root.real(Path::new("/srv/app/out/pg-pool")),
        Some(outside.path().join("pg-pool")),
        "resolved, but below the root"
    );
    assert_eq!(root.read(Path::new("/srv/app/out/pg-pool/package.json"), 5), None, "too long");
}

#[test]
fn hostile_trees_give_less_and_never_block() {
    let tree = Tree::new();
    let app = tree.inside("/srv/app/node_modules/pg-pool");
    fs::create_dir_all(&app).unwrap();
    make_fifo(&app.join("package.json"));
    make_fifo(&tree.inside("/perf.map"));
    tree.link("/tmp/perf-41.map", "/perf.map");
    tree.link("/srv/app/loop", "/srv/app/loop");
    let long = "x".repeat(100_000);
    tree.started(&["node", "loop", &long], "/srv/app", &["NODE_PATH=:::/loop\u{fffd}:", &long]);
    fs::write(tree.proc().join("maps"), [0xff; 4096]).unwrap();
    is(&tree.of(Runtime::Node), &[]);

    let deep = "node_modules/".repeat(300);
    tree.file("/srv/app/node_modules/tarn/package.json", "[".repeat(1 << 20));
    tree.link("/srv/app/node_modules/knex", &deep);
    is(&tree.of(Runtime::Node), &[("tarn", INSTALLED)]);
    assert!(tree.how(Runtime::Node).starts_with("tarn is in /srv/app/node_modules/tarn"));
    for runtime in [Runtime::Python, Runtime::Java, Runtime::Ruby, Runtime::Php, Runtime::Dotnet] {
        is(&tree.of(runtime), &[]);
    }
    let gone = Tree::new();
    fs::remove_dir_all(gone.proc()).unwrap();
    for runtime in [Runtime::Node, Runtime::Python, Runtime::Java, Runtime::Ruby] {
        is(&gone.of(runtime), &[]);
    }
}

fn make_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
