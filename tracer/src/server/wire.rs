//! A connection to a server: startup, authentication, and queries of the simple protocol, which is
//! the one that PgBouncer's console speaks.
//!
//! May import `std`, `bytes`, `postgres_protocol` and its neighbours. Invariants: every wait ends at
//! the deadline set with [`Wire::until`]; what is kept of an answer is bounded whatever lengths the
//! server claims; no error holds a password; a password is sent in clear only where nobody between
//! can read it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::url::{Secret, SslMode, Target};
use super::{Place, password, tls};

/// Longest single message.
const MAX_MESSAGE: usize = 1 << 20;
/// Longest answer to one query: ten thousand sessions with room to spare.
const MAX_ANSWER: usize = 32 << 20;
/// Longest value kept.
const MAX_VALUE: usize = 2_048;
/// Longest words of a server repeated in a note.
const MAX_WORDS: usize = 200;
/// PostgreSQL's own default is 4,096; a server that asks for more than this wants our time.
const MAX_SCRAM_ITERATIONS: u32 = 1_000_000;

/// Why a server did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words, without a password.
    pub(super) words: String,
    /// It will say the same again.
    pub(super) refused: bool,
}

impl Failure {
    pub(super) fn of(words: impl Into<String>) -> Self {
        Self { words: words.into(), refused: false }
    }

    fn refused(words: impl Into<String>) -> Self {
        Self { words: words.into(), refused: true }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if late {
            Self::of(format!("{what}: it did not answer in time"))
        } else {
            Self::of(format!("{what}: {error}"))
        }
    }
}

/// Rows of one answer, by name of the column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Option<String>>>,
}

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl Table {
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { columns: &self.columns, values })
    }
}

