//! Source maps: from a place in generated text to the place that it was made from.
//!
//! Pure and total: maps come from traced processes. May import `serde` only. Format: ECMA-426,
//! version 3. Invariants: a text that is not a map in every part is none; a look reads a bounded
//! part of the text; what is kept is not much more than what was given. A decoder of our own
//! because what is asked for is one place in a map, and libraries decode all of it first, with the
//! sources' content.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Sources, names or sections of a map; one with more is not read.
const MAX_LIST: usize = 1 << 18;
/// Segments from one that is remembered to the next.
const STEP: usize = 256;
/// What may stand in front of a map, against its use as a script.
const GUARD: &[u8] = b")]}'";

/// A map, ready to be asked.
#[derive(Debug)]
pub(super) struct SourceMap {
    /// In the order of their beginnings.
    parts: Vec<Part>,
}

/// A place in a source, from zero, as the generated text's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Original<'a> {
    pub source: &'a str,
    pub line: u32,
    pub column: u32,
    /// What is named there, if it was called something else.
    pub name: Option<&'a str>,
    /// It is just there; else this is the last known place before it.
    pub exact: bool,
}

#[derive(Debug)]
struct Part {
    /// Where it begins in the generated text.
    line: u32,
    column: u32,
    mappings: Box<[u8]>,
    /// Before every [`STEP`]th segment, and where that is.
    marks: Vec<(Cursor, u32, u32)>,
    sources: Vec<Option<Box<str>>>,
    names: Vec<Box<str>>,
}

impl SourceMap {
    /// Reads a map. `None` when it is none, or leads nowhere.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = match text.strip_prefix(GUARD) {
            Some(rest) => &rest[memchr::memchr(b'\n', rest)?..],
            None => text,
        };
        let raw: Raw<'_> = serde_json::from_slice(text).ok()?;
        if raw.version != Some(3) {
            return None;
        }
        let mut parts = Vec::new();
        match raw.sections {
            Some(sections) => {
                for section in sections.0 {
                    let Offset { line, column } = section.offset;
                    parts.push(Part::new(line, column, *section.map?)?);
                }
            }
            None => parts.push(Part::new(0, 0, raw)?),
        }
        let is_sorted = parts.is_sorted_by_key(|part| (part.line, part.column));
        let is_used = parts.iter().any(|part| !part.marks.is_empty());
        (is_sorted && is_used).then_some(Self { parts })
    }

    /// What was made into the text at this place, as far as that is known.
    pub fn at(&self, line: u32, column: u32) -> Option<Original<'_>> {
        let index = self.parts.partition_point(|part| (part.line, part.column) <= (line, column));
        let part = self.parts.get(index.checked_sub(1)?)?;
        let within = line - part.line;
        part.at(within, if within == 0 { column - part.column } else { column })
    }

    /// Bytes that are kept, about.
    pub fn size(&self) -> usize {
        self.parts.iter().map(Part::size).sum()
    }
}

impl Part {
    fn new(line: u32, column: u32, raw: Raw<'_>) -> Option<Self> {
        let mappings: Box<[u8]> = raw.mappings?.as_bytes().into();
        let (mut marks, mut count) = (Vec::new(), 0_usize);
        let mut cursor = Cursor::default();
        let (mut last, mut leads_somewhere) = ((0, 0), false);
        loop {
            let before = cursor;
            let Some(segment) = cursor.next(&mappings).ok()? else { break };
            let at = (segment.line, segment.column);
            // Elsewhere a place could not be looked for.
            if at < last {
                return None;
            }
            if count.is_multiple_of(STEP) {
                marks.push((before, segment.line, segment.column));
            }
            leads_somewhere |= segment.original.is_some();
            (last, count) = (at, count + 1);
        }
        if !leads_somewhere {
            marks.clear();
        }
        let root = raw.source_root.filter(|root| !root.is_empty());
        let rooted = |source: String| match &root {
            Some(root) => format!("{}/{source}", root.trim_end_matches('/')).into_boxed_str(),
            None => source.into_boxed_str(),
        };
        let sources = raw.sources.0.into_iter().map(|source| source.map(rooted)).collect();
        let names = raw.names.0.into_iter().map(String::into_boxed_str).collect();
        Some(Self { line, column, mappings, marks, sources, names })
    }

