//! Other versions of Python, from other releases of Debian: an interpreter keeps its frames
//! elsewhere in each, and the tests read those of real programs.

use anyhow::Result;
use xtask::{clients, workspace};

use crate::apt::Apt;
use crate::setup::Unavailable;

/// A release that has some.
struct Release {
    suite: &'static str,
    /// Minors of [`clients::PYTHONS`].
    minors: &'static [u8],
    /// Only for the tests of further versions.
    further: bool,
    /// What they need, besides what every release calls the same.
    libraries: &'static [&'static str],
}

const RELEASES: [Release; 3] = [
    Release { suite: "bullseye", minors: &[9], further: false, libraries: &["libssl1.1"] },
    Release {
        suite: "trixie",
        minors: &[13],
        further: true,
        libraries: &["libssl3t64", "libzstd1"],
    },
    Release {
        suite: "forky",
        minors: &[14, 15],
        further: false,
        libraries: &["libssl3t64", "libzstd1"],
    },
];

const LIBRARIES: [&str; 5] = ["libc6", "libgcc-s1", "libexpat1", "libuuid1", "zlib1g"];

/// Fetches those that are not there yet; says so for each. An error is [`Unavailable`] where the
/// mirror does not give one. `further` ones are for [`Group::Versions`](crate::setup::Group::Versions).
pub fn ensure(further: bool) -> Result<()> {
    // The mirror takes its time, so all at once.
    std::thread::scope(|scope| {
        let wanted = RELEASES.iter().filter(|release| further || !release.further);
        let fetches: Vec<_> = wanted.map(|release| scope.spawn(|| fetch(release))).collect();
        fetches.into_iter().try_for_each(|fetch| match fetch.join() {
            Ok(fetched) => fetched.map_err(|error| {
                let (what, why) = ("another version of Python", format!("{error:#}"));
                Unavailable::Download { what, why }.into()
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Those of a release.
fn fetch(release: &Release) -> Result<()> {
    let mut apt = None;
    for &minor in release.minors {
        clients::install_python_root(minor, |root| {
            println!("setup: fetching Python 3.{minor} from {}", release.suite);
            let apt = match &mut apt {
                Some(apt) => apt,
                none => none.insert(lists(release)?),
            };
            let parts = ["python3.N-minimal", "libpython3.N-minimal", "libpython3.N-stdlib"];
            let parts = parts.map(|part| part.replace('N', &minor.to_string()));
            let libraries = LIBRARIES.iter().chain(release.libraries);
            let libraries = libraries.map(|&library| library.to_owned());
            apt.unpack(&libraries.chain(parts).collect::<Vec<_>>(), root)
        })?;
    }
    Ok(())
}

/// The packages of a release.
fn lists(release: &Release) -> Result<Apt> {
    let apt = Apt::new(&workspace::tools().join("apt").join(release.suite), &[release.suite])?;
    apt.update()?;
    Ok(apt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_comes_from_one_release() {
        let minors: Vec<u8> = RELEASES.iter().flat_map(|release| release.minors).copied().collect();
        assert_eq!(minors, clients::PYTHONS);
    }
}
