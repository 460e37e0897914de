//! The container id in a process's control group path.
//!
//! May import nothing. The path is chosen by the container's runtime; any bytes give an id or
//! none.

/// Characters of an id that are shown, as `docker ps` does.
const SHOWN: usize = 12;
/// Characters of a full id: a SHA-256 in hexadecimal.
const FULL: usize = 64;

/// The shortened id of the innermost container in the contents of `/proc/PID/cgroup`.
///
/// Known forms, in either version of control groups: `/docker/ID`, `docker-ID.scope`,
/// `cri-containerd-ID.scope`, `...:cri-containerd:ID`, `crio-ID.scope`, `libpod-ID.scope/container`
/// and `/kubepods/.../podUID/ID`.
pub(super) fn id(cgroup: &[u8]) -> Option<String> {
    cgroup.split(|byte| *byte == b'\n').find_map(|line| {
        // hierarchy:controllers:path, where the path may have colons of its own
        let path = line.splitn(3, |byte| *byte == b':').nth(2)?;
        path.rsplit(|byte| *byte == b'/').find_map(of_component)
    })
}

fn of_component(component: &[u8]) -> Option<String> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(FULL)?)?;
    let is_id = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // A container's monitor (conmon) runs beside it in a group that carries its id.
    let is_own = match prefix.split_last() {
        None => true,
        Some((b'-' | b':', engine)) => !engine.ends_with(b"conmon"),
        Some(_) => false,
    };
    let shown = id.get(..SHOWN).filter(|_| is_id && is_own)?;
    Some(String::from_utf8_lossy(shown).into_owned())
}