    fn at(&self, line: u32, column: u32) -> Option<Original<'_>> {
        let place = (line, column);
        let index = self.marks.partition_point(|(_, line, column)| (*line, *column) <= place);
        let (mut cursor, ..) = *self.marks.get(index.checked_sub(1)?)?;
        let mut found = None;
        for _ in 0..=STEP {
            match cursor.next(&self.mappings) {
                Ok(Some(segment)) if (segment.line, segment.column) <= place => {
                    found = Some(segment);
                }
                _ => break,
            }
        }
        // What ends a line says nothing about the next.
        let segment = found.filter(|segment| segment.line == line)?;
        let [source, original_line, original_column] = segment.original?;
        Some(Original {
            source: self.sources.get(source as usize)?.as_deref()?,
            line: original_line,
            column: original_column,
            name: segment.name.and_then(|name| self.names.get(name as usize)).map(Box::as_ref),
            exact: segment.column == column,
        })
    }

    fn size(&self) -> usize {
        let sources: usize = self.sources.iter().flatten().map(|source| source.len()).sum();
        let names: usize = self.names.iter().map(|name| name.len()).sum();
        let entries = (self.sources.len() + self.names.len()) * size_of::<Box<str>>();
        let marks = self.marks.len() * size_of::<(Cursor, u32, u32)>();
        self.mappings.len() + sources + names + entries + marks
    }
}

/// The text of the mappings contradicts its format.
#[derive(Debug)]
struct Broken;

/// Where in the mappings one is, and what is counted on from there.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    at: usize,
    line: u32,
    column: i32,
    /// Source, line and column.
    original: [i32; 3],
    name: i32,
}

/// One mapping.
#[derive(Clone, Copy, Debug)]
struct Segment {
    line: u32,
    column: u32,
    /// Source, line and column.
    original: Option<[u32; 3]>,
    name: Option<u32>,
}

impl Cursor {
    /// The next segment; `None` at the end.
    fn next(&mut self, text: &[u8]) -> Result<Option<Segment>, Broken> {
        loop {
            match text.get(self.at) {
                None => return Ok(None),
                Some(b';') => {
                    self.line = self.line.checked_add(1).ok_or(Broken)?;
                    self.column = 0;
                }
                Some(b',') => {}
                Some(_) => break,
            }
            self.at += 1;
        }
        let mut fields = [0; 5];
        let mut count = 0;
        while !matches!(text.get(self.at), None | Some(b',' | b';')) {
            *fields.get_mut(count).ok_or(Broken)? = self.number(text)?;
            count += 1;
        }
        let line = self.line;
        let column = step(&mut self.column, fields[0])?;
        let (original, name) = match count {
            1 => (None, None),
            4 | 5 => {
                let mut original = [0; 3];
                for (index, field) in original.iter_mut().enumerate() {
                    *field = step(&mut self.original[index], fields[index + 1])?;
                }
                let name = (count == 5).then(|| step(&mut self.name, fields[4])).transpose()?;
                (Some(original), name)
            }
            _ => return Err(Broken),
        };
        Ok(Some(Segment { line, column, original, name }))
    }

    /// Five bits in each character, the lowest first; the sixth says that more follow. The lowest
    /// bit of all is the sign.
    fn number(&mut self, text: &[u8]) -> Result<i32, Broken> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(5) {
            let digit = text.get(self.at).and_then(|byte| six_bits(*byte)).ok_or(Broken)?;
            self.at += 1;
            value |= u64::from(digit & 31) << shift;
            if digit & 32 == 0 {
                let magnitude = i32::try_from(value >> 1).map_err(|_| Broken)?;
                return Ok(if value & 1 == 1 { -magnitude } else { magnitude });
            }
        }
        Err(Broken)
    }
}

/// Counts on; never below zero.
fn step(counter: &mut i32, by: i32) -> Result<u32, Broken> {
    *counter = counter.checked_add(by).ok_or(Broken)?;
    u32::try_from(*counter).map_err(|_| Broken)
}