impl<'a> Row<'a> {
    pub(super) fn get(self, column: &str) -> Option<&'a str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.values.get(index)?.as_deref()
    }

    /// The text, without what is empty.
    pub(super) fn text(self, column: &str) -> Option<String> {
        self.get(column).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    }

    pub(super) fn number<T: std::str::FromStr>(self, column: &str) -> Option<T> {
        self.get(column)?.parse().ok()
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket whose reads and writes end at a deadline.
pub(super) struct Timed {
    socket: Socket,
    deadline: Instant,
}

impl Timed {
    /// What is left, as the timeout of the next operation.
    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match &self.socket {
            Socket::Tcp(socket) => {
                socket.set_read_timeout(Some(left))?;
                socket.set_write_timeout(Some(left))
            }
            Socket::Unix(socket) => {
                socket.set_read_timeout(Some(left))?;
                socket.set_write_timeout(Some(left))
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        match &mut self.socket {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.arm()?;
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Plain(Timed),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => &mut tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(timed) => timed.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// A session of ours.
pub(super) struct Wire {
    stream: Stream,
    received: Vec<u8>,
    version: String,
    secret: Option<Secret>,
}

impl Wire {
    /// Connects, encrypts where that is wanted, and logs in.
    pub(super) fn connect(target: &Target, deadline: Instant) -> Result<(Self, Place), Failure> {
        let secret = password::find(target).map_err(Failure::refused)?;
        let (timed, place) = dial(target, deadline)?;
        let stream = encrypt(timed, target)?;
        let mut wire = Self { stream, received: Vec::new(), version: String::new(), secret };
        wire.log_in(target, place.local).map_err(|failure| wire.scrubbed(failure))?;
        Ok((wire, place))
    }

    /// What the server calls itself: `15.3 (Debian ...)`, `1.18.0/bouncer`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// No wait goes beyond this from now on.
    pub(super) fn until(&mut self, deadline: Instant) {
        self.stream.timed().deadline = deadline;
    }

    /// Runs statements and gives the rows of each that has any.
    pub(super) fn query(&mut self, sql: &str) -> Result<Vec<Table>, Failure> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|error| Failure::io("asking it", &error))?;
        self.send(&out)?;
        let tables = self.tables();
        tables.map_err(|failure| self.scrubbed(failure))
    }

    fn tables(&mut self) -> Result<Vec<Table>, Failure> {
        let mut tables: Vec<Table> = Vec::new();
        let mut failed = None;
        let mut bytes = 0usize;
        loop {
            let (kind, body) = self.message()?;
            bytes = bytes.saturating_add(body.len());
            if bytes > MAX_ANSWER {
                return Err(Failure::of("its answer is longer than any real one"));
            }
            match kind {
                b'T' => {
                    let columns = columns(&body).ok_or_else(malformed)?;
                    tables.push(Table { columns, rows: Vec::new() });
                }
                b'D' => {
                    let table = tables.last_mut().ok_or_else(malformed)?;
                    table.rows.push(values(&body).ok_or_else(malformed)?);
                }
                b'E' => failed = Some(error_words(&body)),
                b'Z' => break,
                _ => {}
            }
        }
        match failed {
            Some(words) => Err(Failure::of(format!("it refused to tell: {words}"))),
            None => Ok(tables),
        }
    }

    fn log_in(&mut self, target: &Target, local: bool) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        let parameters = [
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("application_name", "connleak"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut out)
            .map_err(|error| Failure::io("connecting", &error))?;
        self.send(&out)?;
        let private = local || matches!(self.stream, Stream::Tls(_));
        let mut scram = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'R' => self.authenticate(&body, target, private, &mut scram)?,
                b'S' => {
                    let mut parts = body.split(|byte| *byte == 0);
                    if parts.next() == Some(b"server_version") {
                        self.version = clipped(parts.next().unwrap_or_default(), 64);
                    }
                }
                b'E' => return Err(login_failure(&body)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    fn authenticate(
        &mut self,
        body: &[u8],
        target: &Target,
        private: bool,
        scram: &mut Option<ScramSha256>,
    ) -> Result<(), Failure> {
        let (kind, data) = body.split_first_chunk::<4>().ok_or_else(malformed)?;
        let kind = u32::from_be_bytes(*kind);
        if matches!(kind, 0 | 12) && scram.is_none() {
            return Ok(());
        }
        let unusable = |error: io::Error| Failure::refused(format!("logging in: {error}"));
        if let (12, Some(scram)) = (kind, scram.as_mut()) {
            return scram.finish(data).map_err(unusable);
        }
        if kind == 0 {
            return Ok(());
        }
        let Some(Secret(password)) = &self.secret else {
            return Err(Failure::refused(
                "it wants a password: set PGPASSWORD, or use ~/.pgpass (PGPASSFILE)",
            ));
        };
        let mut out = BytesMut::new();
        match kind {
            3 if private => frontend::password_message(password.as_bytes(), &mut out),
            3 => {
                return Err(Failure::refused(
                    "it wants the password in clear over a connection that is not encrypted, and \
                     does not get it: use sslmode=require",
                ));
            }
            5 => {
                let salt = data.first_chunk::<4>().ok_or_else(malformed)?;
                let hash = md5_hash(target.user.as_bytes(), password.as_bytes(), *salt);
                frontend::password_message(hash.as_bytes(), &mut out)
            }
            10 if data.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) => {
                let new = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                let new = scram.insert(new);
                frontend::sasl_initial_response(SCRAM_SHA_256, new.message(), &mut out)
            }
            11 => {
                let scram = scram.as_mut().ok_or_else(malformed)?;
                if iterations(data).is_none_or(|wanted| wanted > MAX_SCRAM_ITERATIONS) {
                    return Err(Failure::refused("its authentication would take too long"));
                }
                scram.update(data).map_err(unusable)?;
                frontend::sasl_response(scram.message(), &mut out)
            }
            _ => {
                return Err(Failure::refused(
                    "it wants a kind of authentication that is not known here: allow \
                     scram-sha-256 for this role",
                ));
            }
        }
        .map_err(unusable)?;
        self.send(&out)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        sent.map_err(|error| Failure::io("sending", &error))
    }

    /// The next message: its kind and body.
    fn message(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<5>() {
                let [kind, a, b, c, d] = *head;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                let length = length.checked_sub(4).filter(|length| *length <= MAX_MESSAGE);
                let length = length.ok_or_else(malformed)?;
                if let Some(body) = rest.get(..length) {
                    let body = body.to_vec();
                    self.received.drain(..5 + length);
                    return Ok((kind, body));
                }
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::of("it closed the connection")),
                Ok(read) => {
                    self.received.extend_from_slice(buffer.get(..read).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::io("waiting for its answer", &error)),
            }
        }
    }

    /// Without the password, should the server have repeated it.
    fn scrubbed(&self, mut failure: Failure) -> Failure {
        if let Some(Secret(password)) = &self.secret
            && !password.is_empty()
        {
            failure.words = failure.words.replace(password.as_str(), "***");
        }
        failure
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        self.until(Instant::now() + Duration::from_millis(100));
        // Whoever cannot be told finds out.
        let _gone = self.send(&out);
    }
}

fn dial(target: &Target, deadline: Instant) -> Result<(Timed, Place), Failure> {
    let mut place = Place { addrs: Vec::new(), ports: vec![target.port], local: true };
    if target.is_unix() {
        let socket = UnixStream::connect(target.name())
            .map_err(|error| Failure::io("connecting", &error))?;
        return Ok((Timed { socket: Socket::Unix(socket), deadline }, place));
    }
    let addrs = (target.host.as_str(), target.port).to_socket_addrs();
    let addrs: Vec<SocketAddr> =
        addrs.map_err(|error| Failure::io("looking its name up", &error))?.take(16).collect();
    let mut last = Failure::of("its name has no address");
    for addr in &addrs {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::of("connecting: it did not answer in time"));
        }
        match TcpStream::connect_timeout(addr, left) {
            Ok(socket) => {
                // Without it each answer waits for nothing; slower is all that it is.
                let _slower = socket.set_nodelay(true);
                place.addrs = addrs.iter().map(|addr| addr.ip().to_canonical()).collect();
                place.local = is_local(&socket);
                return Ok((Timed { socket: Socket::Tcp(socket), deadline }, place));
            }
            Err(error) => last = Failure::io("connecting", &error),
        }
    }
    Err(last)
}

/// Both ends have one address, or that of the loopback device.
fn is_local(socket: &TcpStream) -> bool {
    let (Ok(here), Ok(there)) = (socket.local_addr(), socket.peer_addr()) else { return false };
    let there: IpAddr = there.ip().to_canonical();
    there.is_loopback() || here.ip().to_canonical() == there
}

fn encrypt(mut timed: Timed, target: &Target) -> Result<Stream, Failure> {
    let wanted = target.ssl;
    if wanted == SslMode::Disable || target.is_unix() {
        return Ok(Stream::Plain(timed));
    }
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    let mut answer = [0];
    timed
        .write_all(&out)
        .and_then(|()| timed.read_exact(&mut answer))
        .map_err(|error| Failure::io("connecting", &error))?;
    match (answer[0], wanted) {
        (b'S', _) => tls::handshake(timed, target)
            .map(|tls| Stream::Tls(Box::new(tls)))
            .map_err(|error| Failure::of(format!("encrypting: {error}"))),
        (b'N', SslMode::Prefer) => Ok(Stream::Plain(timed)),
        (b'N', _) => Err(Failure::refused("it does not encrypt, and sslmode asks for that")),
        _ => Err(Failure::refused("it is no PostgreSQL server")),
    }
}

fn malformed() -> Failure {
    Failure::of("its answer is not PostgreSQL's protocol")
}

fn clipped(bytes: &[u8], most: usize) -> String {
    let bytes = bytes.get(..most).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names of a RowDescription.
fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)?;
        columns.push(clipped(rest.get(..end)?, MAX_VALUE));
        rest = rest.get(end + 1 + 18..)?;
    }
    Some(columns)
}

