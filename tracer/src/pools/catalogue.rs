//! Pools as data: one TOML file each.
//!
//! May import the contract's probe layout and the model's plain types. Invariant: what [`Catalogue`] holds is checked:
//! every register, offset and chain fits the kernel side's layout.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use thiserror::Error;
use tracer_ebpf::{
    limits::MAX_KEY_SEARCH,
    mark::{POOLS, TAKEN},
    probe::{
        ACTION_ACQUIRE, ACTION_CONNECT, ACTION_ENTER, ACTION_FORGET, ACTION_RELEASE, Chain,
        MAX_CHAIN_STEPS, MAX_CHAINS, ProbeSpec, REG_RAX, REG_RBX, REG_RCX, REG_RDI, REG_RDX,
        REG_RSI,
    },
};

use super::size::{OBJECT_BYTES, SizeLayout};
use crate::model::{Behaviour, Runtime};

/// The files that come with connleak.
const EMBEDDED: [(&str, &str); 27] = [
    ("database-sql.toml", include_str!("../../pools/database-sql.toml")),
    ("pgxpool-v4.toml", include_str!("../../pools/pgxpool-v4.toml")),
    ("pgxpool-v5.toml", include_str!("../../pools/pgxpool-v5.toml")),
    ("libpq.toml", include_str!("../../pools/libpq.toml")),
    ("sqlx.toml", include_str!("../../pools/sqlx.toml")),
    ("deadpool.toml", include_str!("../../pools/deadpool.toml")),
    ("bb8.toml", include_str!("../../pools/bb8.toml")),
    ("r2d2.toml", include_str!("../../pools/r2d2.toml")),
    ("activerecord.toml", include_str!("../../pools/activerecord.toml")),
    ("asyncpg.toml", include_str!("../../pools/asyncpg.toml")),
    ("hikaricp.toml", include_str!("../../pools/hikaricp.toml")),
    ("mysql2.toml", include_str!("../../pools/mysql2.toml")),
    ("npgsql.toml", include_str!("../../pools/npgsql.toml")),
    ("odyssey.toml", include_str!("../../pools/odyssey.toml")),
    ("pg-pool.toml", include_str!("../../pools/pg-pool.toml")),
    ("pgbouncer.toml", include_str!("../../pools/pgbouncer.toml")),
    ("pgcat.toml", include_str!("../../pools/pgcat.toml")),
    ("pgdog.toml", include_str!("../../pools/pgdog.toml")),
    ("pgjdbc.toml", include_str!("../../pools/pgjdbc.toml")),
    ("pgpool.toml", include_str!("../../pools/pgpool.toml")),
    ("php.toml", include_str!("../../pools/php.toml")),
    ("psycopg-pool.toml", include_str!("../../pools/psycopg-pool.toml")),
    ("psycopg2-pool.toml", include_str!("../../pools/psycopg2-pool.toml")),
    ("sequelize-pool.toml", include_str!("../../pools/sequelize-pool.toml")),
    ("sqlalchemy.toml", include_str!("../../pools/sqlalchemy.toml")),
    ("supavisor.toml", include_str!("../../pools/supavisor.toml")),
    ("tarn.toml", include_str!("../../pools/tarn.toml")),
];

/// What is wrong with a file of the catalogue.
#[derive(Debug, Error)]
pub enum CatalogueError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    /// The text names the line.
    #[error("{file}: {error}")]
    Syntax { file: String, error: toml::de::Error },
    #[error("{file}: {problem}")]
    Content { file: String, problem: String },
}

/// What a probe's point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Acquire,
    Release,
    Forget,
    Connect,
    /// An acquire begins; the handle is the pool, or leads to it.
    Enter,
}

/// Where in its function a probe sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    Entry,
    /// At every RET.
    Returns,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Register {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rdi,
    Rsi,
}

/// How a file's functions are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Names {
    /// As in the symbol table, or in Go's function table.
    #[default]
    Exact,
    /// Plain paths of Rust: see [`rust_names`](crate::binary::rust_names).
    Rust,
}

