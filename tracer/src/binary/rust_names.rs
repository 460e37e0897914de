//! Rust's symbols as plain paths, so that a catalogue can name functions of generic types.
//!
//! May import nothing of ours. Pure and total: symbols come from traced processes. Invariant: a
//! plain path has neither hashes nor generic arguments, whatever the mangling.
//!
//! `<deadpool::managed::object::Object<M> as core::ops::drop::Drop>::drop` (legacy mangling) and
//! `<deadpool::managed::object::Object<deadpool_postgres::Manager> as core::ops::drop::Drop>::drop`
//! (v0) are both `<deadpool::managed::object::Object as core::ops::drop::Drop>::drop`; the drop
//! glue of that type is `drop_in_place<deadpool::managed::object::Object>`.

/// Longest symbol that is looked at; generic ones of async code have some thousand bytes.
const MAX_SYMBOL: usize = 1 << 14;
/// Types within types that are followed.
const MAX_DEPTH: usize = 8;

/// The plain path of a symbol; `None` when it is not one of Rust's.
#[must_use]
pub fn plain_path(symbol: &str) -> Option<String> {
    if symbol.len() > MAX_SYMBOL || !(symbol.starts_with("_ZN") || symbol.starts_with("_R")) {
        return None;
    }
    let demangled = rustc_demangle::try_demangle(symbol).ok()?;
    plain(&format!("{demangled:#}"), MAX_DEPTH)
}

fn plain(path: &str, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    if let Some(glue) = path.strip_prefix("core::ptr::drop_in_place") {
        let glue = glue.strip_prefix("::").unwrap_or(glue);
        let of = glue.strip_prefix('<')?.strip_suffix('>')?;
        return Some(format!("drop_in_place<{}>", plain(of, depth)?));
    }
    let Some(inside) = path.strip_prefix('<') else { return Some(without_arguments(path)) };
    let end = closing(inside)?;
    let (ty, rest) = (&inside[..end], without_arguments(&inside[end + 1..]));
    Some(match split_as(ty) {
        Some((ty, of)) => format!("<{} as {}>{rest}", plain(ty, depth)?, plain(of, depth)?),
        // An inherent method, as v0 writes it.
        None => format!("{}{rest}", plain(ty, depth)?),
    })
}

/// Where the angle bracket is closed that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1usize;
    let mut before = 0;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'<' => open += 1,
            b'>' if before != b'-' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(index);
        }
        before = byte;
    }
    None
}

/// `TYPE as TRAIT`, split where the words stand outside of arguments.
fn split_as(text: &str) -> Option<(&str, &str)> {
    let mut open = 0usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'<' => open += 1,
            b'>' => open = open.saturating_sub(1),
            b' ' if open == 0 => {
                if let Some(of) = text.get(index..)?.strip_prefix(" as ") {
                    return Some((text.get(..index)?, of));
                }
            }
            _ => {}
        }
    }
    None
}

/// The path without what stands in angle brackets.
fn without_arguments(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(start) = rest.find('<') {
        let before = &rest[..start];
        plain.push_str(before.strip_suffix("::").unwrap_or(before));
        match closing(&rest[start + 1..]) {
            Some(end) => rest = &rest[start + 1 + end + 1..],
            None => rest = "",
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, plain, plain_path};

    #[test]
    fn symbols_of_both_manglings_are_one_path() {
        let legacy = "_ZN4r2d213Pool$LT$M$GT$11get_timeout17h0123456789abcdefE";
        assert_eq!(plain_path(legacy).as_deref(), Some("r2d2::Pool::get_timeout"));
        let legacy = "_ZN73_$LT$r2d2..PooledConnection$LT$M$GT$$u20$as$u20$core..ops..drop..Drop\
                      $GT$4drop17h0123456789abcdefE";
        let drop = "<r2d2::PooledConnection as core::ops::drop::Drop>::drop";
        assert_eq!(plain_path(legacy).as_deref(), Some(drop));
        for (name, path) in [
            (
                "<r2d2::PooledConnection<r2d2_postgres::Manager<tls::NoTls>> as core::ops::drop::Drop>::drop",
                drop,
            ),
            (
                "<r2d2::Pool<r2d2_postgres::Manager<tls::NoTls>>>::get_timeout",
                "r2d2::Pool::get_timeout",
            ),
            ("core::ptr::drop_in_place<a::B<c::D<e::F>>>", "drop_in_place<a::B>"),
            ("core::ptr::drop_in_place::<a::B<c::D>>", "drop_in_place<a::B>"),
            ("core::ptr::drop_in_place<alloc::vec::Vec<a::B>>", "drop_in_place<alloc::vec::Vec>"),
            ("a::b::<fn(u8) -> u8>::c", "a::b::c"),
            ("<a::B<c> as d::E<f>>::g::{{closure}}", "<a::B as d::E>::g::{{closure}}"),
        ] {
            assert_eq!(plain(name, MAX_DEPTH).as_deref(), Some(path), "{name}");
        }
        assert_eq!(plain_path("PQfinish"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_taken(name in "[<>a-z: -]{0,40}", tail in ".{0,20}") {
            let _ = plain(&format!("{name}{tail}"), MAX_DEPTH);
            let _ = plain_path(&format!("_ZN{name}{tail}"));
        }
    }
}
