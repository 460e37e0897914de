//! Executable files as bytes: ELF symbols, the Go function table, where functions return.
