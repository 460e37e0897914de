//! Processes as /proc shows them: who they are, what they have mapped and which sockets they hold.
//!
//! May import [`crate::model`]'s plain types. Everything a process can choose is read up to a
//! limit and parsed totally. Invariant: a process that ends while it is read, or that may not be
//! read, gives less or nothing, never an error; facts are never mixed with those of a later
//! process of the same pid by [`ProcFs::process_seen`].

mod container;
mod maps;
mod root;
mod runtime;

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

pub use maps::{MappedFile, Mapping, parse_mapping};
pub use root::Root;

use crate::model::{Fd, Pid, ProcessSeen, Runtime};

/// Bytes read of a small file (`stat`, `status`, `comm`, `cgroup`).
const SMALL_FILE_BYTES: u64 = 64 << 10;
/// Bytes read of a process's environment.
const ENVIRONMENT_BYTES: u64 = 1 << 20;
/// Descriptors looked at for open files.
const MAX_DESCRIPTORS: usize = 65_536;
/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// A tree laid out like /proc.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    /// The system's own.
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// A descriptor of a process that refers to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Inode number of the socket.
    pub inode: u64,
    pub pid: Pid,
    pub fd: Fd,
}

impl ProcFs {
    /// The tree at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the tree is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a process.
    #[must_use]
    pub fn dir(&self, pid: Pid) -> PathBuf {
        self.root.join(pid.0.to_string())
    }

    /// All processes, by rising pid.
    ///
    /// # Errors
    /// When the tree's root cannot be listed.
    pub fn pids(&self) -> io::Result<Vec<Pid>> {
        let mut pids: Vec<Pid> = fs::read_dir(&self.root)?
            .flatten()
            .filter_map(|entry| decimal(entry.file_name().as_bytes()))
            .map(Pid)
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// What is known of a process, without its pools. `inspected` is what the executable's own
    /// bytes tell of its runtime. `None` when there is no such process, or no longer the same.
    #[must_use]
    pub fn process_seen(&self, pid: Pid, inspected: Option<Runtime>) -> Option<ProcessSeen> {
        let start_time = self.start_time(pid)?;
        let seen = ProcessSeen {
            start_time: Some(start_time),
            comm: self.comm(pid)?,
            exe: self.exe(pid),
            runtime: self.runtime(pid, inspected),
            container: self.container(pid),
            ns_pid: self.ns_pid(pid),
            pools: Vec::new(),
        };
        (self.start_time(pid) == Some(start_time)).then_some(seen)
    }

    /// The language runtime. `inspected` is what the executable's own bytes tell of it.
    #[must_use]
    pub fn runtime(&self, pid: Pid, inspected: Option<Runtime>) -> Option<Runtime> {
        runtime::recognise(self.exe(pid).as_deref(), inspected, || self.mapped_files(pid))
    }

    /// Start time in clock ticks after boot.
    #[must_use]
    pub fn start_time(&self, pid: Pid) -> Option<u64> {
        start_time(&self.read(pid, "stat")?)
    }

    /// The name of the main thread, which the process may set to anything of up to 15 bytes.
    #[must_use]
    pub fn comm(&self, pid: Pid) -> Option<String> {
        let comm = self.read(pid, "comm")?;
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        Some(String::from_utf8_lossy(comm).into_owned())
    }

    /// Path of the executable as the process sees it; the mark of a deleted file is removed.
    #[must_use]
    pub fn exe(&self, pid: Pid) -> Option<String> {
        let exe = fs::read_link(self.dir(pid).join("exe")).ok()?;
        let (path, _) = without_deleted(exe.as_os_str().as_bytes());
        Some(String::from_utf8_lossy(path).into_owned())
    }

    /// Container id, the first twelve characters.
    #[must_use]
    pub fn container(&self, pid: Pid) -> Option<String> {
        container::id(&self.read(pid, "cgroup")?)
    }

    /// Pid in the innermost pid namespace, where that is not the one of this tree.
    #[must_use]
    pub fn ns_pid(&self, pid: Pid) -> Option<u32> {
        ns_pid(&self.read(pid, "status")?)
    }

    /// Files mapped executable, each once, in the order of their addresses.
    #[must_use]
    pub fn mapped_files(&self, pid: Pid) -> Vec<MappedFile> {
        let dir = self.dir(pid);
        let Ok(file) = File::open(dir.join("maps")) else {
            return Vec::new();
        };
        maps::executable_files(BufReader::new(file), &dir.join("map_files"))
    }

    /// Paths of all files mapped, executable or not, each once, as [`Mapping::path`].
    #[must_use]
    pub fn mapped_paths(&self, pid: Pid) -> BTreeSet<PathBuf> {
        match File::open(self.dir(pid).join("maps")) {
            Ok(file) => maps::paths(BufReader::new(file)),
            Err(_) => BTreeSet::new(),
        }
    }

    /// Paths of the files open, each once, as the reader sees them.
    #[must_use]
    pub fn open_paths(&self, pid: Pid) -> BTreeSet<PathBuf> {
        let mut paths = BTreeSet::new();
        let mut seen = 0;
        self.each_fd(pid, |_, link| {
            seen += 1;
            if seen <= MAX_DESCRIPTORS
                && let Ok(path) = fs::read_link(link)
                && path.is_absolute()
                && !without_deleted(path.as_os_str().as_bytes()).1
            {
                paths.insert(path);
            }
        });
        paths
    }

    /// The file system as the process sees it.
    #[must_use]
    pub fn root_of(&self, pid: Pid) -> Option<Root> {
        Root::open(&self.dir(pid).join("root"))
    }

    /// The working directory, as the process sees it.
    #[must_use]
    pub fn cwd(&self, pid: Pid, root: &Root) -> Option<PathBuf> {
        Some(root.inside(&fs::read_link(self.dir(pid).join("cwd")).ok()?))
    }

    /// The arguments, as far as the process still shows them.
    #[must_use]
    pub fn arguments(&self, pid: Pid) -> Vec<Vec<u8>> {
        let bytes = self.read(pid, "cmdline").unwrap_or_default();
        let whole = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        whole.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// A variable of the environment that the process was started with.
    #[must_use]
    pub fn variable(&self, pid: Pid, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.dir(pid).join("environ")).ok()?;
        file.take(ENVIRONMENT_BYTES).read_to_end(&mut bytes).ok()?;
        bytes.split(|byte| *byte == 0).find_map(|entry| {
            let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.to_vec())
        })
    }

