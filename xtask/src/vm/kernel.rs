//! Kernels of Debian's releases, fetched and unpacked in the target directory's `vm`.
//!
//! Old builds disappear from the mirrors, so a kernel is asked for by series and the
//! newest build of it is taken and kept.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{sh, workspace};

use crate::apt::Apt;

/// A series that can be asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// As typed after `--kernel`.
    pub name: &'static str,
    /// How its versions begin.
    prefix: &'static str,
    suites: &'static [&'static str],
}

/// Every series that is tested, oldest first.
pub const SERIES: &[Series] = &[
    Series { name: "5.10", prefix: "5.10.", suites: &["bullseye", "bullseye-security"] },
    Series { name: "6.1", prefix: "6.1.", suites: &["bookworm", "bookworm-security"] },
    Series { name: "6.12", prefix: "6.12.", suites: &["trixie", "trixie-security"] },
    Series { name: "newest", prefix: "", suites: &["sid"] },
];

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Kernel {
    /// As typed after `--kernel`.
    pub name: &'static str,
    /// As `uname -r` says it.
    pub version: String,
    /// The uncompressed kernel. QEMU enters it directly (PVH), without the slow decompressor.
    pub image: PathBuf,
    /// Its directory of modules.
    pub modules: PathBuf,
}

/// The series of that name.
pub fn series(name: &str) -> Result<&'static Series> {
    let names = || SERIES.iter().map(|series| series.name).collect::<Vec<_>>().join(", ");
    SERIES
        .iter()
        .find(|series| series.name == name)
        .with_context(|| format!("no kernel `{name}`: there are {}", names()))
}

/// The kernel of that series: the one kept from before unless `update`, else the newest.
pub fn fetch(series: &Series, update: bool) -> Result<Kernel> {
    let dir = workspace::target().join("vm/kernels").join(series.name);
    let kept = dir.join("version");
    let version = match fs::read_to_string(&kept) {
        Ok(version) if !update => version,
        _ => {
            let version = download(series, &dir)
                .with_context(|| format!("kernel {} cannot be fetched", series.name))?;
            fs::write(&kept, &version)?;
            version
        }
    };
    open(series.name, &dir.join(&version), version)
}

fn download(series: &Series, dir: &Path) -> Result<String> {
    fs::create_dir_all(dir)?;
    let apt = Apt::new(&dir.join("apt"), series.suites)?;
    println!("vm: looking for kernel {} in {}", series.name, series.suites.join(", "));
    apt.update()?;
    let names = sh::output(apt.command("apt-cache").args(["pkgnames", "linux-image-"]))?;
    let version = newest(&names, series.prefix)
        .with_context(|| format!("{} have no such package", series.suites.join(", ")))?;
    let unpacked = dir.join(version);
    if unpacked.join("image").exists() {
        return Ok(version.to_owned());
    }
    let image = format!("linux-image-{version}");
    let described =
        sh::output(apt.command("apt-cache").args(["show", "--no-all-versions", &image]))?;
    // From 7.x the image package is empty and depends on these.
    let packages = if described.contains("linux-binary-") {
        ["binary", "modules", "base"].map(|part| format!("linux-{part}-{version}")).to_vec()
    } else {
        vec![image]
    };
    println!("vm: downloading {}", packages.join(" "));
    apt.unpack(&packages, &unpacked)?;
    let modules = modules_dir(&unpacked, version)?;
    let places = [unpacked.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")];
    let vmlinuz = places.iter().find(|path| path.exists());
    let vmlinuz = vmlinuz.with_context(|| format!("no vmlinuz in {}", unpacked.display()))?;
    let image = uncompressed(&fs::read(vmlinuz)?)
        .with_context(|| format!("unpacking {}", vmlinuz.display()))?;
    // Last, and at once: its presence says that the directory is complete.
    let mut file = tempfile::NamedTempFile::new_in(&unpacked)?;
    file.write_all(&image)?;
    file.persist(unpacked.join("image"))?;
    Ok(version.to_owned())
}

fn open(name: &'static str, dir: &Path, version: String) -> Result<Kernel> {
    let image = dir.join("image");
    ensure!(image.exists(), "{} is incomplete: run again with --update", dir.display());
    let modules = modules_dir(dir, &version)?;
    Ok(Kernel { name, version, image, modules })
}

fn modules_dir(dir: &Path, version: &str) -> Result<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| dir.join(place).join(version));
    let found = places.into_iter().find(|place| place.join("kernel").is_dir());
    found.with_context(|| format!("no modules in {}", dir.display()))
}

/// The highest version among package names, of the builds for clouds: they are small, and have
/// virtiofs.
fn newest<'a>(packages: &'a str, prefix: &str) -> Option<&'a str> {
    packages
        .lines()
        .filter_map(|package| package.trim().strip_prefix("linux-image-"))
        .filter(|version| version.ends_with("-cloud-amd64"))
        .filter(|version| version.starts_with(prefix))
        .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        .max_by_key(|version| numbers(version))
}

/// The numbers in a version, in order: `6.12.117+deb13` is later than `6.12.99+deb13`.
fn numbers(version: &str) -> Vec<u64> {
    let digits = version.split(|letter: char| !letter.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// Takes the ELF file out of a bzImage: offset and length of the compressed payload are in the
/// header, counted from the end of the real-mode code (Linux, Documentation/arch/x86/boot.rst).
fn uncompressed(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let sectors = image.get(0x1f1).map_or(4, |sectors| if *sectors == 0 { 4 } else { *sectors });
    let payload = (|| {
        let start = (usize::from(sectors) + 1).checked_mul(512)?.checked_add(word(0x248)?)?;
        image.get(start..start.checked_add(word(0x24c)?)?)
    })()
    .context("the header points outside of the file")?;
    let program = decompressor(payload).context("unknown compression")?;
    let elf = filter(program, payload)?;
    ensure!(elf.starts_with(b"\x7fELF"), "{program} gave no ELF file");
    Ok(elf)
}

fn decompressor(payload: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], _); 4] = [
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ", "xz"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x1f\x8b", "gzip"),
    ];
    known.into_iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, program)| program)
}

/// Decompresses with one of the usual programs. Their exit code says nothing here: behind a
/// kernel's payload follows its size, which they call garbage.
pub fn filter(program: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().context("its standard input is a pipe")?;
    let output = std::thread::scope(|scope| {
        // It may stop reading before the end.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    })?;
    if output.stdout.is_empty() {
        bail!("{program} gave nothing");
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_build_is_chosen_by_number() {
        let packages = "linux-image-6.12.99+deb13-cloud-amd64\n\
                        linux-image-6.12.117+deb13-cloud-amd64\n\
                        linux-image-6.12.200+deb13-amd64\n\
                        linux-image-6.1.0-56-cloud-amd64\n\
                        linux-image-cloud-amd64\n\
                        linux-image-6.12.300+deb13-cloud-amd64-unsigned\n";
        assert_eq!(newest(packages, "6.12."), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest(packages, "6.1."), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest(packages, ""), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest(packages, "5.10."), None);
    }

    #[test]
    fn an_image_that_is_none_is_refused() {
        assert!(uncompressed(b"").is_err());
        let mut image = vec![0xff; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(uncompressed(&image).is_err());
    }
}
