//! Go toolchains besides the system's, among the tools in the target directory: the function table
//! has changed over the releases, and the tests read those of real programs.

use std::fs;

use anyhow::{Context as _, Result};
use xtask::{clients, sh, workspace};

use crate::apt::Apt;
use crate::setup::Unavailable;

/// A toolchain.
struct Toolchain {
    /// Directory in [`workspace::tools`].
    name: &'static str,
    suite: &'static str,
    /// How its packages begin; the newest of them is taken.
    prefix: &'static str,
    /// Go packages unpacked beside it.
    libraries: &'static [&'static str],
}

const TOOLCHAINS: [Toolchain; 2] = [
    Toolchain { name: "go-1.24", suite: "trixie", prefix: "golang-1.24", libraries: &[] },
    Toolchain {
        name: clients::NEWEST_GO,
        suite: "sid",
        prefix: "golang-1.",
        libraries: &[
            "golang-github-jackc-pgx-v5-dev",
            "golang-github-jackc-puddle-v2-dev",
            "golang-github-jackc-pgpassfile-dev",
            "golang-github-jackc-pgservicefile-dev",
            "golang-golang-x-crypto-dev",
            "golang-golang-x-text-dev",
            "golang-golang-x-sync-dev",
        ],
    },
];

/// Fetches those that are not there yet, all or only the newest; says so for each. An error is
/// [`Unavailable`] where the mirror does not give one.
pub fn ensure(all: bool) -> Result<()> {
    for toolchain in TOOLCHAINS.iter().filter(|it| all || it.name == clients::NEWEST_GO) {
        let dir = workspace::tools().join(toolchain.name);
        if dir.join("complete").exists() {
            continue;
        }
        println!("setup: fetching {} from {}", toolchain.name, toolchain.suite);
        fetch(toolchain, &dir).map_err(|error| Unavailable::Download {
            what: toolchain.name,
            why: format!("{error:#}"),
        })?;
        // Last: its presence says that the directory is complete.
        fs::write(dir.join("complete"), [])?;
    }
    Ok(())
}

fn fetch(toolchain: &Toolchain, dir: &std::path::Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let state = workspace::tools().join("apt").join(toolchain.suite);
    let apt = Apt::new(&state, &[toolchain.suite])?;
    apt.update()?;
    let names = sh::output(apt.command("apt-cache").args(["pkgnames", toolchain.prefix]))?;
    let version = newest(&names)
        .with_context(|| format!("{} has no package {}*-go", toolchain.suite, toolchain.prefix))?;
    let mut packages: Vec<String> =
        ["go", "src"].map(|part| format!("golang-{version}-{part}")).to_vec();
    packages.extend(toolchain.libraries.iter().map(|&library| library.to_owned()));
    apt.unpack(&packages, dir)
}

/// The highest `1.N` among names like `golang-1.N-go`.
fn newest(packages: &str) -> Option<&str> {
    let minor = |version: &str| version.strip_prefix("1.")?.parse::<u32>().ok();
    packages
        .lines()
        .filter_map(|name| name.trim().strip_prefix("golang-")?.strip_suffix("-go"))
        .filter(|version| minor(version).is_some())
        .max_by_key(|version| minor(version))
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_toolchain_is_chosen_by_number() {
        let packages = "golang-1.9-go\ngolang-1.27-go\ngolang-1.26-src\ngolang-1.foo-go\n\
                        golang-1.8-go\ngolang-github-x-go\n";
        assert_eq!(newest(packages), Some("1.27"));
        assert_eq!(newest(""), None);
    }
}
