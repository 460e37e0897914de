//! What the names in a perf map mean.
//!
//! May import `model` and [`owner`]; pure and total: the names are written by the traced process.
//! Sources: V8's `LogEventListener::CodeTag` names and `CodeKindToMarker` in
//! `src/logging/log.cc` and `src/objects/code-kind.cc`; OpenJDK's `Method::external_name`.

use super::owner;
use crate::model::{Frame, FrameKind, Symbol};

/// Tags of V8 functions: `TAG:MARKERname file:line:column`, the marker being the compiler.
const FUNCTION_TAGS: [&str; 5] = ["JS:", "LazyCompile:", "Function:", "Script:", "Eval:"];
/// Tags of V8's own code.
const RUNTIME_TAGS: [&str; 8] = [
    "Builtin:",
    "BytecodeHandler:",
    "Handler:",
    "Stub:",
    "RegExp:",
    "CallMegamorphic:",
    "CallInitialize:",
    "CallNormal:",
];

/// The frame that a perf map's `name` stands for.
pub(super) fn frame(name: &[u8]) -> Frame {
    let name = String::from_utf8_lossy(name);
    let (symbol, kind) = if let Some(rest) = strip_any(&name, &FUNCTION_TAGS) {
        let symbol = script(rest);
        let kind = owner::script(symbol.file.as_deref());
        (symbol, kind)
    } else if let Some(rest) = strip_any(&name, &RUNTIME_TAGS) {
        (named(rest), FrameKind::Runtime)
    } else {
        (named(&name), owner::generated(&name))
    };
    Frame { symbol: Some(symbol), module: None, kind, inlined: false }
}

fn strip_any<'a>(name: &'a str, tags: &[&str]) -> Option<&'a str> {
    tags.iter().find_map(|tag| name.strip_prefix(tag))
}

fn named(function: &str) -> Symbol {
    Symbol {
        function: owner::shortened(function),
        file: None,
        line: None,
        column: None,
        definition: false,
        generated: None,
    }
}

/// `~getUser /srv/app.js:3:12`: interpreted `~`, baseline `^`, mid-tier `+`, optimised `*`. The
/// position is that of the function's definition.
fn script(text: &str) -> Symbol {
    let text = text.strip_prefix(['~', '^', '+', '*', '\'']).unwrap_or(text);
    let (text, last) = position(text);
    let (text, first) = if last.is_some() { position(text) } else { (text, None) };
    let (line, column) = if first.is_some() { (first, last) } else { (last, None) };
    // Both names and paths can hold blanks (`get size /srv/my app/x.js`).
    let file_at = [" /", " file://", " node:"].iter().filter_map(|start| text.find(start)).min();
    let (function, file) = match file_at.or_else(|| text.rfind(' ')) {
        Some(blank) => (&text[..blank], &text[blank + 1..]),
        None => (text, ""),
    };
    let file = file.strip_prefix("file://").unwrap_or(file);
    let function = if function.is_empty() { "(anonymous)" } else { function };
    Symbol {
        function: owner::shortened(function),
        file: (!file.is_empty()).then(|| owner::shortened(file)),
        line,
        column,
        definition: line.is_some(),
        generated: None,
    }
}

/// Takes `:number` off the end.
fn position(text: &str) -> (&str, Option<u32>) {
    match text.rsplit_once(':').map(|(rest, number)| (rest, number.parse())) {
        Some((rest, Ok(number))) => (rest, Some(number)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::frame;
    use crate::model::FrameKind::{App, Driver, Library, Runtime};
    use proptest::prelude::*;

    #[test]
    fn names_of_node_are_taken_apart() {
        for (name, function, file, line, column, kind) in [
            (
                "JS:~getUser /srv/app.js:3:12",
                "getUser",
                Some("/srv/app.js"),
                Some(3),
                Some(12),
                App,
            ),
            (
                "JS:*getUser file:///srv/app.mjs:3:12",
                "getUser",
                Some("/srv/app.mjs"),
                Some(3),
                Some(12),
                App,
            ),
            (
                "JS:^get odd name /srv/my app/x.js:2:94",
                "get odd name",
                Some("/srv/my app/x.js"),
                Some(2),
                Some(94),
                App,
            ),
            ("JS:~ /srv/app.js:4:9", "(anonymous)", Some("/srv/app.js"), Some(4), Some(9), App),
            ("Eval:~ /srv/app.js:1:1", "(anonymous)", Some("/srv/app.js"), Some(1), Some(1), App),
            ("LazyCompile:~run app.js:7", "run", Some("app.js"), Some(7), None, App),
            (
                "JS:~f evalmachine.<anonymous>:1:2",
                "f",
                Some("evalmachine.<anonymous>"),
                Some(1),
                Some(2),
                App,
            ),
            (
                "JS:+emit node:events:466:44",
                "emit",
                Some("node:events"),
                Some(466),
                Some(44),
                Runtime,
            ),
            (
                "JS:~query /srv/node_modules/pg/lib/client.js:600:8",
                "query",
                Some("/srv/node_modules/pg/lib/client.js"),
                Some(600),
                Some(8),
                Driver,
            ),
            (
                "JS:~next /srv/node_modules/express/lib/router.js:5:3",
                "next",
                Some("/srv/node_modules/express/lib/router.js"),
                Some(5),
                Some(3),
                Library,
            ),
            ("Builtin:ArrayPush", "ArrayPush", None, None, None, Runtime),
            ("BytecodeHandler:Negate.Wide", "Negate.Wide", None, None, None, Runtime),
            ("JS:~", "(anonymous)", None, None, None, App),
        ] {
            let frame = frame(name.as_bytes());
            let symbol = frame.symbol.unwrap();
            assert_eq!(
                (
                    symbol.function.as_str(),
                    symbol.file.as_deref(),
                    symbol.line,
                    symbol.column,
                    frame.kind
                ),
                (function, file, line, column, kind),
                "{name}"
            );
        }
    }

    #[test]
    fn names_of_java_tell_their_owner() {
        for (name, kind) in [
            ("Interpreter", Runtime),
            ("java.lang.Object java.util.HashMap.get(java.lang.Object)", Runtime),
            ("void org.postgresql.core.PGStream.flush()", Driver),
            ("void com.zaxxer.hikari.pool.HikariPool.getConnection(long)", Driver),
            ("void com.example.Service.load(int)", App),
        ] {
            assert_eq!(frame(name.as_bytes()).kind, kind, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_gives_a_frame(
            name in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "(JS|Eval|Function|LazyCompile):[~*^+]?.{0,20} ?(/|file://|node:)?.{0,20}(:[0-9]{0,12}){0,3}"
                    .prop_map(String::into_bytes),
            ]
        ) {
            prop_assert!(frame(&name).symbol.is_some_and(|symbol| !symbol.function.is_empty() || name.is_empty()));
        }
    }
}
