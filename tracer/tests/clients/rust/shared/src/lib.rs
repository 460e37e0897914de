//! What the clients of all pools share: the line protocol of `../README.md`, the server's
//! variables, and the pace of a user's requests.

use std::env;
use std::io::{self, BufRead as _, Write as _};
use std::process;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Whatever goes wrong: the test must hear of it.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Between two requests.
pub const PACE: Duration = Duration::from_millis(150);
/// Some time later.
pub const LATER: Duration = Duration::from_millis(1500);

/// Two worker threads: enough for tasks to move between them, and for every pool.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads")
}

/// The server that the environment names, as `host=... port=...`.
pub fn server() -> String {
    let parameters =
        [("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER"), ("dbname", "PGDATABASE")];
    let one = |(name, variable)| Some(format!("{name}={}", env::var(variable).ok()?));
    parameters.into_iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

/// Name and version of packages, as the lock file pins them.
fn versions(packages: &[&str]) -> String {
    let lock = include_str!("../../Cargo.lock");
    let version = |package: &&str| {
        let entry = format!("name = \"{package}\"\nversion = \"");
        let (_, rest) = lock.split_once(&entry).expect("a package of the lock file");
        let (version, _) = rest.split_once('"').expect("a version");
        format!("{package} {version}")
    };
    packages.iter().map(version).collect::<Vec<_>>().join(", ")
}

/// The words of a command.
pub struct Words<'a>(Vec<&'a str>);

impl Words<'_> {
    pub fn verb(&self) -> &str {
        self.0.first().copied().unwrap_or_default()
    }

    pub fn shape(&self) -> &str {
        self.0.get(1).copied().unwrap_or_default()
    }

    /// The number that ends the command.
    pub fn count(&self) -> Result<u64> {
        Ok(self.0.last().ok_or("no number")?.parse()?)
    }

    pub fn unknown<T>(&self) -> Result<T> {
        Err(format!("no command {}", self.0.join(" ")).into())
    }
}

/// Carries out the commands that every synchronous client has: requests that leak in some way, each
/// followed by a healthy one or (`leak_alone`) not, healthy ones, and a pause. `None` for another
/// command.
pub fn requests(
    words: &Words,
    mut leak: impl FnMut(&str) -> Result<()>,
    mut request: impl FnMut() -> Result<()>,
) -> Option<Result<()>> {
    let mut round = |leaks: bool, ends: bool| {
        for _ in 0..words.count()? {
            if leaks {
                leak(words.shape())?;
                thread::sleep(PACE);
            }
            if ends {
                request()?;
                thread::sleep(PACE);
            }
        }
        Ok(())
    };
    Some(match words.verb() {
        "leak" => round(true, true),
        "leak_alone" => round(true, false),
        "healthy" => round(false, true),
        "later" => {
            thread::sleep(LATER);
            Ok(())
        }
        _ => return None,
    })
}

/// Carries out commands until the end of the input; ends without dropping anything.
pub fn serve(packages: &[&str], mut run: impl FnMut(&Words) -> Result<()>) -> ! {
    let mut out = io::stdout();
    writeln!(out, "ready {} {}", process::id(), versions(packages)).expect("stdout");
    for line in io::stdin().lock().lines() {
        let line = line.expect("stdin");
        let words = Words(line.split_whitespace().collect());
        if words.verb() == "quit" {
            break;
        }
        match run(&words) {
            Ok(()) => writeln!(out, "done {}", line.trim()),
            Err(error) => writeln!(out, "error {}", error.to_string().replace('\n', " ")),
        }
        .expect("stdout");
    }
    process::exit(0)
}

/// Another service, which accepts a request and never answers.
pub struct Outside(TcpListener);

impl Outside {
    pub async fn start() -> Result<Self> {
        Ok(Self(TcpListener::bind("127.0.0.1:0").await?))
    }

    /// A call of it.
    pub async fn call(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect(self.0.local_addr()?).await?)
    }
}

/// Waits for an answer that does not come.
pub async fn answer(call: &TcpStream) -> Result<()> {
    call.readable().await?;
    Ok(())
}

/// So many threads at a point, all at once.
pub fn barrier(count: u64) -> Result<Arc<Barrier>> {
    Ok(Arc::new(Barrier::new(usize::try_from(count)?)))
}
