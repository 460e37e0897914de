//! How classes and methods are called in a report.
//!
//! Pure and total: names come from traced processes. A name is what Java's own stack traces have,
//! but a lambda is called after the method that it is written in, and what a class's name has only
//! because it is generated is left out.

/// What javac calls the method that a lambda becomes: `lambda$METHOD$NUMBER`.
const LAMBDA: &str = "lambda$";

/// `com.example.Service$Inner` of `com/example/Service$Inner`, without what tells hidden classes
/// apart (`+0x000070cc1c003000`, `/0x0000000800c03000`).
pub(super) fn class(symbol: &str) -> String {
    let plain = ["+0x", "/0x"].iter().filter_map(|start| symbol.rfind(start)).min();
    symbol[..plain.unwrap_or(symbol.len())].replace('/', ".")
}

/// `com.example.Service.load`, and `com.example.Service.load (lambda)` of what is written in it.
pub(super) fn function(class: &str, method: &str) -> String {
    let Some(rest) = method.strip_prefix(LAMBDA) else { return format!("{class}.{method}") };
    let outer = rest.rsplit_once('$').map_or(rest, |(outer, _)| outer);
    match outer {
        "new" => format!("{class}.<init> (lambda)"),
        "static" => format!("{class}.<clinit> (lambda)"),
        // In a lambda itself.
        "null" | "" => format!("{class} (lambda)"),
        outer => format!("{class}.{outer} (lambda)"),
    }
}

#[cfg(test)]
mod tests {
    use super::{class, function};

    #[test]
    fn classes_are_called_as_in_the_source() {
        for (symbol, name) in [
            ("LeakyService", "LeakyService"),
            ("com/example/Leaks$Inner", "com.example.Leaks$Inner"),
            ("com/example/Leaks$$Lambda$14+0x0000000800c03000", "com.example.Leaks$$Lambda$14"),
            ("Leaks$$Lambda+0x000070cc1c003000", "Leaks$$Lambda"),
            ("Leaks$$Lambda$1/0x0000000800066840", "Leaks$$Lambda$1"),
            ("счета/Служба", "счета.Служба"),
        ] {
            assert_eq!(class(symbol), name);
        }
    }

    #[test]
    fn a_lambda_is_called_after_its_method() {
        for (method, name) in [
            ("load", "Leaks.load"),
            ("<init>", "Leaks.<init>"),
            ("lambda$load$0", "Leaks.load (lambda)"),
            ("lambda$load$each$12", "Leaks.load$each (lambda)"),
            ("lambda$new$1", "Leaks.<init> (lambda)"),
            ("lambda$static$1", "Leaks.<clinit> (lambda)"),
            ("lambda$null$3", "Leaks (lambda)"),
            ("lambda$", "Leaks (lambda)"),
        ] {
            assert_eq!(function("Leaks", method), name);
        }
    }
}
