//! Makes strings of traced processes harmless: what a terminal, a browser or a log viewer could
//! take for an instruction becomes visible text.
//!
//! May import `std` only. Invariant: no control character, no character that changes the order or
//! the visibility of its neighbours, is ever in the output of [`escape`].

/// Characters that are not what they look like: controls, line and paragraph separators,
/// bidirectional controls, zero-width characters, and Unicode's interlinear and tag characters.
#[must_use]
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// The text with unsafe characters written as `\u{..}`, `\n`, `\t`.
#[must_use]
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Columns of a terminal: two for wide East Asian characters and most symbols, one for others.
#[must_use]
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match c {
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// The text in at most `columns`, the middle replaced by `…` where it is longer: beginning and end
/// of a name or path tell most.
#[must_use]
pub(super) fn cut_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let (head, tail) = (room / 2, room - room / 2);
    let fit = |chars: &mut dyn Iterator<Item = char>, columns: usize| {
        let mut used = 0;
        let mut kept = Vec::new();
        for c in chars {
            used += char_width(c);
            if used > columns {
                break;
            }
            kept.push(c);
        }
        kept
    };
    let head = fit(&mut text.chars(), head);
    let mut tail = fit(&mut text.chars().rev(), tail);
    tail.reverse();
    head.into_iter().chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::{cut_middle, escape, width};

    #[test]
    fn what_could_steer_a_terminal_or_reorder_text_is_spelled_out() {
        assert_eq!(escape("a\x1b[31mb\r\n\u{9b}"), "a\\u{1b}[31mb\\r\\n\\u{9b}");
        assert_eq!(escape("x\u{202e}y\u{200b}\u{feff}"), "x\\u{202e}y\\u{200b}\\u{feff}");
        assert_eq!(escape("fn<T> naïve 関数"), "fn<T> naïve 関数");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(cut_middle("abcdefghij", 10), "abcdefghij");
        assert_eq!(cut_middle("abcdefghijk", 10), "abcd…ghijk");
        assert_eq!(cut_middle("関数関数関数", 7), "関…数");
        assert!(width(&cut_middle(&"関".repeat(99), 20)) <= 20);
        assert_eq!(cut_middle("abc", 0), "…");
    }
}
