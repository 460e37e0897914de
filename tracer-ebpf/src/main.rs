//! eBPF object
fn main() {}
