//! Which processes are watched.
//!
//! May import `host`, `loader` and the contract.

use std::collections::BTreeSet;

use tracer_ebpf::config::PROC_WATCHED;

use crate::{host::proc::ProcFs, loader::Kernel, model::Pid};

/// The processes to watch: everything, or what any of the lists names.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    pids: BTreeSet<u32>,
    names: Vec<String>,
    containers: Vec<String>,
}

impl Targets {
    /// By pid, by name (of the process or of its executable file), by container id (its beginning).
    #[must_use]
    pub fn new(pids: BTreeSet<u32>, names: Vec<String>, containers: Vec<String>) -> Self {
        Self { pids, names, containers }
    }

    /// No process was named.
    #[must_use]
    pub fn everything(&self) -> bool {
        self.pids.is_empty() && self.names.is_empty() && self.containers.is_empty()
    }

    /// Only pids were named, so when these have ended there is nothing left to watch.
    #[must_use]
    pub fn only_pids(&self) -> bool {
        !self.pids.is_empty() && self.names.is_empty() && self.containers.is_empty()
    }

    /// The pids named.
    #[must_use]
    pub fn pids(&self) -> &BTreeSet<u32> {
        &self.pids
    }

    /// Whether a process is one of them.
    #[must_use]
    pub fn matches(&self, proc: &ProcFs, pid: u32) -> bool {
        if self.everything() || self.pids.contains(&pid) {
            return true;
        }
        let pid = Pid(pid);
        if !self.names.is_empty() {
            let comm = proc.comm(pid);
            let exe = proc.exe(pid);
            let file = exe.as_deref().and_then(|exe| exe.rsplit('/').next());
            let named = |name: &String| comm.as_deref() == Some(name) || file == Some(name);
            if self.names.iter().any(named) {
                return true;
            }
        }
        !self.containers.is_empty()
            && proc.container(pid).is_some_and(|id| {
                self.containers.iter().any(|wanted| {
                    // Ids are shortened where they are shown: either may be the longer.
                    !wanted.is_empty() && (id.starts_with(wanted) || wanted.starts_with(&id))
                })
            })
    }

    /// Tells the kernel side to watch a process; its children inherit that. Whether it was not
    /// watched before.
    pub fn mark(&self, kernel: &mut Kernel, pid: u32) -> bool {
        let mut process = kernel.process(pid).unwrap_or_default();
        if process.flags & PROC_WATCHED != 0 {
            return false;
        }
        process.flags |= PROC_WATCHED;
        if !kernel.set_process(pid, process) {
            log::warn!("process {pid} is not watched: the process map is full");
        }
        true
    }
}
