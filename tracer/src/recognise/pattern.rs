//! Ends of paths with `*` in their names.
//!
//! May import nothing. Pure and total.

/// Whether the last components of `path` are those of `pattern`, where `*` stands for any part of
/// one component.
pub(super) fn matches(pattern: &str, path: &[u8]) -> bool {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    pattern.rsplit('/').all(|wanted| parts.next().is_some_and(|part| is_like(wanted, part)))
}

/// Whether `name` is `pattern`, where `*` stands for any bytes.
pub(super) fn is_like(pattern: &str, name: &[u8]) -> bool {
    let mut wanted = pattern.as_bytes().split(|byte| *byte == b'*');
    let first = wanted.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = wanted.next_back() else { return rest.is_empty() };
    for part in wanted {
        let Some(at) = memchr::memmem::find(rest, part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn the_end_of_a_path_is_compared_component_by_component() {
        for (pattern, path, expected) in [
            ("a/b*.so", "/x/a/b.so", true),
            ("a/b*.so", "/x/a/bcd.e.so", true),
            ("a/b*.so", "/x/a/c/b.so", false),
            ("a/b*.so", "/xa/b.so", false),
            ("a/b*.so", "a/b.so", true),
            ("a/b*.so", "b.so", false),
            ("a/*/_*_cy*.so", "/p/a/util/_row_cy.cpython-311.so", true),
            ("a/*/_*_cy*.so", "/p/a/_row_cy.so", false),
            ("x.so", "/x.so", true),
            ("x.so", "/x.so.1", false),
            ("a*a", "/a", false),
            ("a*b*c", "/aXbYc", true),
            ("a*b*c", "/acb", false),
        ] {
            assert_eq!(matches(pattern, path.as_bytes()), expected, "{pattern} {path}");
        }
    }
}
