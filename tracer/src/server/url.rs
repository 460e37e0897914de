//! Whom to ask: `postgresql://user@host:port/database?sslmode=...`, as libpq writes it.
//!
//! May import `std` only; variables of the environment are an argument. Invariant: no error repeats
//! any of the URL, for that may hold a password.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where Debian's and Red Hat's servers have their sockets.
const SOCKET_DIR: &str = "/var/run/postgresql";

/// Why a URL is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("begin with postgresql:// (postgresql://user@host:5432/database)")]
    Scheme,
    #[error("name a user (postgresql://user@host:5432/database, or PGUSER)")]
    NoUser,
    #[error("its port is not a number between 1 and 65535")]
    Port,
    #[error("a percent sign must be followed by two hex digits of UTF-8 text")]
    Percent,
    #[error("it names several hosts: give `--server` once for each")]
    SeveralHosts,
    #[error(
        "sslmode is one of disable, allow, prefer, require, verify-ca and verify-full (PGSSLMODE too)"
    )]
    SslMode,
    #[error("sslmode=verify-ca and verify-full need sslrootcert=FILE (or PGSSLROOTCERT)")]
    NoRootCertificate,
    #[error(
        "a parameter of it is not known here: host, port, user, dbname, passfile, sslmode, \
         sslrootcert and connect_timeout are"
    )]
    Parameter,
    #[error("user, database and host may not hold a NUL")]
    Nul,
}

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// When to encrypt, as in libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// Where the server takes it. Stands for `allow` too.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// A server to ask, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name, an address, or the directory of a Unix socket.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Option<Secret>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) ssl: SslMode,
    pub(super) root_certificate: Option<PathBuf>,
}

impl Target {
    /// Reads a URL; `variable` gives the environment's `PG*` variables.
    ///
    /// # Errors
    ///
    /// What is wrong, without the URL.
    pub fn parse(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, UrlError> {
        let rest = ["postgresql://", "postgres://"].iter().find_map(|s| url.strip_prefix(s));
        let rest = rest.ok_or(UrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(Secret(decoded(password)?))),
            None => (login, None),
        };
        let (host, port) = host_and_port(place)?;
        let mut parameters = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(UrlError::Parameter)?;
            parameters.insert(decoded(name)?, decoded(value)?);
        }
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let set = |text: String| Some(text).filter(|text| !text.is_empty());
        let variable = |name: &str| variable(name).and_then(set);
        let (hosts, ports) = (take("host"), take("port"));
        let password = take("password").map(Secret).or(password);
        let ssl = take("sslmode").or_else(|| variable("PGSSLMODE"));
        let root = take("sslrootcert").or_else(|| variable("PGSSLROOTCERT"));
        let passfile = take("passfile").or_else(|| variable("PGPASSFILE"));
        let (users, databases) = (take("user"), take("dbname"));
        // Ours are fixed.
        take("connect_timeout");
        take("application_name");
        if !parameters.is_empty() {
            return Err(UrlError::Parameter);
        }
        let host = set(decoded(host)?).or(hosts).unwrap_or_else(|| SOCKET_DIR.to_owned());
        let port = set(port.to_owned()).or(ports).or_else(|| variable("PGPORT"));
        let user = set(decoded(user)?).or(users).or_else(|| variable("PGUSER"));
        let user = user.ok_or(UrlError::NoUser)?;
        let database = set(decoded(database)?).or(databases).unwrap_or_else(|| user.clone());
        if host.contains(',') {
            return Err(UrlError::SeveralHosts);
        }
        if [&host, &user, &database].iter().any(|text| text.contains('\0')) {
            return Err(UrlError::Nul);
        }
        let target = Self {
            port: port
                .map_or(Some(5432), |port| port.parse().ok().filter(|port| *port > 0))
                .ok_or(UrlError::Port)?,
            password: password.or_else(|| variable("PGPASSWORD").map(Secret)),
            passfile: passfile.or_else(|| Some(variable("HOME")? + "/.pgpass")).map(PathBuf::from),
            ssl: ssl_mode(ssl.as_deref())?,
            root_certificate: root.map(PathBuf::from),
            host,
            user,
            database,
        };
        let verifies = matches!(target.ssl, SslMode::VerifyCa | SslMode::VerifyFull);
        if verifies && target.root_certificate.is_none() {
            return Err(UrlError::NoRootCertificate);
        }
        Ok(target)
    }

    /// Whether a URL holds a password, well-formed or not.
    #[must_use]
    pub fn has_password(url: &str) -> bool {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let login = rest.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'));
        let named = |pair: &str| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            decoded(name).is_ok_and(|name| name.eq_ignore_ascii_case("password"))
        };
        login || query.split('&').any(named)
    }

    /// How reports call it.
    #[must_use]
    pub fn name(&self) -> String {
        if self.is_unix() {
            format!("{}/.s.PGSQL.{}", self.host.trim_end_matches('/'), self.port)
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        self.host.starts_with('/')
    }
}

