//! Which language runtime a process has, by the names of its executable and libraries.
//!
//! May import [`crate::model`]'s plain types, the table of runtimes and the list of mapped files.

use std::os::unix::ffi::OsStrExt;

use super::MappedFile;
use crate::binary::runtimes;
use crate::model::Runtime;

/// The runtime by the executable's name, else Go as `inspected`, else by the libraries (asked for
/// only then), else as `inspected`.
pub(super) fn recognise(
    exe: Option<&str>,
    inspected: Option<Runtime>,
    mapped_files: impl FnOnce() -> Vec<MappedFile>,
) -> Option<Runtime> {
    let by_name = exe.and_then(|exe| runtimes::of_program(exe.rsplit('/').next()?));
    // A Go program may embed another language; its connections are still Go's.
    by_name
        .or(inspected.filter(|runtime| *runtime == Runtime::Go))
        .or_else(|| by_libraries(&mapped_files()))
        .or(inspected)
}

fn by_libraries(files: &[MappedFile]) -> Option<Runtime> {
    let names = files.iter().filter_map(|file| Some(file.path.file_name()?.as_bytes()));
    runtimes::of_libraries(&names.collect::<Vec<_>>())
}
