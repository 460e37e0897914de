//! What a script was made from, by the source map that its text names.
//!
//! May import `host::proc::Root` and the maps. Invariants: a map that is a file is a regular file
//! below the process's root, found beside its script; so much is read and kept for one process, and
//! then nothing more.

use std::path::Path;

use super::source_map::{CommentFinder, SourceMap, of_data_url, percent_decoded};
use crate::host::proc::Root;

/// Bytes of a map; a longer one is not read.
pub(super) const MAX_MAP_BYTES: usize = 32 << 20;
/// Bytes of maps read, and kept, for one process.
const MAX_READ: usize = 128 << 20;
const MAX_KEPT: usize = 16 << 20;

/// Finds the maps of a process.
pub(super) struct Maps {
    /// `None` where there is none to look in.
    root: Option<Root>,
    left_to_read: usize,
    left_to_keep: usize,
}

/// The map of a script.
pub(super) struct Sources {
    map: SourceMap,
    /// Where paths of sources begin.
    base: String,
}

/// A place in a source, from one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// What is named just there.
    pub name: Option<&'a str>,
}

impl Maps {
    pub fn new(root: Option<Root>) -> Self {
        Self { root, left_to_read: MAX_READ, left_to_keep: MAX_KEPT }
    }

    /// The map that the script at this path names by a URL. `None` when it is not there or not
    /// understood.
    pub fn find(&mut self, script: &str, url: &str) -> Option<Sources> {
        let limit = MAX_MAP_BYTES.min(self.left_to_read);
        let directory = script.rsplit_once('/').filter(|_| script.starts_with('/'))?.0;
        let (text, base) = if url.starts_with("data:") {
            (of_data_url(url).filter(|text| text.len() <= limit)?, directory.to_owned())
        } else {
            let path = file_of(directory, url)?;
            let text = self.root.as_ref()?.read(Path::new(&path), limit as u64)?;
            let base = path.rsplit_once('/').map_or_else(String::new, |(base, _)| base.to_owned());
            (text, base)
        };
        self.left_to_read -= text.len();
        let map = SourceMap::parse(&text)?;
        self.left_to_keep = self.left_to_keep.checked_sub(map.size())?;
        Some(Sources { map, base })
    }
}

impl Maps {
    /// The map that the script in this file names, as the file is now.
    pub fn of_file(&mut self, script: &str) -> Option<Sources> {
        let limit = MAX_MAP_BYTES.min(self.left_to_read);
        let text = self.root.as_ref()?.read(Path::new(script), limit as u64)?;
        self.left_to_read = self.left_to_read.saturating_sub(text.len());
        let mut finder = CommentFinder::default();
        text.iter().for_each(|byte| finder.push(u16::from(*byte)));
        self.find(script, &finder.finish()?)
    }
}

impl Sources {
    /// What a place of the script's text was made from; `None` when that is not known. Lines and
    /// columns from one.
    pub fn at(&self, line: u32, column: u32) -> Option<Place<'_>> {
        let found = self.map.at(line.checked_sub(1)?, column.checked_sub(1)?)?;
        Some(Place {
            file: source_of(&self.base, found.source),
            line: found.line.saturating_add(1),
            column: found.column.saturating_add(1),
            name: found.name.filter(|_| found.exact),
        })
    }
}

/// The path that a URL of a map leads to; `None` when it is not a file's.
fn file_of(directory: &str, url: &str) -> Option<String> {
    let url = match url.split_once("://") {
        Some(("file", rest)) => &rest[rest.find('/')?..],
        Some(_) => return None,
        None => url,
    };
    let path = String::from_utf8(percent_decoded(url)).ok()?;
    Some(joined(directory, &path))
}

/// The path of a source. That of a bundler, which has a scheme and a name before it, is relative to
/// a directory that is not said.
fn source_of(base: &str, source: &str) -> String {
    match source.split_once("://") {
        Some(("file", _)) => joined("/", &super::path(source)),
        Some((_, rest)) => {
            let path = rest.split_once('/').map_or(rest, |(_, path)| path);
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            joined("", path.trim_start_matches('/'))
        }
        None => joined(base, source),
    }
}

