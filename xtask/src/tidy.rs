//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Each rule is a function from a file's text to complaints, so that the tests can show it bad
//! text. What is looked at is what git knows, so build products are left alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use tracer_ebpf::drops::DropReason;
use xtask::{sh, workspace};

use crate::toolchain;

/// Beyond this, a file usually has two reasons to exist. Tests at its end do not count.
const MAX_LINES: usize = 700;

/// Modules that may not know these: what a live run and a replayed one must not differ in.
const PURE: &[&str] = &["model", "report", "sql", "record"];
const IMPURE: &[&str] =
    &["aya", "libc", "std::fs", "std::net", "std::process", "Instant", "SystemTime"];

/// Libraries that only these modules of the tracer may know.
const CONFINED: &[(&str, &[&str])] = &[
    ("aya", &["loader", "ingest"]),
    ("blazesym", &["symbolize"]),
    ("framehop", &["symbolize"]),
    ("postgres_protocol", &["server"]),
    ("rustls", &["server"]),
];

/// Check the rules of this repository that no compiler checks
#[derive(clap::Args)]
pub struct Options {}

/// The rules, and what `cargo-deny` says where it is installed.
pub fn run(_: &Options) -> Result<()> {
    rules()?;
    toolchain::cargo_deny().map_or(Ok(()), |cargo_deny| dependencies(&cargo_deny))
}

/// Prints every complaint and fails if there is one.
pub fn rules() -> Result<()> {
    let complaints = complaints()?;
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => bail!("tidy has {count} complaints"),
    }
}

/// Everything that is wrong in this checkout.
fn complaints() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let files = files()?;
    for path in &files {
        let Ok(text) = fs::read_to_string(workspace::root().join(path)) else { continue };
        let said = of_file(path, &text);
        complaints.extend(said.into_iter().map(|said| format!("{}: {said}", path.display())));
    }
    complaints.extend(undocumented_losses(&manual(&files)));
    complaints.extend(licences()?);
    Ok(complaints)
}

/// What git knows or would take, below the root of the checkout.
fn files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = sh::output(git.current_dir(workspace::root()))?;
    Ok(listed.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect())
}

fn of_file(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = machine_paths(text);
    if path.extension() == Some(OsStr::new("rs")) {
        complaints.extend(header(text));
        if !path.components().any(|part| part.as_os_str() == "tests") {
            complaints.extend(length(text));
        }
        complaints.extend(unfinished(text));
        if let Ok(module) = path.strip_prefix("tracer/src") {
            complaints.extend(imports(module, text));
        }
    }
    complaints
}

fn header(text: &str) -> Option<String> {
    (!text.starts_with("//!")).then(|| "does not begin with `//!` and what lives here".to_owned())
}

fn length(text: &str) -> Option<String> {
    let lines = product(text).lines().count();
    (lines > MAX_LINES).then(|| format!("{lines} lines, more than {MAX_LINES}"))
}

/// The text up to its own tests.
fn product(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |end| &text[..end])
}

/// Words that may not stay, written so that this file does not contain them.
fn unfinished(text: &str) -> Vec<String> {
    let words = [concat!("#[igno", "re"), concat!("tod", "o!("), concat!("unimple", "mented!(")];
    let code: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let found = words.into_iter().filter(|word| code.contains(word));
    found.map(|word| format!("`{word}` may not stay")).collect()
}

/// A line without its comment. A `//` in a string ends it too, which only makes us see less.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Paths that only mean something on the machine of whoever wrote them.
fn machine_paths(text: &str) -> Vec<String> {
    let root = workspace::root().to_str().map(str::to_owned);
    // Everyone's root lives in the same place.
    let home = env::var("HOME").ok().filter(|home| home.starts_with("/home/"));
    let places = [root, home].into_iter().flatten().collect::<BTreeSet<_>>();
    let named = places.iter().filter(|place| names_path(text, place));
    named.map(|place| format!("names {place}, which is a place on this machine")).collect()
}

