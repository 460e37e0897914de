//! Booting a kernel in QEMU and running one command there.
//!
//! The machine sees the host's root directory read-only, writes into memory, has no network but
//! its own loopback, and ends with the command. It is emulated, never accelerated: a host that is
//! itself virtual may offer KVM and then hang in it, and emulation is fast enough.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::{sh, workspace};

use super::initramfs;
use super::kernel::Kernel;
use crate::needs;

/// The machine and what runs in it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory, which also holds what the command writes.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// Boot and command together.
    pub limit: Duration,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Its environment, beyond `PATH` and `HOME`.
    pub environment: Vec<(String, String)>,
    /// Its working directory.
    pub directory: String,
}

/// Runs the command under `kernel`, shows its output line by line with the kernel's name in
/// front, and gives its exit code.
///
/// # Errors
/// When the machine did not get as far as running the command, or took too long.
pub fn run(kernel: &Kernel, machine: &Machine) -> Result<u8> {
    let dir =
        tempfile::TempDir::with_prefix("connleak-vm-").context("making a temporary directory")?;
    let initrd = dir.path().join("initrd");
    fs::write(&initrd, initramfs::build(kernel, &script(machine)?)?)?;
    let socket = dir.path().join("root.sock");
    let _share = share_root(&socket, &dir.path().join("virtiofsd.log"))?;
    let (console, code) = (dir.path().join("console"), dir.path().join("code"));
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-M", "q35,memory-backend=mem", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", &machine.cpus.to_string(), "-m", &format!("{}M", machine.memory_mib)])
        .arg("-object")
        .arg(format!("memory-backend-memfd,id=mem,size={}M,share=on", machine.memory_mib))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"])
        .arg("-serial")
        .arg(format!("file:{}", code.display()))
        .arg("-chardev")
        .arg(format!("socket,id=root,path={}", socket.display()))
        .args(["-device", "vhost-user-fs-pci,queue-size=1024,chardev=root,tag=root"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", KERNEL_PARAMETERS])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut qemu =
        Running(qemu.spawn().with_context(|| format!("cannot start {}", sh::shown(&qemu)))?);
    let ended = show_output(kernel.name, &mut qemu.0, machine.limit)?;
    let code = fs::read_to_string(&code).unwrap_or_default();
    if let Ok(code) = code.trim().parse() {
        return Ok(code);
    }
    let said = fs::read(&console).unwrap_or_default();
    eprintln!("{}", String::from_utf8_lossy(&said).replace('\r', ""));
    if ended {
        bail!("kernel {} ended without running the command", kernel.version);
    }
    bail!("kernel {} took longer than {:?}", kernel.version, machine.limit);
}

/// Quiet, at once ended by a panic, and not waiting for entropy. An emulator that gets no processor for
/// a moment loses ticks, and the kernel's test of its timer takes that for a broken board.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check";

/// The shell script that the first program runs in the host's root directory.
fn script(machine: &Machine) -> Result<String> {
    let path = std::env::var("PATH").context("PATH")?;
    let mut script = String::from("export HOME=/root USER=root\n");
    let path = ("PATH".to_owned(), path);
    for (name, value) in std::iter::once(&path).chain(&machine.environment) {
        script.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    script.push_str(&format!("cd {} || exit 125\nexec", quoted(&machine.directory)));
    for word in &machine.command {
        script.push(' ');
        script.push_str(&quoted(word));
    }
    script.push('\n');
    Ok(script)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A child that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Serves the root directory on `socket`.
fn share_root(socket: &Path, log: &Path) -> Result<Running> {
    let program = needs::VIRTIOFSD.iter().find(|path| Path::new(path).exists());
    let program = program.context("virtiofsd is not installed")?;
    let mut command = Command::new(program);
    let mut path = std::ffi::OsString::from("--socket-path=");
    path.push(socket);
    command.arg(path);
    // The one that came with QEMU has options of its own.
    if program.contains("/qemu/") {
        command.args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot", "-f"]);
    } else {
        command.args(["--shared-dir=/", "--cache=always", "--sandbox=chroot"]);
    }
    let file = File::create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut running =
        Running(command.spawn().with_context(|| format!("cannot start {}", sh::shown(&command)))?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        let ended = running.0.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            bail!("virtiofsd did not start: {}", fs::read_to_string(log)?);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(running)
}

/// Copies the machine's output to ours and to a file until it ends or `limit` has passed; says
/// whether it ended.
fn show_output(name: &str, qemu: &mut Child, limit: Duration) -> Result<bool> {
    let stdout = qemu.stdout.take().context("its standard output is a pipe")?;
    let path = workspace::target().join("vm").join(format!("{name}.log"));
    // A run as root may have left one that we could not write into.
    drop(fs::remove_file(&path));
    let mut log = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                log.write_all(&line)?;
                println!("[{name}] {}", String::from_utf8_lossy(&line).trim_end());
            }
            Err(RecvTimeoutError::Disconnected) => {
                qemu.wait()?;
                return Ok(true);
            }
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_as_they_are() {
        for word in ["plain", "", "two words", "it's", "$HOME `x` \\ \"", "a\nb"] {
            let script = format!("printf %s {}", quoted(word));
            let output = sh::output(Command::new("sh").args(["-c", &script])).unwrap();
            assert_eq!(output, word);
        }
    }
}