/// What a character of base64 stands for.
fn six_bits(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// The bytes of a `data:` URL; `None` when it is none.
pub(super) fn of_data_url(url: &str) -> Option<Vec<u8>> {
    let (kind, data) = url.strip_prefix("data:")?.split_once(',')?;
    if !kind.ends_with(";base64") {
        return Some(percent_decoded(data));
    }
    let mut bytes = Vec::with_capacity(data.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in data.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(six_bits(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// What a part of a URL stands for.
pub(super) fn percent_decoded(encoded: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.first_chunk::<2>().and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Finds, in a text that comes in units, where its map is: the comment at its end.
#[derive(Default)]
pub(super) struct CommentFinder {
    line: Vec<u8>,
    /// What the line says is of no interest: it is no such comment.
    is_other: bool,
    found: Option<Vec<u8>>,
}

/// Bytes of a comment; a longer one is none. As long as the largest map that is read, in base64.
const MAX_COMMENT: usize = super::original::MAX_MAP_BYTES / 3 * 4 + 1_024;

impl CommentFinder {
    /// The next unit of the text.
    pub fn push(&mut self, unit: u16) {
        const BREAKS: [u16; 4] = [10, 13, 0x2028, 0x2029];
        if BREAKS.contains(&unit) {
            self.end_line();
        } else if !self.is_other {
            let blank = self.line.is_empty() && matches!(unit, 9 | 32);
            match u8::try_from(unit) {
                _ if blank => {}
                Ok(byte) if self.line.len() < MAX_COMMENT => {
                    self.line.push(byte);
                    // Code, which takes from an earlier comment that it is at the end.
                    if self.line.len() == 2 && self.line != b"//" {
                        self.is_other = true;
                    }
                }
                _ => {
                    if self.line.len() < 2 {
                        self.line = b"?".to_vec();
                    }
                    self.is_other = true;
                }
            }
        }
    }

    fn end_line(&mut self) {
        let is_comment = self.line.is_empty() || self.line.starts_with(b"//");
        if self.is_other || !is_comment {
            // Only where the line begins with code.
            if !is_comment {
                self.found = None;
            }
        } else if let Some(url) = url_of(&self.line) {
            self.found = Some(url.to_vec());
        }
        self.line.clear();
        self.is_other = false;
    }

    /// The URL in the last such comment, behind which there is no code.
    pub fn finish(mut self) -> Option<String> {
        self.end_line();
        String::from_utf8(self.found?).ok()
    }
}

fn url_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"//#").or_else(|| line.strip_prefix(b"//@"))?;
    let rest = rest.trim_ascii_start().strip_prefix(b"sourceMappingURL=")?.trim_ascii();
    let is_url = |byte: &u8| !byte.is_ascii_whitespace() && !matches!(byte, b'"' | b'\'');
    (!rest.is_empty() && rest.iter().all(is_url)).then_some(rest)
}

// --- JSON ---

#[derive(Deserialize)]
struct Raw<'a> {
    version: Option<u32>,
    #[serde(borrow)]
    mappings: Option<Cow<'a, str>>,
    #[serde(default)]
    sources: List<Option<String>>,
    #[serde(default)]
    names: List<String>,
    #[serde(rename = "sourceRoot")]
    source_root: Option<String>,
    /// Those of a section are not asked for: the format has none.
    #[serde(borrow)]
    sections: Option<List<Section<'a>>>,
}

#[derive(Deserialize)]
struct Section<'a> {
    offset: Offset,
    #[serde(borrow)]
    map: Option<Box<Raw<'a>>>,
}

#[derive(Clone, Copy, Deserialize)]
struct Offset {
    line: u32,
    column: u32,
}

/// At most [`MAX_LIST`] of them: an element may take much more memory than text.
struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = List<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "a list of at most {MAX_LIST}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while list.len() < MAX_LIST {
                    let Some(element) = from.next_element()? else { return Ok(List(list)) };
                    list.push(element);
                }
                match from.next_element::<IgnoredAny>()? {
                    None => Ok(List(list)),
                    Some(_) => Err(serde::de::Error::invalid_length(MAX_LIST + 1, &self)),
                }
            }
        }

        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Segments as (line, column, source, line, column, name), from zero.
    type Mapped = (u32, u32, Option<(u32, u32, u32, Option<u32>)>);

    fn vlq(value: i64, text: &mut String) {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut rest = value.unsigned_abs() << 1 | u64::from(value < 0);
        loop {
            let more = if rest > 31 { 32 } else { 0 };
            text.push(char::from(DIGITS[(rest & 31 | more) as usize]));
            rest >>= 5;
            if rest == 0 {
                break;
            }
        }
    }

    fn mappings(segments: &[Mapped]) -> String {
        let mut text = String::new();
        let mut last = [0_i64; 6];
        for &(line, column, original) in segments {
            if i64::from(line) > last[0] {
                (last[0]..i64::from(line)).for_each(|_| text.push(';'));
                (last[0], last[1]) = (i64::from(line), 0);
            } else if !text.is_empty() {
                text.push(',');
            }
            let mut field = |index: usize, value: u32| {
                vlq(i64::from(value) - last[index], &mut text);
                last[index] = i64::from(value);
            };
            field(1, column);
            if let Some((source, line, column, name)) = original {
                field(2, source);
                field(3, line);
                field(4, column);
                name.into_iter().for_each(|name| field(5, name));
            }
        }
        text
    }

    fn map(segments: &[Mapped]) -> SourceMap {
        let mappings = mappings(segments);
        let text = format!(
            r#"{{"version":3,"sources":["a.ts",null,"b.ts"],"names":["x","y"],"mappings":"{mappings}"}}"#
        );
        SourceMap::parse(text.as_bytes()).expect("a map")
    }

    fn found(map: &SourceMap, line: u32, column: u32) -> Option<(&str, u32, u32, Option<&str>)> {
        let at = map.at(line, column)?;
        Some((at.source, at.line, at.column, at.name))
    }

    #[test]
    fn the_last_segment_of_the_line_at_or_before_a_place_counts() {
        let map = map(&[
            (0, 4, Some((0, 10, 2, None))),
            (0, 9, Some((2, 3, 7, Some(1)))),
            (0, 20, None),
            (3, 0, Some((1, 1, 1, None))),
            (3, 5, Some((0, 0, 0, Some(0)))),
        ]);
        let at = |line, column| found(&map, line, column);
        assert_eq!([at(0, 0), at(0, 3)], [None, None], "before the first");
        assert_eq!([at(0, 4), at(0, 8)], [Some(("a.ts", 10, 2, None)); 2]);
        assert_eq!([at(0, 9), at(0, 19)], [Some(("b.ts", 3, 7, Some("y"))); 2]);
        assert_eq!([at(0, 20), at(0, 999)], [None, None], "made by the compiler");
        assert_eq!([at(1, 0), at(2, 7)], [None, None], "lines without a segment");
        assert_eq!(at(3, 0), None, "a source without a name");
        assert_eq!(at(3, u32::MAX), Some(("a.ts", 0, 0, Some("x"))));
        assert_eq!(at(u32::MAX, 0), None);
        assert_eq!((map.at(0, 9).unwrap().exact, map.at(0, 10).unwrap().exact), (true, false));
    }

    #[test]
    fn sections_begin_where_they_say() {
        let inner = |source: &str, mappings: &str| {
            format!(
                r#"{{"version":3,"sourceRoot":"root/","sources":["{source}"],"mappings":"{mappings}"}}"#
            )
        };
        let text = format!(
            r#"{{"version":3,"sections":[{{"offset":{{"line":0,"column":0}},"map":{}}},
                {{"offset":{{"line":2,"column":5}},"map":{}}}]}}"#,
            inner("a.ts", "AAAA"),
            inner("b.ts", "AACA;AACA")
        );
        let map = SourceMap::parse(text.as_bytes()).unwrap();
        assert_eq!(found(&map, 0, 3), Some(("root/a.ts", 0, 0, None)));
        assert_eq!(found(&map, 2, 4), None);
        assert_eq!(found(&map, 2, 5), Some(("root/b.ts", 1, 0, None)));
        assert_eq!(found(&map, 3, 0), Some(("root/b.ts", 2, 0, None)));
    }

    #[test]
    fn what_contradicts_the_format_is_no_map() {
        let with = |mappings: &str| {
            format!(r#"{{"version":3,"sources":["a.ts"],"names":[],"mappings":"{mappings}"}}"#)
        };
        let guarded = format!(")]}}'\n{}", with("AAAA"));
        assert!(SourceMap::parse(guarded.as_bytes()).is_some());
        for mappings in [
            "",
            ";;",
            "A",
            "AA",
            "AAA",
            "AAAAAA",
            "AA!A",
            "ADAA",
            "D",
            "g",
            "AAAAgggggggB",
            "AAAA,EADA",
            "KAAA,DAAA",
            "AAAAgggggggggggggggg",
        ] {
            assert!(SourceMap::parse(with(mappings).as_bytes()).is_none(), "{mappings}");
        }
        for text in [
            "",
            "{}",
            "[]",
            r#"{"version":2,"sources":["a"],"mappings":"AAAA"}"#,
            r#"{"version":3,"sources":["a"]}"#,
            r#"{"version":3,"sources":[3],"mappings":"AAAA"}"#,
            r#"{"version":3,"sections":[]}"#,
            r#"{"version":3,"sections":[{"offset":{"line":0,"column":0},"url":"a.map"}]}"#,
        ] {
            assert!(SourceMap::parse(text.as_bytes()).is_none(), "{text}");
        }
        let many = vec!["0"; MAX_LIST + 1].join(",").replace('0', "\"\"");
        let text = format!(r#"{{"version":3,"sources":["a"],"names":[{many}],"mappings":"AAAA"}}"#);
        assert!(SourceMap::parse(text.as_bytes()).is_none(), "too many names");
    }

    #[test]
    fn data_urls_are_decoded() {
        let of =
            |url: &str| of_data_url(url).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(of("data:application/json;base64,e30="), Some("{}".to_owned()));
        assert_eq!(
            of("data:application/json;charset=utf-8;base64,eyJhIjoiw6QifQ=="),
            Some("{\"a\":\"ä\"}".to_owned())
        );
        assert_eq!(of("data:application/json,%7B%22a%22:1%7d%"), Some("{\"a\":1}%".to_owned()));
        assert_eq!([of("data:;base64,e3!="), of("data:none"), of("map.json")], [None, None, None]);
    }

    #[test]
    fn the_comment_at_the_end_counts() {
        let of = |text: &str| {
            let mut finder = CommentFinder::default();
            text.encode_utf16().for_each(|unit| finder.push(unit));
            finder.finish()
        };
        let some = |url: &str| Some(url.to_owned());
        assert_eq!(of("f()\n//# sourceMappingURL=a.js.map"), some("a.js.map"));
        assert_eq!(of("f()\r\n\t//@ sourceMappingURL=a.js.map \r\n\r\n"), some("a.js.map"));
        assert_eq!(of("//# sourceMappingURL=a\n//# sourceMappingURL=b\n// end"), some("b"));
        assert_eq!(of("//# sourceMappingURL=a\n// größe\u{2028}\n"), some("a"));
        assert_eq!(of("//# sourceMappingURL=a\nf()"), None, "not at the end");
        assert_eq!(of("//# sourceMappingURL=a\n}\n"), None, "not at the end");
        assert_eq!(of("//# sourceMappingURL=a\nä()\n"), None, "not at the end");
        assert_eq!(of("//# sourceMappingURL=a\n名()\n"), None, "not at the end");
        assert_eq!(of("const s = '//# sourceMappingURL=a';"), None, "no comment");
        assert_eq!(of("//# sourceMappingURL='a'"), None);
        assert_eq!(of("//# sourceMappingURL="), None);
        assert_eq!(of(""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Every place is found as in the list that the map was made from.
        #[test]
        fn a_place_is_that_of_the_list(
            steps in prop::collection::vec((0_u32..3, 0_u32..40, prop::option::weighted(0.8,
                (0_u32..4, 0_u32..5_000, 0_u32..300, prop::option::of(0_u32..3)))), 1..900),
            places in prop::collection::vec((0_u32..1_800, 0_u32..40_000), 20),
        ) {
            let mut segments: Vec<Mapped> = vec![(0, 0, Some((0, 0, 0, None)))];
            for (lines, columns, original) in steps {
                let (line, column, _) = segments[segments.len() - 1];
                // Mostly on one line, as in a bundle.
                let at = if lines == 0 || columns > 8 { (line, column + columns) }
                    else { (line + lines, columns) };
                segments.push((at.0, at.1, original));
            }
            let map = map(&segments);
            let known = segments.iter().map(|(line, column, _)| (*line, *column));
            for (line, column) in known.clone().chain(places) {
                let last = segments.iter().rfind(|s| (s.0, s.1) <= (line, column));
                let expected = last.filter(|s| s.0 == line).and_then(|s| s.2).and_then(|o| {
                    let source = [Some("a.ts"), None, Some("b.ts"), None][o.0 as usize]?;
                    let name = o.3.and_then(|name| ["x", "y"].get(name as usize).copied());
                    Some((source, o.1, o.2, name))
                });
                prop_assert_eq!(found(&map, line, column), expected);
            }
        }

    }

    proptest! {
        #[test]
        fn any_bytes_are_asked_for_a_place(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            mappings in "[A-Za-z0-9+/,;=!]{0,200}",
            line in any::<u32>(), column in any::<u32>(),
            offset in any::<(u32, u32)>(),
        ) {
            prop_assert!(SourceMap::parse(&bytes).is_none());
            let text = format!(
                r#"{{"version":3,"sources":["a",null],"names":["b"],"mappings":"{mappings}"}}"#);
            let nested = format!(
                r#"{{"version":3,"sections":[{{"offset":{{"line":{},"column":{}}},"map":{text}}}]}}"#,
                offset.0, offset.1);
            for text in [text, nested] {
                if let Some(map) = SourceMap::parse(text.as_bytes()) {
                    let _place = map.at(line, column);
                    prop_assert!(map.size() < 4_096);
                }
            }
            let mut finder = CommentFinder::default();
            bytes.iter().for_each(|byte| finder.push(u16::from(*byte)));
            let _url = finder.finish();
            let _bytes = of_data_url(&String::from_utf8_lossy(&bytes));
        }
    }
}
