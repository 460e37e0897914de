//! Processor time of processes, which a busy machine changes less than the time on the wall.
//!
//! May import `std` only.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Length of a tick in `/proc/PID/stat`: `USER_HZ` is 100 wherever Linux runs on x86.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process so far, without that of its children.
pub fn used(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse(&stat).with_context(|| format!("{path} is not as expected"))
}

/// `proc_pid_stat(5)`: fields 14 and 15 are user and system time.
fn parse(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses; no later field does.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut ticks = after.split(' ').skip(11).map(str::parse::<u32>);
    Some(TICK * ticks.next()?.ok()?.checked_add(ticks.next()?.ok()?)?)
}

/// The children of a process's first thread.
pub fn children(pid: u32) -> Result<BTreeSet<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let list = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    list.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_shift_the_fields() {
        let stat = "7 (a) 1 2) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
