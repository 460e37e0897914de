//! Which language runtime a process has, by the names of its executable and libraries.
//!
//! May import [`crate::model`]'s plain types and the list of mapped files.

use std::os::unix::ffi::OsStrExt;

use super::MappedFile;
use crate::model::Runtime;

/// Executables by name; what follows may only be a version (`python3.11`, `php-fpm8.2`).
const EXECUTABLES: [(&str, Runtime); 9] = [
    ("java", Runtime::Java),
    ("node", Runtime::Node),
    ("nodejs", Runtime::Node),
    ("python", Runtime::Python),
    ("pypy", Runtime::Python),
    ("ruby", Runtime::Ruby),
    ("php", Runtime::Php),
    ("php-fpm", Runtime::Php),
    ("dotnet", Runtime::Dotnet),
];

/// Libraries by prefix, the ones that embed others first. A shared object, so `.so` must follow.
const LIBRARIES: [(&str, Runtime); 6] = [
    ("libjvm", Runtime::Java),
    ("libcoreclr", Runtime::Dotnet),
    ("libnode", Runtime::Node),
    ("libruby", Runtime::Ruby),
    ("libphp", Runtime::Php),
    ("libpython", Runtime::Python),
];

/// The runtime by the executable's name, else Go as `inspected`, else by the libraries (asked for
/// only then), else as `inspected`.
pub(super) fn recognise(
    exe: Option<&str>,
    inspected: Option<Runtime>,
    mapped_files: impl FnOnce() -> Vec<MappedFile>,
) -> Option<Runtime> {
    let by_name = exe.and_then(|exe| by_executable(exe.rsplit('/').next()?));
    // A Go program may embed another language; its connections are still Go's.
    by_name
        .or(inspected.filter(|runtime| *runtime == Runtime::Go))
        .or_else(|| by_libraries(&mapped_files()))
        .or(inspected)
}

fn by_executable(name: &str) -> Option<Runtime> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    EXECUTABLES.iter().find(|(known, _)| stem == *known).map(|(_, runtime)| *runtime)
}

fn by_libraries(files: &[MappedFile]) -> Option<Runtime> {
    let names: Vec<_> = files
        .iter()
        .filter_map(|file| Some(file.path.file_name()?.as_bytes()))
        .filter(|name| name.windows(3).any(|part| part == b".so"))
        .collect();
    LIBRARIES
        .iter()
        .find(|(prefix, _)| names.iter().any(|name| name.starts_with(prefix.as_bytes())))
        .map(|(_, runtime)| *runtime)
}
