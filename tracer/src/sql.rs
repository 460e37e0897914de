//! Removes literals from SQL text before it leaves the process that read it.

/// placeholder
pub fn redact(text: &[u8], _cut: bool) -> String {
    String::from_utf8_lossy(text).into_owned()
}
