//! `connleak doctor`: facts, and every hook and one probe tried by really loading it.
//!
//! May import `host` and `loader`.

use std::io::{Write as _, stdout};

use tracer_ebpf::{
    config::Config,
    limits::MAX_PORTS,
    mark::{NO_POOL, POOLS},
};

use super::{
    EXIT_FAILED, EXIT_NOTHING,
    args::{DoctorArgs, Format},
};
use crate::{
    host::{
        doctor::{self, HookStatus},
        facts,
    },
    loader::{Bounds, Kernel, LoadError, hooks},
};

/// Runs it.
///
/// # Errors
///
/// When the output cannot be written.
pub fn run(args: &DoctorArgs) -> anyhow::Result<u8> {
    let facts = facts::probe();
    let hooks = try_hooks(&facts);
    let format = match args.format {
        Format::Text => doctor::Format::Text,
        Format::Json => doctor::Format::Json,
    };
    let mut out = stdout().lock();
    doctor::render(&facts, &hooks, format, &mut out)?;
    out.flush()?;
    let works = facts::decide(&facts).is_ok() && hooks.iter().all(|hook| hook.works.is_ok());
    Ok(if works { EXIT_NOTHING } else { EXIT_FAILED })
}

/// Loads and attaches each hook, and loads a probe; all are gone when this returns.
fn try_hooks(facts: &facts::Facts) -> Vec<HookStatus> {
    let config = Config {
        ports: [0; MAX_PORTS],
        only_marked: 1,
        any_unix_port: 0,
        own_tgid: std::process::id(),
        _pad: 0,
        marked_pools: [NO_POOL; POOLS],
        off: facts.offsets.clone().unwrap_or_default(),
    };
    let mut kernel = Kernel::load(config, &[], Bounds::default(), 0);
    let mut works = |attempt: &dyn Fn(&mut Kernel) -> Result<(), LoadError>| match &mut kernel {
        Ok(kernel) => attempt(kernel).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let hooks = hooks(config.off.socket_hooks != 0).map(|hook| HookStatus {
        name: format!("tp_btf/{}", hook.tracepoint),
        works: works(&|kernel| kernel.attach_hook(hook)),
        gives: hook.gives.to_owned(),
    });
    let mut hooks: Vec<_> = hooks.collect();
    // There is no function to attach it at, but one program is all of them.
    hooks.push(HookStatus {
        name: "uprobe".to_owned(),
        works: works(&|kernel| kernel.load_probe(0).map(drop)),
        gives: "observed checkouts".to_owned(),
    });
    hooks
}