/// A path from a directory, without `.` and `..` as far as that goes.
fn joined(directory: &str, path: &str) -> String {
    let directory = if path.starts_with('/') { "" } else { directory };
    let is_absolute = path.starts_with('/') || directory.starts_with('/');
    let mut elements: Vec<&str> = Vec::new();
    for element in directory.split('/').chain(path.split('/')) {
        match element {
            "" | "." => {}
            ".." if elements.last().is_some_and(|last| *last != "..") => {
                elements.pop();
            }
            ".." if is_absolute => {}
            _ => elements.push(element),
        }
    }
    format!("{}{}", if is_absolute { "/" } else { "" }, elements.join("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const MAP: &str = r#"{"version":3,"sources":["../src/a.ts"],"names":[],"mappings":"AAAA"}"#;

    fn at_start(maps: &mut Maps, script: &str, url: &str) -> Option<String> {
        Some(maps.find(script, url)?.at(1, 1)?.file)
    }

    #[test]
    fn a_map_is_a_regular_file_below_the_processs_root() {
        let dir = tempfile::TempDir::new().unwrap();
        let (outside, root) = (dir.path().join("outside.map"), dir.path().join("root"));
        fs::create_dir_all(root.join("srv/dist")).unwrap();
        fs::write(&outside, MAP).unwrap();
        fs::write(root.join("srv/dist/a b.js.map"), MAP).unwrap();
        symlink(&outside, root.join("srv/dist/link.map")).unwrap();
        let fifo = root.join("srv/dist/fifo.map");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let mut maps = Maps::new(Root::open(&root));
        let script = "/srv/dist/a.js";
        let source = Some("/srv/src/a.ts".to_owned());
        assert_eq!(at_start(&mut maps, script, "a%20b.js.map"), source);
        assert_eq!(at_start(&mut maps, script, "file:///srv/dist/a%20b.js.map"), source);
        assert_eq!(at_start(&mut maps, script, "../../../../../srv/dist/a b.js.map"), source);
        for url in [
            "link.map",
            "fifo.map",
            "missing.map",
            ".",
            "../../../outside.map",
            "https://example.org/a%20b.js.map",
            "\0",
        ] {
            assert_eq!(at_start(&mut maps, script, url), None, "{url:?}");
        }
        assert_eq!(at_start(&mut maps, "[eval]", "a%20b.js.map"), None);
        maps.left_to_read = MAP.len() - 1;
        assert_eq!(at_start(&mut maps, script, "a%20b.js.map"), None, "read enough");
        (maps.left_to_read, maps.left_to_keep) = (MAP.len(), 7);
        assert_eq!(at_start(&mut maps, script, "a%20b.js.map"), None, "kept enough");
    }

    #[test]
    fn sources_are_shown_as_paths() {
        for (base, source, path) in [
            ("/srv/dist", "../src/a.ts", "/srv/src/a.ts"),
            ("/srv/dist", "./../../../../a.ts", "/a.ts"),
            ("/srv/dist", "/srv/src/./a.ts", "/srv/src/a.ts"),
            ("/srv/dist", "file:///srv/src/a%20b.ts", "/srv/src/a b.ts"),
            ("/srv/dist", "webpack://shop/./src/a.ts?7c5f", "src/a.ts"),
            (
                "/srv/dist",
                "webpack:///./node_modules/pg/lib/client.js",
                "node_modules/pg/lib/client.js",
            ),
            ("/srv/dist", "webpack://shop/../common/a.ts", "../common/a.ts"),
        ] {
            assert_eq!(source_of(base, source), path, "{source}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_joined(base in "[a./]{0,20}", path in "[a./%:?]{0,40}") {
            let joined = joined(&format!("/{base}"), &path);
            prop_assert!(joined.starts_with('/') && !joined.contains("//"));
            prop_assert!(!joined.split('/').any(|element| element == ".." || element == "."));
            let _path = (source_of(&base, &path), file_of(&base, &path));
        }
    }
}
