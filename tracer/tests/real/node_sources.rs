//! TypeScript, compiled and bundled: source maps lead from what runs to what was written.

use crate::common::client::{Kind, leak_line_in};
use crate::{FOUND, NOTHING_FOUND, watch};

/// The compiler's output, with a map beside each file.
const COMPILED: Kind = Kind::TypeScript(20, "compiled/service.js");
/// All in one, minified, with the packages and with the map in it.
const BUNDLED: Kind = Kind::TypeScript(20, "bundle.js");
const BUNDLED_24: Kind = Kind::TypeScript(24, "bundle.js");

const SOURCE: &str = "typescript/src/handlers.ts";

/// Seven leaks of this shape are found: by this function at the marked line of the source, which runs
/// as this file.
fn is_found(client: Kind, shape: &str, function: &str, generated: &str) {
    let seen = watch(client, &[&format!("leak {shape} 7")]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("leak", 7), "{whole:#}");
    assert_eq!(finding.function(), Some(function), "{whole:#}");
    let file = finding.file().unwrap_or_default();
    assert!(file.ends_with(SOURCE), "{file} is not {SOURCE}: {whole:#}");
    assert_eq!(finding.line(), Some(leak_line_in(SOURCE, shape)), "{whole:#}");
    let runs_as = finding.generated_file().unwrap_or_default();
    assert!(runs_as.ends_with(generated), "{runs_as} is not {generated}: {whole:#}");
    assert_eq!(seen.exit, FOUND);
}

#[test]
fn a_leak_in_compiled_typescript_is_found_in_its_source() {
    is_found(COMPILED, "forgotten", "forgottenOrder", "compiled/handlers.js");
    is_found(COMPILED, "method", "total", "compiled/handlers.js");
}

#[test]
fn a_leak_in_a_bundle_is_found_in_its_source() {
    is_found(BUNDLED, "forgotten", "forgottenOrder", "bundle.js");
    is_found(BUNDLED, "arrow", "byId", "bundle.js");
}

#[test]
fn a_leak_in_a_bundle_is_found_in_its_source_on_another_version() {
    is_found(BUNDLED_24, "method", "total", "bundle.js");
}

#[test]
fn typescript_that_releases_is_not_reported() {
    for client in [COMPILED, BUNDLED, BUNDLED_24] {
        let seen = watch(client, &["healthy 7"]);
        assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
        assert_eq!(seen.exit, NOTHING_FOUND);
    }
}