/// What tells a pool.
///
/// Of an executable or library all that is given of functions and text must hold; of a process any
/// of the rest suffices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recognise {
    pub runtime: Option<Runtime>,
    pub any_function: Vec<String>,
    pub all_functions: Vec<String>,
    /// In the read-only data; for what has no symbols.
    pub text: Option<String>,
    /// The process runs a program of this file name.
    pub programs: Vec<String>,
    /// Ends of paths that the process has mapped or open; `*` stands for any part of a name.
    pub files: Vec<String>,
    /// In the directory of jars of a jar that is open.
    pub in_jar: Option<String>,
    /// Packages of npm, each as the one before it requires it, the first as the main script does.
    pub npm: Vec<Vec<String>>,
    /// A package that Python could import.
    pub python: Option<String>,
    pub beside: Option<Beside>,
    /// A gem installed where loaded ones are.
    pub gem: Option<String>,
    /// Only where this driver of the catalogue is loaded.
    pub needs: Option<String>,
}

/// A file in the directory of one that is mapped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Beside {
    /// As in [`Recognise::files`].
    pub file: String,
    pub path: String,
}

impl Recognise {
    /// It can be told from an executable or library alone.
    pub(super) fn is_of_code(&self) -> bool {
        !self.any_function.is_empty()
            || !self.all_functions.is_empty()
            || self.text.as_ref().is_some_and(|text| !text.is_empty())
    }

    /// It can be told from a process.
    pub(crate) fn is_of_process(&self) -> bool {
        !self.programs.is_empty()
            || !self.files.is_empty()
            || self.in_jar.is_some()
            || self.npm.iter().any(|chain| !chain.is_empty())
            || self.python.is_some()
            || self.beside.is_some()
            || self.gem.is_some()
    }
}

/// A probe of a pool.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub function: String,
    pub action: Action,
    pub at: At,
    /// Its absence does not limit what is observed.
    pub optional: bool,
    /// Of a probe whose chains an accessor tells, without chains.
    pub spec: ProbeSpec,
    /// Function of the same file whose loads from its first argument are the chains.
    pub accessor: Option<String>,
}

/// How a process that opts in [marks](tracer_ebpf::mark) the checkouts of a pool.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marked {
    /// Name of the file or directory that it was told to load.
    pub by: String,
    /// The byte that tells the pool.
    byte: char,
}

impl Marked {
    /// The byte's place among all.
    #[must_use]
    pub fn place(&self) -> usize {
        (self.byte as usize).wrapping_sub(usize::from(TAKEN))
    }
}

/// A pool or driver of the catalogue.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    /// False for a driver without a pool.
    pub is_pool: bool,
    /// The process itself pools connections for its own clients.
    pub pooler: bool,
    /// `None` for what is no pool in a process.
    pub behaviour: Option<Behaviour>,
    pub(crate) recognise: Recognise,
    pub(super) names: Names,
    /// What marks its checkouts, where a process loads it.
    pub marked: Option<Marked>,
    /// Why nothing of it is probed, in words.
    pub(super) unobserved: Option<String>,
    pub(super) probes: Vec<Probe>,
    /// Where its object says how many connections it may have.
    pub sizes: Vec<SizeLayout>,
}

impl Pool {
    /// Its probes find the connection by the key of the server's backend, which the wire tells.
    #[must_use]
    pub fn joins_by_key(&self) -> bool {
        self.probes.iter().any(|probe| probe.spec.key_within != 0)
    }

    /// Between its functions and the application's are poll functions, which keep whole futures in
    /// their frames: the smallest copies of stacks end among them.
    #[must_use]
    pub fn has_deep_stacks(&self) -> bool {
        self.names == Names::Rust
    }
}

/// All pools that are looked for.
#[derive(Clone, Debug)]
pub struct Catalogue {
    pools: Vec<Pool>,
}

impl Catalogue {
    /// The catalogue that comes with connleak.
    ///
    /// # Errors
    /// Never for a released build: the tests parse every file.
    pub fn embedded() -> Result<Self, CatalogueError> {
        Self::with_files(&[])
    }

