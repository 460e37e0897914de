//! `connleak report`
use super::args::ReportArgs;
pub fn run(_: &ReportArgs) -> anyhow::Result<u8> {
    Ok(0)
}
