//! The pool catalogue and what of it can be probed in a given executable or library.
use crate::model::Runtime;
use std::path::PathBuf;
use tracer_ebpf::probe::ProbeSpec;
#[derive(Default)]
pub struct BinaryPlan {
    pub runtime: Option<Runtime>,
    pub pools: Vec<PoolFound>,
}
pub struct PoolFound {
    pub name: String,
    pub is_pool: bool,
    pub observed: bool,
    pub note: Option<String>,
    pub points: Vec<Point>,
}
pub enum At {
    Entry,
    Return,
}
pub struct Point {
    pub probe: usize,
    pub symbol: String,
    pub file_offset: u64,
    pub at: At,
}
pub struct Pool {
    pub name: String,
    pub is_pool: bool,
}
pub struct Catalogue;
impl Catalogue {
    pub fn with_files(_: &[PathBuf]) -> anyhow::Result<Self> {
        Ok(Self)
    }
    pub fn specs(&self) -> Vec<ProbeSpec> {
        Vec::new()
    }
    pub fn take_new_specs(&mut self) -> Vec<(usize, ProbeSpec)> {
        Vec::new()
    }
    pub fn pools(&self) -> impl Iterator<Item = Pool> {
        Vec::new().into_iter()
    }
    pub fn inspect(&self, _: &[u8]) -> BinaryPlan {
        BinaryPlan::default()
    }
}
