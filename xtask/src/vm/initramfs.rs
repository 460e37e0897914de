//! The first file system of a virtual machine: busybox, the modules that reach the host's root
//! directory, and the command.
//!
//! Written in the "newc" form of cpio (Linux, Documentation/driver-api/early-userspace).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xtask::{sh, workspace};

use super::kernel::{Kernel, filter};

/// In the order they are wanted; what they depend on is loaded before. The last two list sockets:
/// a running system loads them when asked, which this one cannot.
const MODULES: &[&str] = &["virtio_pci", "virtiofs", "overlay", "tcp_diag", "unix_diag"];

/// The archive that boots `kernel` into running the shell script `run`.
pub fn build(kernel: &Kernel, run: &str) -> Result<Vec<u8>> {
    let busybox = sh::which("busybox").context("busybox is not installed")?;
    let modules = Modules::find(&kernel.modules)?.ordered(MODULES)?;
    let mut archive = Archive::default();
    for dir in ["bin", "vm", "vm/modules"] {
        archive.directory(dir);
    }
    archive.file("bin/busybox", &fs::read(busybox)?)?;
    archive.file("init", include_bytes!("init.sh"))?;
    archive.file("vm/places", &places())?;
    archive.file("vm/run", run.as_bytes())?;
    let mut order = String::new();
    for (name, content) in modules {
        archive.file(&format!("vm/modules/{name}.ko"), &content)?;
        order.push_str(&name);
        order.push_str(".ko\n");
    }
    archive.file("vm/modules/order", order.as_bytes())?;
    archive.finish()
}

/// What the machine must see wherever it is: the checkout and the target directory, a line each.
fn places() -> Vec<u8> {
    let (root, target) = (workspace::root(), workspace::target());
    let elsewhere = (!target.starts_with(root)).then_some(target.as_path());
    let places = [Some(root), elsewhere].into_iter().flatten();
    places.flat_map(|place| [place.as_os_str().as_bytes(), b"\n"].concat()).collect()
}

/// The modules of a kernel, by name.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Modules {
    fn find(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![dir.join("kernel")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    dirs.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                    files.insert(name, entry.path());
                }
            }
        }
        let list = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
        let names = list.lines().filter_map(|line| line.rsplit('/').next());
        Ok(Self { files, built_in: names.filter_map(module_name).collect() })
    }

    /// These modules and all that they depend on, in the order to load them.
    fn ordered(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut loaded = Vec::new();
        for name in wanted {
            self.load(name, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load(&self, name: &str, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.built_in.contains(name) || loaded.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        let path =
            self.files.get(name).with_context(|| format!("this kernel has no module {name}"))?;
        let content = read(path).with_context(|| format!("reading {}", path.display()))?;
        for dependency in dependencies(&content) {
            self.load(&dependency, loaded)?;
        }
        loaded.push((name.to_owned(), content));
        Ok(())
    }
}

/// `virtio-pci.ko.xz` is the module `virtio_pci`.
fn module_name(file: &str) -> Option<String> {
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => filter("xz", &content),
        Some("zst") => filter("zstd", &content),
        _ => Ok(content),
    }
}

/// What the `.modinfo` section names after `depends=`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(entry.unwrap_or_default()).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A cpio archive being written. Everything in it is root's and executable.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.header(name, 0o040_755, 0);
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        self.header(name, 0o100_755, size);
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.header("TRAILER!!!", 0, 0);
        Ok(self.bytes)
    }

    fn header(&mut self, name: &str, mode: u32, size: u32) {
        self.entries += 1;
        let links = 1;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let (inode, zero) = (self.entries, 0);
        let fields =
            [inode, mode, zero, zero, links, zero, size, zero, zero, zero, zero, name_size, zero];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/fs");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("virtiofs.ko"), b"x\0depends=fuse,virtio-ring\0y").unwrap();
        fs::write(kernel.join("fuse.ko"), b"depends=\0").unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio-ring.ko\n").unwrap();
        let modules = Modules::find(dir.path()).unwrap();
        let order = modules.ordered(&["virtiofs", "fuse"]).unwrap();
        let order: Vec<_> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(order, ["fuse", "virtiofs"]);
        assert!(modules.ordered(&["absent"]).is_err());
    }

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/a", b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> = (0..bytes.len() - 6)
            .step_by(4)
            .filter(|at| &bytes[*at..*at + 6] == b"070701")
            .collect();
        assert_eq!(starts.len(), 3);
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
