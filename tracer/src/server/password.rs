//! The password file of libpq: `host:port:database:user:password` lines.
//!
//! May import `std` only. Invariant: a file that others may read is not used, as in libpq.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::url::{Secret, Target};

/// Longest file read.
const MAX_BYTES: u64 = 1 << 20;

/// The password for a server: given with its URL or in the environment, or from the file.
///
/// # Errors
///
/// Why the file is not used, in words.
pub(super) fn find(target: &Target) -> Result<Option<Secret>, String> {
    if target.password.is_some() {
        return Ok(target.password.clone());
    }
    let Some(path) = &target.passfile else { return Ok(None) };
    let Some(text) = read(path)? else { return Ok(None) };
    Ok(lookup(&text, target).map(Secret))
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
    let shown = path.display();
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(format!("the password file {shown} is no small file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others may read the password file {shown}: `chmod 600` it"));
    }
    fs::read_to_string(path).map(Some).map_err(|error| format!("cannot read {shown}: {error}"))
}

/// The password of the first line that fits.
fn lookup(text: &str, target: &Target) -> Option<String> {
    let port = target.port.to_string();
    // libpq knows the usual directory of sockets by this name.
    let host = if target.is_unix() { "localhost" } else { &target.host };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (fields, password) = split(line)?;
        let fits = |field: &str, value: &str| field == "*" || field == value;
        let here = fits(&fields[0], host) || fits(&fields[0], &target.host);
        let fits = here
            && fits(&fields[1], &port)
            && fits(&fields[2], &target.database)
            && fits(&fields[3], &target.user);
        fits.then_some(password)
    })
}

/// Four fields and the password; a backslash takes the next character as it is.
fn split(line: &str) -> Option<([String; 4], String)> {
    let mut fields: [String; 5] = Default::default();
    let mut at = 0;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' if at < 4 => at += 1,
            '\\' => fields[at].extend(letters.next()),
            letter => fields[at].push(letter),
        }
    }
    let [host, port, database, user, password] = fields;
    (at == 4).then_some(([host, port, database, user], password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup_for(text: &str, url: &str) -> Option<String> {
        lookup(text, &Target::parse(url, |_| None).unwrap())
    }

    #[test]
    fn the_first_line_that_fits_decides() {
        let file = "# db:*:*:*:no\nnonsense\ndb:5432:shop:me:one\ndb:*:*:me:two\\:\\\\2\n*:*:*:you:3:4\nlocalhost:*:*:me:unix\n";
        for (url, expected) in [
            ("postgres://me@db/shop", Some("one")),
            ("postgres://me@db/other", Some("two:\\2")),
            ("postgres://you@anywhere/x", Some("3:4")),
            ("postgres://me@anywhere/x", None),
            ("postgres://me@/x", Some("unix")),
        ] {
            assert_eq!(lookup_for(file, url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "*:*:*:*:hunter2\n").unwrap();
        let mut target = Target::parse("postgres://me@db", |_| None).unwrap();
        target.passfile = Some(file.path().to_owned());
        assert_eq!(find(&target), Ok(Some(Secret("hunter2".to_owned()))));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = find(&target).unwrap_err();
        assert!(error.contains("chmod 600") && !error.contains("hunter2"), "{error}");
        target.passfile = Some("/nonexistent/pgpass".into());
        assert_eq!(find(&target), Ok(None));
    }
}
