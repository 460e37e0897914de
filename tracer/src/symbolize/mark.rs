//! The text of a mark to frames: what a program that marks its own checkouts says of who took one.
//!
//! May import the contract, the model's types, `owner` and what names a script's path. Pure. Invariant: any bytes give a bounded
//! list of frames; what is not understood is left out.

use tracer_ebpf::mark::TEXT_BYTES;

use super::node::path;
use super::owner;
use crate::model::{Frame, Symbol};

/// Frames of a text; each takes at least its three tabs and its end.
const MAX_FRAMES: usize = TEXT_BYTES as usize / 4;

/// The frames, innermost first. One whose line has no end was cut off.
pub(super) fn frames(text: &[u8]) -> Vec<Frame> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.filter_map(|line| frame(line.strip_suffix(b"\n")?)).take(MAX_FRAMES).collect()
}

fn frame(line: &[u8]) -> Option<Frame> {
    let mut fields = line.split(|byte| *byte == b'\t').map(String::from_utf8_lossy);
    let (function, file) = (fields.next()?, fields.next()?);
    let mut number = || fields.next()?.parse().ok().filter(|number| *number > 0);
    let (line, column): (Option<u32>, Option<u32>) = (number(), number());
    if file.is_empty() {
        return None;
    }
    let file = path(&file);
    let function = if function.is_empty() { "(anonymous)" } else { &function };
    let symbol = Symbol {
        function: owner::shortened(function),
        file: Some(owner::shortened(&file)),
        line,
        column: column.filter(|_| line.is_some()),
        definition: false,
        generated: None,
    };
    // Python's come from files of its own, or from what has no file.
    let is_python = file.ends_with(".py") || file.starts_with('<');
    let kind = if is_python { owner::python(&file) } else { owner::script(Some(&file)) };
    Some(Frame { symbol: Some(symbol), module: None, kind, inlined: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::FrameKind;

    type Shown = (String, Option<String>, Option<u32>, Option<u32>, FrameKind);

    fn shown(text: &str) -> Vec<Shown> {
        let symbol = |frame: Frame| {
            let symbol = frame.symbol.expect("a mark names its frames");
            (symbol.function, symbol.file, symbol.line, symbol.column, frame.kind)
        };
        frames(text.as_bytes()).into_iter().map(symbol).collect()
    }

    #[test]
    fn a_mark_names_functions_files_and_lines() {
        let text =
            "query\t/srv/node_modules/pg-pool/index.js\t7\t5\n\tfile:///srv/a%20b.mjs\t11\t13\n";
        let known = |text: &str| Some(text.to_owned());
        let expected = [
            (
                "query".to_owned(),
                known("/srv/node_modules/pg-pool/index.js"),
                Some(7),
                Some(5),
                FrameKind::Driver,
            ),
            ("(anonymous)".to_owned(), known("/srv/a b.mjs"), Some(11), Some(13), FrameKind::App),
        ];
        assert_eq!(shown(text), expected);
    }

    #[test]
    fn a_mark_of_python_has_its_owners() {
        let text = "QueuePool.checkout\t/srv/venv/lib/python3.11/site-packages/sqlalchemy/pool/base.py\t7\t0\n\
                    _GeneratorContextManager.__enter__\t/usr/lib/python3.11/contextlib.py\t11\t0\n\
                    load\t/srv/orders.py\t13\t0\n\
                    <module>\t<string>\t1\t0\n";
        let kinds: Vec<_> =
            shown(text).into_iter().map(|(.., column, kind)| (column, kind)).collect();
        let [library, runtime, own] =
            [FrameKind::Library, FrameKind::Runtime, FrameKind::App].map(|kind| (None, kind));
        assert_eq!(kinds, [library, runtime, own, own]);
    }

    #[test]
    fn what_was_cut_off_is_left_out_and_what_is_no_number_unknown() {
        assert_eq!(shown("load\t/srv/orders.js\t1"), []);
        assert_eq!(shown("load\n"), []);
        assert_eq!(shown("load\t\t1\t1\n"), []);
        let place = |text| shown(text).pop().map(|(_, _, line, column, _)| (line, column));
        assert_eq!(place("load\t/srv/orders.js\t\t3\n"), Some((None, None)));
        assert_eq!(place("load\t/srv/orders.js\t-1\t3\n"), Some((None, None)));
        assert_eq!(place("load\t/srv/orders.js\t0\t0\n"), Some((None, None)));
        assert_eq!(place("load\t/srv/orders.js\t99999999999\n"), Some((None, None)));
        assert_eq!(place("load\t/srv/orders.js\t3\n"), Some((Some(3), None)));
        assert_eq!(place("load\t/srv/orders.js\t3\t5\tmore\n"), Some((Some(3), Some(5))));
    }

    proptest! {
        #[test]
        fn any_text_gives_bounded_frames(
            text in proptest::collection::vec(
                prop_oneof![Just(b'\t'), Just(b'\n'), Just(b'/'), Just(b'%'), any::<u8>()],
                0..2_048,
            ),
        ) {
            let found = frames(&text);
            prop_assert!(found.len() <= MAX_FRAMES);
            for frame in found {
                let symbol = frame.symbol.expect("a mark names its frames");
                prop_assert!(!symbol.function.is_empty());
                prop_assert!(symbol.line != Some(0));
            }
        }
    }
}
