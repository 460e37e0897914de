//! Language runtimes: the one table of what tells them.
//!
//! May import the model's `Runtime`. Pure and total: names come from traced processes.

use crate::model::Runtime;

/// What tells one runtime from native programs.
struct Signs {
    /// `None`: it runs other people's code, and nobody asks which.
    runtime: Option<Runtime>,
    /// File names of its programs, but for the version behind (`python3.11`, `php-fpm8.2`).
    programs: &'static [&'static str],
    /// How file names of its libraries begin, before the version and `.so`.
    libraries: &'static [&'static str],
    /// Exported functions that nobody else defines.
    functions: &'static [&'static str],
}

/// Those that embed others first.
const RUNTIMES: [Signs; 7] = [
    Signs {
        runtime: Some(Runtime::Java),
        programs: &["java"],
        libraries: &["libjvm"],
        functions: &["JNI_CreateJavaVM"],
    },
    Signs {
        runtime: Some(Runtime::Dotnet),
        programs: &["dotnet"],
        libraries: &["libcoreclr"],
        functions: &["coreclr_initialize", "hostfxr_main"],
    },
    Signs {
        runtime: Some(Runtime::Node),
        programs: &["node", "nodejs"],
        libraries: &["libnode"],
        // node::Start(int, char**)
        functions: &["_ZN4node5StartEiPPc"],
    },
    Signs {
        runtime: Some(Runtime::Ruby),
        programs: &["ruby"],
        libraries: &["libruby"],
        functions: &["ruby_run_node"],
    },
    Signs {
        runtime: Some(Runtime::Php),
        programs: &["php", "php-fpm", "php-cgi"],
        libraries: &["libphp"],
        functions: &["php_module_startup", "zend_startup"],
    },
    Signs {
        runtime: Some(Runtime::Python),
        programs: &["python", "pypy"],
        libraries: &["libpython", "libpypy"],
        functions: &["Py_BytesMain", "Py_Main"],
    },
    Signs {
        runtime: None,
        // uwsgi runs Python, Ruby and more: its libraries say which.
        programs: &["electron", "bun", "deno", "uwsgi", "uwsgi-core", "perl", "beam.smp"],
        libraries: &["libperl"],
        functions: &[],
    },
];

/// The runtime of the program with this file name.
#[must_use]
pub fn of_program(name: &str) -> Option<Runtime> {
    RUNTIMES.iter().find(|signs| signs.is_program(name))?.runtime
}

/// The runtime of a process that has libraries with these file names mapped.
#[must_use]
pub fn of_libraries(names: &[&[u8]]) -> Option<Runtime> {
    let signs = RUNTIMES.iter().find(|signs| names.iter().any(|name| signs.is_library(name)));
    signs?.runtime
}

/// The runtime that a file belongs to which exports this function.
#[must_use]
pub fn of_function(name: &[u8]) -> Option<Runtime> {
    let defines = |signs: &&Signs| signs.functions.iter().any(|known| known.as_bytes() == name);
    RUNTIMES.iter().find(defines)?.runtime
}

/// Whether a program or library with this file name runs code that it does not contain.
#[must_use]
pub fn is_interpreter(name: &[u8]) -> bool {
    let is_program = |signs: &Signs| std::str::from_utf8(name).is_ok_and(|n| signs.is_program(n));
    RUNTIMES.iter().any(|signs| is_program(signs) || signs.is_library(name))
}

impl Signs {
    fn is_program(&self, name: &str) -> bool {
        let is_version = |c: char| c.is_ascii_digit() || c == '.';
        // `python3.14t`: a build without the lock, `python3.14d`: one for debugging.
        let plain = name.trim_end_matches(['t', 'd']);
        let versioned = if plain.ends_with(is_version) { plain } else { name };
        self.programs.contains(&versioned.trim_end_matches(is_version))
    }

    fn is_library(&self, name: &[u8]) -> bool {
        self.libraries.iter().any(|start| {
            name.strip_prefix(start.as_bytes()).is_some_and(|rest| {
                !rest.first().is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'_')
                    && rest.windows(3).any(|part| part == b".so")
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{is_interpreter, of_function, of_libraries, of_program};
    use crate::model::Runtime::{Java, Node, Php, Python};

    #[test]
    fn programs_are_known_by_name_and_version() {
        for (name, runtime) in [
            ("python3.11", Some(Python)),
            ("python3.14t", Some(Python)),
            ("pythont", None),
            ("php-fpm8.2", Some(Php)),
            ("nodejs", Some(Node)),
            ("node_exporter", None),
            ("node-exporter", None),
            ("pythonic", None),
            ("uwsgi", None),
            ("", None),
        ] {
            assert_eq!(of_program(name), runtime, "{name}");
        }
    }

    #[test]
    fn a_library_is_a_shared_object_of_that_name() {
        for (name, runtime) in [
            ("libpython3.11.so.1.0", Some(Python)),
            ("libnode.so.108", Some(Node)),
            ("libjvm.txt", None),
            ("libnodeclient.so", None),
            ("libjvm", None),
        ] {
            assert_eq!(of_libraries(&[name.as_bytes()]), runtime, "{name}");
        }
        assert_eq!(of_libraries(&[b"libpython3.so", b"libjvm.so"]), Some(Java), "Java embeds it");
    }

    #[test]
    fn interpreters_are_more_than_runtimes() {
        for name in
            ["uwsgi", "beam.smp", "perl5.36", "libperl.so.5.36", "python3", "libruby-3.1.so"]
        {
            assert!(is_interpreter(name.as_bytes()), "{name}");
        }
        for name in ["node_exporter", "javascript-server", "libpq.so.5", "\u{fffd}"] {
            assert!(!is_interpreter(name.as_bytes()), "{name}");
        }
        assert_eq!((of_function(b"Py_Main"), of_function(b"main")), (Some(Python), None));
    }
}