    /// The embedded catalogue and `paths`. A file whose pool has the name of an embedded one
    /// replaces it.
    ///
    /// # Errors
    /// When a file cannot be read or is not a pool of the catalogue's form.
    pub fn with_files(paths: &[PathBuf]) -> Result<Self, CatalogueError> {
        let mut catalogue = Self { pools: Vec::new() };
        for (file, text) in EMBEDDED {
            catalogue.add(file, text)?;
        }
        for path in paths {
            let text = std::fs::read_to_string(path)
                .map_err(|error| CatalogueError::Read { path: path.clone(), error })?;
            catalogue.add(&path.display().to_string(), &text)?;
        }
        Ok(catalogue)
    }

    /// Pools by [`ProbeSpec::pool`].
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The pool with this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    fn add(&mut self, file: &str, text: &str) -> Result<(), CatalogueError> {
        let raw: File = toml::from_str(text)
            .map_err(|error| CatalogueError::Syntax { file: file.to_owned(), error })?;
        let index = self.pools.iter().position(|pool| pool.name == raw.name);
        let at = index.unwrap_or(self.pools.len());
        let pool = check(raw, at as u32)
            .map_err(|problem| CatalogueError::Content { file: file.to_owned(), problem })?;
        match index {
            Some(index) => self.pools[index] = pool,
            None => self.pools.push(pool),
        }
        Ok(())
    }
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    is_pool: bool,
    #[serde(default)]
    pooler: bool,
    recognise: Recognise,
    #[serde(default)]
    names: Names,
    unobserved: Option<String>,
    marked: Option<Marked>,
    #[serde(default, rename = "probe")]
    probes: Vec<RawProbe>,
    #[serde(default)]
    chains: BTreeMap<String, Chains>,
    #[serde(default, rename = "size")]
    sizes: Vec<SizeLayout>,
    behaviour: Option<Behaviour>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    function: String,
    action: Action,
    at: At,
    register: Register,
    deref: Option<i32>,
    chains: Option<String>,
    /// The object has the key of the server's backend within so many bytes.
    key_within: Option<u32>,
    unless: Option<Unless>,
    #[serde(default)]
    optional: bool,
}

/// A word of the object that says that there is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unless {
    offset: u32,
    /// TOML's integers have a sign.
    value: i64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "chains are lists of offsets, or { accessor = \"FUNCTION\" }")]
enum Chains {
    Offsets(Vec<Vec<i32>>),
    Accessor { accessor: String },
}