/// Whether `text` has the absolute path `place` or something below it, and not merely a longer
/// path that ends the same (`/proc/1/root`).
fn names_path(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let begins =
            !before.is_some_and(|letter| letter.is_alphanumeric() || "/}.>*]".contains(letter));
        begins && text[at + place.len()..].starts_with('/')
    })
}

/// The rules of who may know whom. `module` is the file's path below `tracer/src`.
fn imports(module: &Path, text: &str) -> Vec<String> {
    let name = module.with_extension("");
    let name = name.iter().next().and_then(OsStr::to_str).unwrap_or_default();
    let known = known(product(text));
    let mut complaints = Vec::new();
    if PURE.contains(&name) {
        for impure in IMPURE.iter().filter(|impure| knows(&known, impure)) {
            complaints.push(format!("`{name}` is pure and may not know `{impure}`"));
        }
    }
    for (library, homes) in CONFINED {
        if !homes.contains(&name) && knows(&known, library) {
            complaints.push(format!("`{library}` may only be known in {}", homes.join(", ")));
        }
    }
    complaints
}

/// Every path that the code names, imports written out: `use std::{fs, io}` gives `std::fs` and
/// `std::io`.
fn known(text: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let code: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut prefixes: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut importing = false;
    let mut word = String::new();
    for letter in code.chars().chain([' ']) {
        if letter.is_alphanumeric() || letter == '_' {
            word.push(letter);
            continue;
        }
        if word == "use" {
            importing = true;
        } else {
            path.push_str(&word);
        }
        word.clear();
        match letter {
            ':' => path.push(':'),
            '{' if importing => prefixes.push(std::mem::take(&mut path)),
            _ => {
                if !path.is_empty() && path != ":" {
                    known.insert(prefixes.concat() + &path);
                }
                path.clear();
                match letter {
                    '}' if importing => drop(prefixes.pop()),
                    ';' => {
                        importing = false;
                        prefixes.clear();
                    }
                    _ => {}
                }
            }
        }
    }
    known
}

/// Whether one of the paths is `wanted`, goes through it, or ends in it as a name of its own.
fn knows(known: &BTreeSet<String>, wanted: &str) -> bool {
    let is_type = wanted.starts_with(char::is_uppercase);
    known.iter().any(|path| {
        if is_type {
            return path.split("::").any(|part| part == wanted);
        }
        let rest = path.trim_start_matches("::").strip_prefix(wanted);
        rest.is_some_and(|rest| rest.starts_with("::") || rest.is_empty() && wanted.contains("::"))
    })
}

/// Where users look losses up: the README and the pages in `docs`.
fn manual(files: &[PathBuf]) -> String {
    let pages = files.iter().filter(|path| {
        path.extension() == Some(OsStr::new("md"))
            && (path.starts_with("docs") || path.as_path() == Path::new("README.md"))
    });
    let texts = pages.map(|page| fs::read_to_string(workspace::root().join(page)));
    texts.flatten().collect()
}

fn undocumented_losses(manual: &str) -> Vec<String> {
    let names = DropReason::ALL.iter().map(|reason| reason.name());
    let missing = names.filter(|name| !manual.contains(&format!("`{name}`")));
    missing.map(|name| format!("README.md and docs/ do not explain the loss `{name}`")).collect()
}

/// Has `cargo-deny` check the dependencies. Advisories are left out: they need a database from the
/// network and change without us.
pub fn dependencies(cargo_deny: &Path) -> Result<()> {
    let mut check = Command::new(cargo_deny);
    check.args(["--locked", "--log-level", "error", "check", "bans", "licenses", "sources"]);
    sh::run(check.current_dir(workspace::root()))
}