/// Values of a DataRow.
fn values(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = after;
            continue;
        };
        values.push(Some(clipped(after.get(..length)?, MAX_VALUE)));
        rest = after.get(length..)?;
    }
    Some(values)
}

/// A field of an ErrorResponse.
fn error_field(body: &[u8], wanted: u8) -> Option<String> {
    let fields = body.split(|byte| *byte == 0).filter_map(|field| field.split_first());
    let field = fields.into_iter().find(|(kind, _)| **kind == wanted);
    field.map(|(_, text)| clipped(text, MAX_WORDS))
}

fn error_words(body: &[u8]) -> String {
    error_field(body, b'M').unwrap_or_else(|| "it does not say why".to_owned())
}

/// A server that starts up or is full may say something else later.
fn login_failure(body: &[u8]) -> Failure {
    let words = format!("it refused the login: {}", error_words(body));
    let passing = ["53", "57"].iter();
    let code = error_field(body, b'C').unwrap_or_default();
    let refused = !passing.into_iter().any(|class| code.starts_with(class));
    Failure { words, refused }
}

/// The count of iterations in a SCRAM server's first message.
fn iterations(message: &[u8]) -> Option<u32> {
    let message = std::str::from_utf8(message).ok()?;
    message.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_claim_any_length() {
        assert_eq!(columns(&[0xff, 0xff, b'a', 0]), None);
        assert_eq!(values(&[0, 1, 0x7f, 0xff, 0xff, 0xff, b'a']), None);
        assert_eq!(values(&[0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0xfe]), {
            Some(vec![None, Some("\u{fffd}".to_owned())])
        });
        assert_eq!(iterations(b"r=x,s=y,i=4294967296"), None);
        assert_eq!(iterations(b"r=x,s=y,i=4096"), Some(4096));
    }

    #[test]
    fn a_refusal_stays_and_a_shortage_passes() {
        let refused = login_failure(b"SFATAL\0C28P01\0Mpassword authentication failed\0\0");
        assert!(refused.refused && refused.words.ends_with("authentication failed"));
        assert!(!login_failure(b"SFATAL\0C53300\0Mtoo many clients already\0\0").refused);
        assert!(!login_failure(b"SFATAL\0C57P03\0Mstarting up\0\0").refused);
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_taken(body: Vec<u8>) {
            let _ = (columns(&body), values(&body), login_failure(&body), iterations(&body));
        }
    }
}