    /// The inode number of a process's network namespace.
    #[must_use]
    pub fn netns(&self, pid: Pid) -> Option<u32> {
        let link = fs::metadata(self.dir(pid).join("ns/net")).ok()?;
        u32::try_from(link.ino()).ok()
    }

    /// All open descriptors, by rising number.
    #[must_use]
    pub fn fds(&self, pid: Pid) -> Vec<Fd> {
        let mut fds = Vec::new();
        self.each_fd(pid, |fd, _| fds.push(fd));
        fds.sort_unstable();
        fds
    }

    /// Descriptors that refer to sockets, with the socket's inode number, by rising descriptor.
    #[must_use]
    pub fn socket_fds(&self, pid: Pid) -> Vec<(Fd, u64)> {
        let mut sockets = Vec::new();
        self.each_fd(pid, |fd, link| {
            if let Some(inode) = fs::read_link(link).ok().and_then(|to| socket_inode(&to)) {
                sockets.push((fd, inode));
            }
        });
        sockets.sort_unstable();
        sockets
    }

    /// Whether the descriptor is open and refers to the socket.
    #[must_use]
    pub fn fd_is_socket(&self, pid: Pid, fd: Fd, inode: u64) -> bool {
        let link = self.dir(pid).join("fd").join(fd.0.to_string());
        fs::read_link(link).is_ok_and(|to| socket_inode(&to) == Some(inode))
    }

    /// Every descriptor that refers to one of the sockets, in the processes of `only` or in all.
    /// One pass over their descriptors; in the order of [`Holder`].
    #[must_use]
    pub fn holders(&self, inodes: &HashSet<u64>, only: Option<&BTreeSet<Pid>>) -> Vec<Holder> {
        let pids = match only {
            Some(pids) => pids.iter().copied().collect(),
            None => self.pids().unwrap_or_default(),
        };
        let mut holders: Vec<Holder> = pids
            .into_iter()
            .flat_map(|pid| {
                let held = self.socket_fds(pid).into_iter();
                held.map(move |(fd, inode)| Holder { inode, pid, fd })
            })
            .filter(|holder| inodes.contains(&holder.inode))
            .collect();
        holders.sort_unstable();
        holders
    }

    fn each_fd(&self, pid: Pid, mut visit: impl FnMut(Fd, &Path)) {
        let Ok(entries) = fs::read_dir(self.dir(pid).join("fd")) else {
            return;
        };
        for entry in entries.flatten() {
            if let Some(fd) = decimal(entry.file_name().as_bytes()) {
                visit(Fd(fd), &entry.path());
            }
        }
    }

    /// Bytes of a process's memory; `None` where they cannot be read.
    #[must_use]
    pub fn memory<const N: usize>(&self, pid: Pid, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        File::open(self.dir(pid).join("mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }

    /// Its resident memory.
    #[must_use]
    pub fn resident_bytes(&self, pid: Pid) -> Option<u64> {
        resident_bytes(&self.read(pid, "status")?)
    }

    fn read(&self, pid: Pid, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.dir(pid).join(name)).ok()?;
        file.take(SMALL_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// A number in plain digits, as /proc writes it.
fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Field 22 of `stat`. The name in field 2 may hold spaces and parentheses, but nothing after the
/// last parenthesis is the process's to choose.
fn start_time(stat: &[u8]) -> Option<u64> {
    const FIELDS_FROM_STATE_TO_START: usize = 22 - 3;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = stat.get(name_end + 1..)?.trim_ascii_start();
    decimal(rest.split(|byte| *byte == b' ').nth(FIELDS_FROM_STATE_TO_START)?)
}

/// The last of the pids in `NSpid`, when there is more than one. The line cannot be forged by the
/// name in the first: the kernel escapes its newlines.
fn ns_pid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let mut pids = line.split(u8::is_ascii_whitespace).filter(|pid| !pid.is_empty());
    pids.next()?;
    decimal(pids.next_back()?)
}

/// `VmRSS` of `/proc/PID/status`, in kB there.
fn resident_bytes(status: &[u8]) -> Option<u64> {
    let mut lines = status.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(b"VmRSS:"))?.trim_ascii();
    decimal::<u64>(value.strip_suffix(b" kB")?)?.checked_mul(1024)
}

fn socket_inode(link: &Path) -> Option<u64> {
    let link: &OsStr = link.as_os_str();
    decimal(link.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// A path as the kernel shows it, and whether its file has been deleted.
fn without_deleted(path: &[u8]) -> (&[u8], bool) {
    path.strip_suffix(DELETED).map_or((path, false), |path| (path, true))
}

#[cfg(test)]
mod tests;