/// Licences of dependencies that `deny.toml` does not allow: the part of what `cargo-deny` checks
/// that must not wait for `cargo xtask setup`.
fn licences() -> Result<Vec<String>> {
    let deny = fs::read_to_string(workspace::root().join("deny.toml")).context("deny.toml")?;
    let allowed = allowed(&deny);
    let mut metadata = sh::cargo();
    metadata.args(["metadata", "--format-version=1", "--locked", "--all-features"]);
    let metadata = sh::output(metadata.current_dir(workspace::root()))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let foreign = packages.iter().filter(|package| !package["source"].is_null());
    let refused = foreign.filter(|package| {
        !package["license"].as_str().is_some_and(|license| is_allowed(license, &allowed))
    });
    let complaint = |package: &serde_json::Value| {
        format!("deny.toml does not allow {}: {}", package["name"], package["license"])
    };
    Ok(refused.map(complaint).collect())
}

/// The names in the list `allow` of `[licenses]`.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let section = deny.split("\n[licenses]").nth(1).unwrap_or_default();
    let list = section.split("\nallow = [").nth(1).and_then(|rest| rest.split("\n]").next());
    let lines = list.unwrap_or_default().lines();
    lines.filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect()
}

/// Whether an SPDX expression can be met with these licences. `A/B` is the old form of `A OR B`.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one_of(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one_of(words, allowed);
    }
    met
}

fn one_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = any_of(words, allowed);
        return words.next_if_eq(&")").is_some() && met;
    }
    let licence = words.next().unwrap_or_default();
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(format!("{licence} WITH {exception}").as_str()),
        None => allowed.contains(licence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_checkout_is_tidy() {
        assert_eq!(complaints().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_pure_module_may_not_read_the_clock_or_a_file() {
        let bad = |text| imports(Path::new("model/state.rs"), text).len();
        assert_eq!(bad("use std::time::{Duration, Instant};"), 1);
        assert_eq!(bad("use std::{\n    fs,\n    io,\n};\n"), 1);
        assert_eq!(bad("fn f() { std::fs::read(\"x\"); }"), 1);
        assert_eq!(bad("fn f() { let now = std::time::SystemTime::now(); }"), 1);
        assert_eq!(bad("use std::{collections::{BTreeMap, BTreeSet}, fs::File};"), 1);
        assert_eq!(bad("// std::fs is not for us\nuse std::fmt;\nfn fs(libc: u8) {}\n"), 0);
        assert_eq!(bad("fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"), 0);
    }

    #[test]
    fn a_confined_library_stays_at_home() {
        let text = "use blazesym::symbolize::Symbolizer;\n";
        assert_eq!(imports(Path::new("symbolize/names.rs"), text).len(), 0);
        assert_eq!(imports(Path::new("report/text.rs"), text).len(), 1);
        assert_eq!(imports(Path::new("host/mod.rs"), "fn f(e: aya::EbpfError) {}").len(), 1);
        assert_eq!(imports(Path::new("loader.rs"), "use aya::Ebpf;").len(), 0);
        assert_eq!(imports(Path::new("host/mod.rs"), "use crate::aya_like::x;").len(), 0);
    }

    #[test]
    fn a_file_says_what_lives_in_it() {
        assert!(header("use std::fmt;\n").is_some());
        assert!(header("//! Words.\n").is_none());
    }

    #[test]
    fn only_the_product_counts_as_length() {
        let long = "x\n".repeat(MAX_LINES + 1);
        assert!(length(&long).is_some());
        assert!(length(&format!("x\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n")).is_none());
    }

    #[test]
    fn places_of_this_machine_are_found_and_others_left_alone() {
        assert!(names_path("see \"/root/x/y\"", "/root/x"));
        assert!(names_path("/root/x/y", "/root/x"));
        assert!(!names_path("/proc/1/root/x/y", "/root/x"));
        assert!(!names_path("/root/xy/z", "/root/x"));
    }

    #[test]
    fn licences_are_read_as_expressions() {
        let allowed = allowed("\n[licenses]\nallow = [\n  \"MIT\", # why\n  \"A WITH E\",\n]\n");
        for good in ["MIT", "MIT OR X", "X/MIT", "(X OR MIT) AND MIT", "A WITH E"] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["X", "MIT AND X", "(MIT OR X) AND X", "A", "MIT WITH E", "(MIT", "MIT MIT", ""]
        {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
