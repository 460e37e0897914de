//! Removes literals from SQL text before it leaves the process that read it.
//!
//! May import `std` only. Total: any bytes in, a text out. Invariant: nothing that the server could
//! read as part of a literal is in the result, also when the text is cut in the middle of one, and
//! whatever `standard_conforming_strings` is. Follows PostgreSQL's scanner
//! (`src/backend/parser/scan.l`).

/// What stands for a literal.
const LITERAL: char = '?';

/// The statement without literals and comments, white space collapsed.
///
/// `cut` says that the text goes on beyond `sql`: a word at its end is then incomplete and left
/// out.
#[must_use]
pub fn redact(sql: &[u8], cut: bool) -> String {
    let sql = sql.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut scan = Scan { sql, at: 0, out: Vec::with_capacity(sql.len()), space: false };
    while let Some(byte) = scan.peek(0) {
        scan.token(byte, cut);
    }
    String::from_utf8_lossy(&scan.out).into_owned()
}

struct Scan<'a> {
    sql: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// White space or a comment stands before the next token.
    space: bool,
}

/// What can begin an identifier; bytes beyond ASCII are letters of some encoding.
const fn is_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_word(byte: u8) -> bool {
    is_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at.checked_add(ahead)?).copied()
    }

    fn starts_with(&self, text: &[u8]) -> bool {
        self.sql.get(self.at..).is_some_and(|rest| rest.starts_with(text))
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// Writes bytes of the text from `from` to the present position, after one space if needed.
    fn keep_from(&mut self, from: usize) {
        self.separate();
        if let Some(kept) = self.sql.get(from..self.at) {
            self.out.extend_from_slice(kept);
        }
    }

    fn literal(&mut self) {
        self.separate();
        self.out.push(LITERAL as u8);
    }

    fn separate(&mut self) {
        if std::mem::take(&mut self.space) && !self.out.is_empty() {
            self.out.push(b' ');
        }
    }

    /// Reads one token that begins with `byte`.
    fn token(&mut self, byte: u8, cut: bool) {
        match byte {
            _ if is_space(byte) => {
                self.skip_while(is_space);
                self.space = true;
            }
            b'-' if self.starts_with(b"--") => {
                self.skip_while(|byte| byte != b'\n' && byte != b'\r');
                self.space = true;
            }
            b'/' if self.starts_with(b"/*") => self.comment(),
            b'\'' => {
                self.string(false);
                self.literal();
            }
            b'"' => self.quoted_identifier(),
            b'$' => self.dollar(),
            _ if byte.is_ascii_digit()
                || (byte == b'.' && self.peek(1).is_some_and(|next| next.is_ascii_digit())) =>
            {
                self.number();
            }
            _ if is_start(byte) => self.word(cut),
            _ => {
                self.at += 1;
                self.keep_from(self.at - 1);
            }
        }
    }

    /// A block comment; they nest.
    fn comment(&mut self) {
        let mut depth = 0usize;
        while self.at < self.sql.len() {
            if self.starts_with(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    break;
                }
            } else {
                self.at += 1;
            }
        }
        self.space = true;
    }

    /// A string from its opening quote. With `escapes` a backslash escapes the next byte; without,
    /// a quote after a backslash may or may not end it (`standard_conforming_strings`), so nothing
    /// after it is kept.
    fn string(&mut self, escapes: bool) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' if escapes => self.at += 2,
                b'\\' => {
                    // An even number of backslashes reads the same both ways.
                    let from = self.at;
                    self.skip_while(|byte| byte == b'\\');
                    if self.peek(0) == Some(b'\'') && !(self.at - from).is_multiple_of(2) {
                        self.at = self.sql.len();
                    }
                }
                b'\'' if self.peek(1) == Some(b'\'') => self.at += 2,
                b'\'' => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
        self.at = self.sql.len();
    }

    fn quoted_identifier(&mut self) {
        let from = self.at;
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'"' {
                if self.peek(0) != Some(b'"') {
                    break;
                }
                self.at += 1;
            }
        }
        self.keep_from(from);
    }

    /// A parameter (`$1`), or a dollar-quoted string.
    fn dollar(&mut self) {
        let from = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.skip_while(|byte| byte.is_ascii_digit());
            self.keep_from(from);
            return;
        }
        self.skip_while(|byte| is_word(byte) && byte != b'$');
        match self.peek(0) {
            Some(b'$') => {
                self.at += 1;
                let tag = self.sql.get(from..self.at).unwrap_or_default();
                let rest = self.sql.get(self.at..).unwrap_or_default();
                let end = rest.windows(tag.len()).position(|window| window == tag);
                self.at = end.map_or(self.sql.len(), |end| self.at + end + tag.len());
                self.literal();
            }
            // The tag is cut.
            None => self.literal(),
            Some(_) => self.keep_from(from),
        }
    }

    /// A number and whatever is glued to it: `1`, `.5`, `1e-3`, `0xff`, `1_000`, `12abc`.
    fn number(&mut self) {
        while let Some(byte) = self.peek(0) {
            let exponent = matches!(byte, b'e' | b'E')
                && matches!(self.peek(1), Some(b'+' | b'-'))
                && self.peek(2).is_some_and(|digit| digit.is_ascii_digit());
            if exponent {
                self.at += 2;
            } else if !(is_word(byte) || byte == b'.') {
                break;
            } else {
                self.at += 1;
            }
        }
        self.literal();
    }

    /// A word, or the prefix of a string: `E'..'`, `B'..'`, `X'..'`, `N'..'`, `U&'..'`.
    fn word(&mut self, cut: bool) {
        let from = self.at;
        self.skip_while(is_word);
        let word = self.sql.get(from..self.at).unwrap_or_default();
        let unicode = word.eq_ignore_ascii_case(b"u") && self.starts_with(b"&'");
        let prefix = matches!(word, [b'b' | b'B' | b'x' | b'X' | b'n' | b'N' | b'e' | b'E']);
        if unicode {
            self.at += 1;
            self.string(false);
            self.literal();
        } else if prefix && self.peek(0) == Some(b'\'') {
            self.string(word.eq_ignore_ascii_case(b"e"));
            self.literal();
        } else if !(cut && self.peek(0).is_none()) {
            self.keep_from(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::redact;

    #[track_caller]
    fn check(sql: &str, expected: &str) {
        assert_eq!(redact(sql.as_bytes(), false), expected);
    }

    #[test]
    fn literals_of_every_form_go() {
        check("select 'a''b', E'it\\'s', U&'d\\0061t', B'101', x'1F'", "select ?, ?, ?, ?, ?");
        check("select $$a'b$$, $t$ $$ $x$ $t$, 1", "select ?, ?, ?");
        check("select 1, 1.5, .5, 1e-10, 0xff, 1_000, -3", "select ?, ?, ?, ?, ?, ?, -?");
        check("where name='bob'and x=12", "where name=?and x=?");
        check("select date'2020-01-01', 'a'\n'b'", "select date?, ? ?");
        check("select 12secret, 1.2.3", "select ?, ?");
    }

    #[test]
    fn names_and_parameters_stay() {
        check(
            "SELECT  \"Weird \"\"name\", t1.c2, a$b, é FROM x_1\n WHERE a = $1 AND b = $23",
            "SELECT \"Weird \"\"name\", t1.c2, a$b, é FROM x_1 WHERE a = $1 AND b = $23",
        );
        check("select a->>'k' from t", "select a->>? from t");
    }

    #[test]
    fn comments_go_and_white_space_collapses() {
        check("/* a /* 'x' */ b */ select\t1 -- secret\n , 2 /*'*/", "select ? , ?");
    }

    #[test]
    fn a_text_cut_in_a_literal_shows_none_of_it() {
        for sql in [
            "select 'sec",
            "select 'it''sec",
            "select E'x\\'sec",
            "select E'sec\\",
            "select $$sec",
            "select $sec",
            "select $t$sec$t",
            "select U&'sec",
            "select 123sec",
            "select /* sec",
        ] {
            let shown = redact(sql.as_bytes(), true);
            assert!(!shown.contains("sec"), "{sql} -> {shown}");
        }
        assert_eq!(redact(b"select name fro", true), "select name");
        assert_eq!(redact(b"select name ", true), "select name");
    }

    #[test]
    fn a_backslash_before_a_quote_hides_the_rest_whatever_the_server_thinks_of_it() {
        check("select 'it\\'s secret', 1", "select ?");
        check("select 'a\\\\', b", "select ?, b");
    }

    #[test]
    fn text_ends_at_nul() {
        assert_eq!(redact(b"select a\0'secret'", false), "select a");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(sql: Vec<u8>, cut: bool) {
            let _ = redact(&sql, cut);
        }

        #[test]
        fn a_quoted_secret_never_shows(
            head in "[a-z =,(\\n]{0,12}",
            secret in "[A-Z0-9 ]{1,10}",
            end in 0usize..40,
        ) {
            for sql in [
                format!("{head} 'Q{secret}' x"),
                format!("{head} E'\\'Q{secret}' x"),
                format!("{head} $t$Q{secret}$t$ x"),
            ] {
                let end = end.min(sql.len());
                let shown = redact(&sql.as_bytes()[..end], true);
                prop_assert!(!shown.contains('Q'), "{sql:?} -> {shown:?}");
            }
        }
    }
}