fn check(raw: File, index: u32) -> Result<Pool, String> {
    if raw.name.is_empty() {
        return Err("name is empty".to_owned());
    }
    if !raw.recognise.is_of_code() && !raw.recognise.is_of_process() {
        return Err("[recognise] names nothing that tells it".to_owned());
    }
    if !raw.sizes.iter().all(SizeLayout::is_within) {
        return Err(format!("[[size]] names places within {OBJECT_BYTES} bytes"));
    }
    if raw.marked.as_ref().is_some_and(|marked| marked.place() >= POOLS) {
        return Err(format!("[marked] has one of {POOLS} bytes, {:?} the first", TAKEN as char));
    }
    if raw.is_pool != raw.behaviour.is_some() {
        return Err("a pool needs [behaviour], and a driver without a pool has none".to_owned());
    }
    // What native code calls blocks its thread; Go's goroutines change theirs.
    let by_thread =
        raw.names == Names::Rust && raw.probes.iter().any(|probe| probe.action == Action::Enter);
    let mut probes = Vec::new();
    for probe in raw.probes {
        let is_of_callers = matches!(probe.action, Action::Acquire | Action::Enter);
        let mut spec = ProbeSpec {
            action: match probe.action {
                Action::Acquire => ACTION_ACQUIRE,
                Action::Release => ACTION_RELEASE,
                Action::Forget => ACTION_FORGET,
                Action::Connect => ACTION_CONNECT,
                Action::Enter => ACTION_ENTER,
            },
            register: match probe.register {
                Register::Rax => REG_RAX,
                Register::Rbx => REG_RBX,
                Register::Rcx => REG_RCX,
                Register::Rdx => REG_RDX,
                Register::Rdi => REG_RDI,
                Register::Rsi => REG_RSI,
            },
            derefs: u8::from(probe.deref.is_some()),
            deref_offset: probe.deref.unwrap_or(0),
            pool: index,
            key_within: probe.key_within.unwrap_or(0),
            by_thread: u16::from(by_thread && is_of_callers),
            ..ProbeSpec::default()
        };
        if probe.key_within.is_some()
            && matches!(probe.action, Action::Release | Action::Forget)
            && probe.unless.is_none()
        {
            // They have no handle to forget, and whose the connection was is known: one entry does
            // for all pools.
            (spec.action, spec.pool) = (ACTION_RELEASE, 0);
        }
        if let Some(unless) = &probe.unless {
            spec.has_unless = 1;
            spec.unless_offset = unless.offset;
            spec.unless = unless.value.cast_unsigned();
        }
        if probe.key_within.is_some_and(|bytes| bytes == 0 || bytes > MAX_KEY_SEARCH) {
            return Err(format!("{}: key_within is 1 to {MAX_KEY_SEARCH}", probe.function));
        }
        if probe.key_within.is_some() && probe.deref.is_some() {
            return Err(format!("{}: key_within has no deref", probe.function));
        }
        if probe.unless.is_some() && probe.key_within.is_none() {
            return Err(format!("{}: unless goes with key_within", probe.function));
        }
        // Entry probes fire before anything is returned, so an acquire there has no handle; and a
        // release at the return may come after the next acquire of the same connection.
        let at = match probe.action {
            Action::Acquire | Action::Connect => At::Returns,
            Action::Release | Action::Forget | Action::Enter => At::Entry,
        };
        if probe.at != at {
            let (action, at) = match at {
                At::Returns => ("acquire or connect", "returns"),
                At::Entry => ("release, forget or enter", "entry"),
            };
            return Err(format!("{}: {action} is probed at = \"{at}\"", probe.function));
        }
        let mut accessor = None;
        match (&probe.chains, at) {
            (None, At::Returns) if probe.key_within.is_some() => {}
            (Some(name), At::Returns) => match raw.chains.get(name) {
                Some(Chains::Offsets(chains)) => set_chains(&mut spec, chains)
                    .map_err(|problem| format!("chains {name}: {problem}"))?,
                Some(Chains::Accessor { accessor: function }) => accessor = Some(function.clone()),
                None => return Err(format!("{}: no chains {name}", probe.function)),
            },
            (None, At::Entry) => {}
            _ => {
                return Err(format!(
                    "{}: acquire and connect need chains or key_within; release, forget and \
                     enter have no chains",
                    probe.function
                ));
            }
        }
        probes.push(Probe {
            function: probe.function,
            action: probe.action,
            at: probe.at,
            optional: probe.optional,
            spec,
            accessor,
        });
    }
    Ok(Pool {
        name: raw.name,
        is_pool: raw.is_pool,
        pooler: raw.pooler,
        behaviour: raw.behaviour,
        recognise: raw.recognise,
        names: raw.names,
        marked: raw.marked,
        unobserved: raw.unobserved,
        probes,
        sizes: raw.sizes,
    })
}

