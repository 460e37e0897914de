//! Packages of any of Debian's releases, unpacked into the target directory.
//!
//! Uses apt with lists and sources of its own: the system's stay as they are, and nothing is
//! installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::sh;

use crate::needs::DEBIAN_KEYRING;

const MIRROR: &str = "http://deb.debian.org/debian";

/// apt with a state of its own.
pub struct Apt {
    options: Vec<OsString>,
    mirror: String,
    suites: String,
}

impl Apt {
    /// Below `root`, for these suites of Debian's mirror.
    pub fn new(root: &Path, suites: &[&str]) -> Result<Self> {
        for dir in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join("status"), [])?;
        let mirror = mirror();
        let lines = suites.iter().map(|suite| {
            let security = if suite.ends_with("-security") { "-security" } else { "" };
            format!("deb [signed-by={DEBIAN_KEYRING}] {mirror}{security} {suite} main\n")
        });
        fs::write(root.join("sources"), lines.collect::<String>())?;
        let places = [
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources"),
        ];
        let places = places.into_iter().map(|(name, place)| {
            let mut option = OsString::from(format!("{name}="));
            option.push(root.join(place));
            option
        });
        let settings = [
            "Dir::Etc::sourceparts=-",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "APT::Sandbox::User=root",
            // These sources are all ours, so each that fails counts. By default a mirror that does
            // not answer is a warning, and what is there from last time, or nothing, is taken for
            // its list.
            "APT::Update::Error-Mode=any",
            "APT::Architecture=amd64",
        ];
        let options = places.chain(settings.map(OsString::from)).collect();
        Ok(Self { options, mirror, suites: suites.join(", ") })
    }

    /// Fetches the lists of packages.
    pub fn update(&self) -> Result<()> {
        let fetched = self.command("apt-get").args(["-qq", "update"]).status();
        // apt has said what it tried; its command line is a page of options.
        let fetched = fetched.context("cannot start apt-get")?.success();
        ensure!(fetched, "{} does not give the package lists of {}", self.mirror, self.suites);
        Ok(())
    }

    /// `apt-get` or `apt-cache` with that state.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Downloads packages and unpacks them into a directory.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        let debs = tempfile::tempdir_in(into)?;
        let mut download = self.command("apt-get");
        sh::run(download.args(["-qq", "download"]).args(packages).current_dir(debs.path()))?;
        for deb in fs::read_dir(debs.path())? {
            let mut unpack = Command::new("dpkg-deb");
            sh::run(unpack.arg("--extract").arg(deb?.path()).arg(into))?;
        }
        Ok(())
    }
}

/// The mirror that this system uses, if it is a Debian.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let texts: Vec<_> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let found = texts.iter().find_map(|text| mirror_in(text));
    found.unwrap_or(MIRROR).to_owned()
}

fn mirror_in(sources: &str) -> Option<&str> {
    sources
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        assert_eq!(
            mirror_in("deb [arch=amd64] http://example.org/debian/ sid main"),
            Some("http://example.org/debian")
        );
        assert_eq!(
            mirror_in("Types: deb\nURIs: http://example.org/debian\n"),
            Some("http://example.org/debian")
        );
        assert_eq!(mirror_in("deb http://example.org/debian-security sid main"), None);
        assert_eq!(mirror_in("# deb http://example.org/debian sid main"), None);
    }
}
