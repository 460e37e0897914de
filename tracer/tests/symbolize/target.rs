//! Running a program up to where it stops itself, and copying its stack as the kernel side would.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

use tracer::symbolize::RawStack;

/// A stopped program, killed when dropped.
pub struct Target {
    child: Child,
    tid: i32,
}

impl Target {
    /// Starts `command`, which prints the id of a thread and stops itself in it.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let tid = line.trim().parse().unwrap();
        sys::wait_for_stop(i32::try_from(child.id()).unwrap());
        Self { child, tid }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The stack of the stopped thread, at most `limit` bytes of it.
    pub fn stack(&self, limit: usize) -> RawStack {
        let regs = sys::registers(self.tid);
        let memory = File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        let mut bytes = Vec::new();
        let mut page = [0; 256];
        while bytes.len() < limit {
            let want = page.len().min(limit - bytes.len());
            match memory.read_at(&mut page[..want], regs.rsp + bytes.len() as u64) {
                Ok(got) if got > 0 => bytes.extend_from_slice(&page[..got]),
                _ => break,
            }
        }
        RawStack {
            pid: self.pid(),
            ip: regs.rip,
            sp: regs.rsp,
            bp: regs.rbp,
            boundary: false,
            bytes,
            fixups: Vec::new(),
            ..RawStack::default()
        }
    }

    /// Ends the program and takes it off the process table.
    pub fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(unsafe_code, reason = "ptrace and waitpid have no safe interface here")]
mod sys {
    use std::ptr;

    pub fn wait_for_stop(pid: i32) {
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED | libc::__WALL) };
        assert!(waited == pid && libc::WIFSTOPPED(status), "{pid}: {waited}, status {status:#x}");
    }

    /// The registers of stopped thread `tid`.
    pub fn registers(tid: i32) -> libc::user_regs_struct {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: attaching takes no memory.
        let attached = unsafe { libc::ptrace(libc::PTRACE_ATTACH, tid, none, none) };
        assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
        wait_for_stop(tid);
        // SAFETY: all bits zero is a valid `user_regs_struct`.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: `regs` is as large as the kernel writes.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, none, &raw mut regs) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: detaching takes no memory; the thread stays stopped.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, none, libc::SIGSTOP) };
        regs
    }
}
