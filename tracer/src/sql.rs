//! Removes literals from SQL text before it leaves the process that read it.
