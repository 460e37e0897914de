//! The programs that are watched: `cargo xtask bench load …`, started by the measurements only.
//!
//! May import `std` only. They do a known number of system calls of one kind, so that what the
//! tracer's programs took can be divided by it. Each prints `ready`, then takes commands from its
//! standard input and ends with it.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Be watched
#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    /// A server that answers more than it is asked, in large writes
    Answer { port: u16 },
    /// A client of that server that does system calls of one kind: see [`calls`]
    Call { port: u16 },
    /// A server and its clients, connected and then silent
    Hold { port: u16, connections: usize },
}

/// Pause before each connection that is held: together they are opened faster than a server
/// starts sessions, and slower than a loop can.
pub const BETWEEN_OPENS: Duration = Duration::from_millis(2);

/// Does what the role says.
pub fn run(options: &Options) -> Result<()> {
    match options.role {
        Role::Answer { port } => {
            let listener = listen(port)?;
            ready()?;
            thread::spawn(move || answer(&listener));
            io::copy(&mut io::stdin(), &mut io::sink())?;
        }
        Role::Call { port } => {
            // Watched as a process from here on, also while it calls elsewhere.
            let _watched = Session::start(port)?;
            ready()?;
            for line in io::stdin().lock().lines() {
                let line = line?;
                let (kind, count) = line.split_once(' ').context("KIND COUNT")?;
                calls(kind, count.parse()?, port)?;
                println!("done");
            }
        }
        Role::Hold { port, connections } => {
            let listener = listen(port)?;
            thread::spawn(move || hold(&listener));
            let sessions = (0..connections).map(|_| {
                thread::sleep(BETWEEN_OPENS);
                Session::start(port)
            });
            let sessions: Vec<Session> = sessions.collect::<Result<_>>()?;
            ready()?;
            io::copy(&mut io::stdin(), &mut io::sink())?;
            drop(sessions);
        }
    }
    Ok(())
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listening on port {port}"))
}

fn ready() -> Result<()> {
    println!("ready");
    Ok(io::stdout().flush()?)
}

/// What libpq sends first: length, protocol 3.0, parameters.
const STARTUP: &[u8] = b"\0\0\0\x26\0\x03\0\0user\0postgres\0database\0bench\0\0";

/// AuthenticationOk and ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// What pgbench sends for each statement it has prepared: Bind, Describe, Execute, Sync.
const REQUEST: &[u8] = b"B\0\0\0\x1b\0P0_1\0\0\0\0\x01\0\0\0\x0512345\0\x01\0\0\
    D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";

/// The server's answer: BindComplete, RowDescription of one column, a row, CommandComplete,
/// ReadyForQuery.
const ANSWER: &[u8] = b"2\0\0\0\x04\
    T\0\0\0\x21\0\x01abalance\0\0\0\x40\0\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
    D\0\0\0\x0b\0\x01\0\0\0\x010C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

/// A client's session.
struct Session {
    stream: TcpStream,
}

impl Session {
    fn start(port: u16) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
        stream.write_all(STARTUP)?;
        let mut welcome = [0; WELCOME.len()];
        stream.read_exact(&mut welcome)?;
        Ok(Self { stream })
    }

    fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(REQUEST)
    }

    /// One receive for one answer, as the server is always ahead.
    fn receive(&mut self) -> io::Result<()> {
        let mut answer = [0; ANSWER.len()];
        self.stream.read_exact(&mut answer)
    }
}

/// Does `count` system calls of a kind.
///
/// `unwatched`: sends and receives in turn on another socket.
/// `receive`: of one answer each. `send`: without waiting for answers, so that all but the first
/// belong to the same use. `use`: a send that begins a use, and the receive of its answer.
fn calls(kind: &str, count: u64, port: u16) -> Result<()> {
    match kind {
        "unwatched" => {
            let (mut one, mut other) = UnixStream::pair()?;
            for _ in 0..count.div_ceil(2) {
                one.write_all(b"x")?;
                other.read_exact(&mut [0])?;
            }
        }
        "receive" => {
            let mut session = Session::start(port)?;
            for _ in 0..count {
                session.receive()?;
            }
        }
        "send" => {
            let mut session = Session::start(port)?;
            for _ in 0..count {
                session.send()?;
            }
        }
        "use" => {
            let mut session = Session::start(port)?;
            for _ in 0..count {
                session.send()?;
                session.receive()?;
            }
        }
        _ => bail!("no calls of kind {kind}"),
    }
    Ok(())
}

/// Answers every client without end, in large writes, and reads what it asks in large reads, so
/// that the server's own system calls are few beside the client's.
fn answer(listener: &TcpListener) {
    const ANSWERS: usize = 1_000;
    const PAUSE: Duration = Duration::from_millis(1);
    let answers = ANSWER.repeat(ANSWERS);
    for stream in listener.incoming() {
        let Ok(mut requests) = stream else { continue };
        let Ok(mut writer) = requests.try_clone() else { continue };
        let answers = answers.clone();
        thread::spawn(move || -> io::Result<()> {
            requests.read_exact(&mut [0; STARTUP.len()])?;
            writer.write_all(WELCOME)?;
            thread::spawn(move || while writer.write_all(&answers).is_ok() {});
            let mut buffer = vec![0; 1 << 20];
            while requests.read(&mut buffer)? > 0 {
                thread::sleep(PAUSE);
            }
            // The writer ends too, also where its client has read all it wanted.
            requests.shutdown(std::net::Shutdown::Both)
        });
    }
}

/// Welcomes every client and keeps it.
fn hold(listener: &TcpListener) {
    let mut kept = Vec::new();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let welcomed =
            stream.read_exact(&mut [0; STARTUP.len()]).and_then(|()| stream.write_all(WELCOME));
        if welcomed.is_ok() {
            kept.push(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type bytes of a run of messages that fills its bytes exactly.
    fn messages(mut bytes: &[u8]) -> String {
        let mut kinds = String::new();
        while let [kind, l0, l1, l2, l3, ..] = *bytes {
            kinds.push(char::from(kind));
            bytes = &bytes[1 + u32::from_be_bytes([l0, l1, l2, l3]) as usize..];
        }
        assert!(bytes.is_empty());
        kinds
    }

    #[test]
    fn what_is_sent_are_whole_messages() {
        assert_eq!(messages(REQUEST), "BDES");
        assert_eq!(messages(ANSWER), "2TDCZ");
        assert_eq!(messages(WELCOME), "RZ");
        assert_eq!(STARTUP.len(), usize::from(STARTUP[3]));
    }
}
