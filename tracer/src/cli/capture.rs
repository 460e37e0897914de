//! `connleak capture`
use super::args::CaptureArgs;
use crate::{
    host::facts,
    model::{Event, Settings},
    pools::Catalogue,
    session::*,
};
use std::{io, os::fd::AsFd, os::unix::net::UnixStream, time::Instant};
struct Print;
impl Sink for Print {
    fn event(&mut self, e: &Event) -> io::Result<()> {
        if std::env::var_os("EV").is_some() {
            eprintln!("{}", serde_json::to_string(e).unwrap_or_default());
        }
        Ok(())
    }
}
pub fn run(args: &CaptureArgs, verbose: u8) -> anyhow::Result<u8> {
    let facts = facts::probe();
    let nanos = u64::try_from(args.threshold.as_nanos())?;
    let t = Instant::now();
    let options = Options {
        ports: args.ports().map_err(anyhow::Error::msg)?,
        any_unix_port: args.port.is_empty(),
        targets: Targets::new(
            args.pid.iter().copied().collect(),
            args.name.clone(),
            args.container.clone(),
        ),
        settings: Settings { threshold: nanos, soft_threshold: (nanos / 10).min(1_000_000_000) },
        log_level: if verbose > 1 { 4 } else { 0 },
    };
    let mut session = Session::start(
        options,
        facts.offsets.clone().map_err(anyhow::Error::msg)?,
        Catalogue::with_files(&args.pool)?,
        &mut Print,
    )?;
    eprintln!("connleak: watching (after {:?})", t.elapsed());
    let (stop, tx) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, tx.try_clone()?)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, tx)?;
    session.watch(Instant::now() + args.duration, stop.as_fd(), &mut Print, &mut |_| {})?;
    session.finish(&mut Print)?;
    let now = crate::host::clock::now();
    for f in session.tracker().findings(now) {
        println!("{f:#?}");
    }
    for c in session.tracker().live() {
        println!("{c:?}");
    }
    Ok(0)
}