/// Writes `chains` into `spec`.
pub(super) fn set_chains(spec: &mut ProbeSpec, chains: &[Vec<i32>]) -> Result<(), String> {
    if chains.is_empty() || chains.len() > MAX_CHAINS {
        return Err(format!("{} chains; 1 to {MAX_CHAINS} are possible", chains.len()));
    }
    spec.chain_count = chains.len() as u8;
    for (to, from) in spec.chains.iter_mut().zip(chains) {
        let mut chain = Chain { len: from.len() as u32, ..Chain::default() };
        match chain.offsets.get_mut(..from.len()) {
            Some(offsets) if !from.is_empty() => offsets.copy_from_slice(from),
            _ => {
                return Err(format!("{} offsets; 1 to {MAX_CHAIN_STEPS} are possible", from.len()));
            }
        }
        *to = chain;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::Catalogue;
    use crate::{model::IdleOrder, pools::ProbeTable};

    /// What is wrong with `text`, as the user reads it.
    fn problem(text: &str) -> String {
        let mut catalogue = Catalogue::embedded().expect("catalogue");
        catalogue.add("mine.toml", text).expect_err("refused").to_string()
    }

    fn mine() -> String {
        include_str!("../../pools/pgxpool-v5.toml").replace("pgxpool v5", "mine")
    }

    #[test]
    fn the_embedded_files_are_a_catalogue_that_fits_the_probe_programs() {
        let catalogue = Catalogue::embedded().expect("catalogue");
        let table = ProbeTable::new(&catalogue).expect("fits");
        assert_eq!(table.specs().len(), 20);
        for spec in table.specs() {
            assert!(catalogue.pools().get(spec.pool as usize).is_some());
        }
        let marked = catalogue.pools().iter().filter_map(|pool| pool.marked.as_ref());
        let places: Vec<_> = marked.map(super::Marked::place).collect();
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len(), "{places:?}");
        let pool = catalogue.pool("database/sql").expect("database/sql");
        let behaviour = pool.behaviour.as_ref().expect("behaviour");
        assert_eq!((behaviour.idle_order, behaviour.return_ms), (Some(IdleOrder::Lifo), 1_000));
    }

    #[test]
    fn a_users_file_adds_a_pool_or_replaces_the_one_of_its_name() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let paths = [PathBuf::from(file.path())];
        let count = Catalogue::embedded().expect("catalogue").pools().len();
        std::fs::write(file.path(), mine()).expect("write");
        let catalogue = Catalogue::with_files(&paths).expect("catalogue");
        assert_eq!(catalogue.pools().len(), count + 1);
        assert!(catalogue.pool("mine").is_some());

        std::fs::write(file.path(), mine().replace("name = \"mine\"", "name = \"libpq\""))
            .expect("write");
        let catalogue = Catalogue::with_files(&paths).expect("catalogue");
        assert_eq!(catalogue.pools().len(), count);
        assert!(catalogue.pool("libpq").expect("libpq").is_pool);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let missing = Catalogue::with_files(&[PathBuf::from("/nonexistent/mine.toml")]);
        assert!(missing.expect_err("refused").to_string().starts_with("/nonexistent/mine.toml: "));
        let text = problem(&mine().replace("register = \"rax\"", "register = \"r99\""));
        assert!(text.starts_with("mine.toml: TOML parse error at line "), "{text}");
        assert!(text.contains("unknown variant `r99`"), "{text}");
        let text = problem(&mine().replace("chains = \"resource\"", "chains = \"other\""));
        assert!(text.ends_with("pgxpool.(*Pool).Acquire: no chains other"), "{text}");
        let text = problem(&mine().replace("[0, 0, 0, 8, 0, 16],", "[0, 0, 0, 0, 0, 0, 0, 0, 0],"));
        assert_eq!(text, "mine.toml: chains resource: 9 offsets; 1 to 8 are possible");
        let text = problem(&mine().replace("at = \"returns\"", "at = \"entry\""));
        assert!(text.ends_with("acquire or connect is probed at = \"returns\""), "{text}");
        let text = problem(&mine().replace("is_pool = true", "is_pool = false"));
        assert!(text.contains("[behaviour]"), "{text}");
        let text =
            problem(&mine().replace("[chains]", "[marked]\nby = \"x\"\nbyte = \"i\"\n[chains]"));
        assert_eq!(text, "mine.toml: [marked] has one of 8 bytes, 'a' the first");
        let text = problem("name = \"mine\"\nis_pool = false\nrecognise = {}\n");
        assert_eq!(text, "mine.toml: [recognise] names nothing that tells it");
    }

    #[test]
    fn more_probes_than_programs_are_refused() {
        let mut catalogue = Catalogue::embedded().expect("catalogue");
        for index in 0..8 {
            let text = mine().replace("\"mine\"", &format!("\"mine {index}\""));
            catalogue.add("mine.toml", &text).expect("a pool");
        }
        let error = ProbeTable::new(&catalogue).expect_err("refused").to_string();
        assert!(error.contains("more than 24 different ones"), "{error}");
    }
}
