//! Loads the eBPF object and attaches it; the only module besides `ingest` that knows aya.