fn ssl_mode(name: Option<&str>) -> Result<SslMode, UrlError> {
    match name {
        Some("disable") => Ok(SslMode::Disable),
        None | Some("allow" | "prefer") => Ok(SslMode::Prefer),
        Some("require") => Ok(SslMode::Require),
        Some("verify-ca") => Ok(SslMode::VerifyCa),
        Some("verify-full") => Ok(SslMode::VerifyFull),
        Some(_) => Err(UrlError::SslMode),
    }
}

fn host_and_port(place: &str) -> Result<(&str, &str), UrlError> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError::Port)?;
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((host, "")),
            (_, Some(port)) => Ok((host, port)),
            _ => Err(UrlError::Port),
        };
    }
    if place.contains(',') {
        return Err(UrlError::SeveralHosts);
    }
    Ok(place.split_once(':').unwrap_or((place, "")))
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit(), digit());
        bytes.push(high.zip(low).map(|(high, low)| high << 4 | low).ok_or(UrlError::Percent)?);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Target, UrlError> {
        Target::parse(url, |_| None)
    }

    #[test]
    fn parts_of_a_url_are_told_apart() {
        let target = parsed("postgresql://me%40home@db.example:6432/shop?sslmode=require").unwrap();
        assert_eq!((target.user.as_str(), target.database.as_str()), ("me@home", "shop"));
        assert_eq!((target.host.as_str(), target.port), ("db.example", 6432));
        assert_eq!((target.ssl, target.password.clone()), (SslMode::Require, None));
        assert_eq!(target.name(), "db.example:6432");
        let target = parsed("postgres://me@[::1]").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 5432));
        assert_eq!((target.database.as_str(), target.ssl), ("me", SslMode::Prefer));
        assert_eq!(target.name(), "[::1]:5432");
        for url in ["postgres://me@%2Frun%2Fpg:6432/x", "postgres://me@/x?host=/run/pg&port=6432"] {
            let target = parsed(url).unwrap();
            assert!(target.is_unix(), "{url}");
            assert_eq!(target.name(), "/run/pg/.s.PGSQL.6432");
        }
    }

    #[test]
    fn the_environment_fills_in_what_the_url_does_not_say() {
        let variable = |name: &str| match name {
            "PGUSER" => Some("me".to_owned()),
            "PGPASSWORD" => Some("secret".to_owned()),
            "PGSSLMODE" => Some("disable".to_owned()),
            "HOME" => Some("/home/me".to_owned()),
            _ => None,
        };
        let target = Target::parse("postgres://h", variable).unwrap();
        assert_eq!(target.user, "me");
        assert_eq!(target.password, Some(Secret("secret".to_owned())));
        assert_eq!(target.ssl, SslMode::Disable);
        assert_eq!(target.passfile, Some(PathBuf::from("/home/me/.pgpass")));
        let target = Target::parse("postgres://you:other@h", variable).unwrap();
        assert_eq!(target.user, "you");
        assert_eq!(target.password, Some(Secret("other".to_owned())));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_url() {
        use UrlError::*;
        for (url, expected) in [
            ("", Scheme),
            ("host=h password=hunter2", Scheme),
            ("postgres://h", NoUser),
            ("postgres://u:hunter2@h:0/d", Port),
            ("postgres://u:hunter2@h:x/d", Port),
            ("postgres://u:hunter2@[::1/d", Port),
            ("postgres://u:hunter2%4@h/d", Percent),
            ("postgres://u:hunter2%ff@h/d", Percent),
            ("postgres://u:hunter2@a,b/d", SeveralHosts),
            ("postgres://u:hunter2@h/d?sslmode=maybe", SslMode),
            ("postgres://u:hunter2@h/d?sslmode=verify-full", NoRootCertificate),
            ("postgres://u:hunter2@h/d?options=hunter2", Parameter),
            ("postgres://u:hunter2@h/d%00", Nul),
        ] {
            let error = parsed(url).unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_password_is_noticed_wherever_it_stands_and_never_shown() {
        for url in [
            "postgres://u:p@h/d",
            "postgres://u:@h/d",
            "postgres://h/d?password=p",
            "postgres://h/d?sslmode=require&p%61ssword=p",
            "nonsense://u:p@h",
            "u:p@h",
        ] {
            assert!(Target::has_password(url), "{url}");
        }
        for url in ["postgres://u@h:5432/d", "postgres://[::1]:5432/d?passfile=x", "postgres://h"] {
            assert!(!Target::has_password(url), "{url}");
        }
        let target = parsed("postgres://u:hunter2@h/d").unwrap();
        assert!(!format!("{target:?}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text: String) {
            let _ = parsed(&text);
            let _ = parsed(&format!("postgres://{text}"));
            let _ = Target::has_password(&text);
        }
    }
}
