//! The parsers against what processes choose; the readers against trees made here are in
//! `tests/host.rs`.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{container, maps, ns_pid, parse_mapping, runtime, start_time, without_deleted};
use crate::model::Runtime;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn stat(comm: &str) -> Vec<u8> {
    format!("42 ({comm}) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3\n").into()
}

#[test]
fn the_start_time_is_found_behind_any_name() {
    for comm in ["cat", "a b c", "x) S 1 (", ") R 9 9 9", "", "(((", "a\nb"] {
        assert_eq!(start_time(&stat(comm)), Some(987_654), "{comm:?}");
    }
    for cut in [&b""[..], b"42", b"42 (cat", b"42 (cat) S 1"] {
        assert_eq!(start_time(cut), None);
    }
}

#[test]
fn the_innermost_pid_counts_and_a_lone_one_does_not_differ() {
    assert_eq!(ns_pid(b"Name:\tx\nNSpid:\t812\t40\t7\n"), Some(7));
    assert_eq!(ns_pid(b"Name:\tx\nNSpid:\t812\nNSpgid:\t812\t7\n"), None);
    assert_eq!(ns_pid(b"Name:\tNSpid:\\n\t1\t2\n"), None);
    assert_eq!(ns_pid(b"NSpid:\t1\t99999999999\n"), None);
}

#[test]
fn every_engine_s_container_id_is_found() {
    for path in [
        "/docker/{}",
        "/system.slice/docker-{}.scope",
        "/system.slice/docker-{}.scope/init.scope",
        "/kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope",
        "/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{}",
        "/kubepods/burstable/pod7f1c/{}",
        "/kubepods.slice/crio-{}.scope",
        "/machine.slice/libpod-{}.scope/container",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{}.scope",
        "/libpod_parent/libpod-{}",
        "/../../docker/{}",
    ] {
        let path = path.replace("{}", ID);
        let v2 = format!("0::{path}\n");
        let v1 = format!("12:cpu,cpuacct:/\n11:pids:{path}\n0::/\n");
        for cgroup in [v2, v1] {
            assert_eq!(container::id(cgroup.as_bytes()).as_deref(), Some(&ID[..12]), "{cgroup}");
        }
    }
}

#[test]
fn the_innermost_container_is_the_process_s_own() {
    let outer = "f".repeat(64);
    let cgroup = format!("0::/docker/{outer}/docker/{ID}\n");
    assert_eq!(container::id(cgroup.as_bytes()).as_deref(), Some(&ID[..12]));
}

#[test]
fn what_is_no_container_has_no_id() {
    for path in [
        "/",
        "/system.slice/postgresql.service",
        "/user.slice/user-0.slice/session-1.scope",
        "/machine.slice/libpod-conmon-{}.scope",
        "/crio-conmon-{}.scope",
        "/docker/{}0",
        "/docker/x{}",
    ] {
        let cgroup = format!("0::{}\n", path.replace("{}", ID));
        assert_eq!(container::id(cgroup.as_bytes()), None, "{cgroup}");
    }
    assert_eq!(container::id(format!("0::/docker/{}\n", ID.to_uppercase()).as_bytes()), None);
    assert_eq!(container::id(b"\n:\n::\n0::\xff\xfe/\x00\n"), None);
}

#[test]
fn a_mapping_is_read_with_its_odd_path() {
    let line = b"7f00-7f10 r-xp 0001a000 fd:01 1234                       /a b\\012c (deleted)";
    let mapping = parse_mapping(line).unwrap();
    assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7f10, 0x1a000));
    assert_eq!((mapping.device, mapping.inode), ((0xfd, 1), 1234));
    assert!(mapping.executable && mapping.deleted);
    assert_eq!(mapping.path, Path::new("/a b\nc"));
    let anonymous = parse_mapping(b"1000-2000 rw-p 00000000 00:00 0 ").unwrap();
    assert_eq!((anonymous.inode, anonymous.path), (0, PathBuf::new()));
    for bad in [
        &b""[..],
        b"1000-2000",
        b"2000-1000 r-xp 0 0:0 1 /x",
        b"+100-2000 r-xp 0 0:0 1 /x",
        b"1000-2000 r 0 0:0 1 /x",
        b"1000-2000 r-xp 0 100000000:0 1 /x",
        b"1000-20000000000000000 r-xp 0 0:0 1 /x",
    ] {
        assert_eq!(parse_mapping(bad), None, "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn executable_files_are_listed_once_each() {
    let text = b"1000-2000 r--p 0 8:1 7 /lib/a.so\n\
        2000-3000 r-xp 1000 8:1 7 /lib/a.so\n\
        nonsense\n\
        3000-4000 r-xp 2000 8:1 7 /lib/a.so\n\
        4000-5000 r-xp 0 0:0 0 [vdso]\n\
        5000-6000 r-xp 0 8:2 7 /other/a.so";
    let files = maps::executable_files(&text[..], Path::new("/proc/1/map_files"));
    let found: Vec<_> = files.iter().map(|file| (&*file.path, &*file.entry)).collect();
    assert_eq!(
        found,
        [
            (Path::new("/lib/a.so"), Path::new("/proc/1/map_files/2000-3000")),
            (Path::new("/other/a.so"), Path::new("/proc/1/map_files/5000-6000")),
        ]
    );
}

#[test]
fn hostile_maps_are_bounded() {
    use std::fmt::Write;
    let mut text = String::new();
    for inode in 1..=5000 {
        writeln!(text, "1000-2000 r-xp 0 8:1 {inode} /x").unwrap();
    }
    let files = maps::executable_files(text.as_bytes(), Path::new("/m"));
    assert_eq!(files.len(), 4096);
}

fn runtime_of(exe: &str, libraries: &[&str], inspected: Option<Runtime>) -> Option<Runtime> {
    let text: String = libraries
        .iter()
        .enumerate()
        .map(|(at, path)| format!("1000-2000 r-xp 0 8:1 {} {path}\n", at + 1))
        .collect();
    runtime::recognise(Some(exe), inspected, || {
        maps::executable_files(text.as_bytes(), Path::new("/m"))
    })
}

#[test]
fn runtimes_are_recognised_by_executable_then_by_library() {
    use Runtime::{Dotnet, Go, Java, Native, Node, Php, Python, Ruby};
    type Case = (&'static str, &'static [&'static str], Option<Runtime>, Option<Runtime>);
    let table: [Case; 13] = [
        ("/usr/bin/python3.11", &[], None, Some(Python)),
        ("/opt/node", &[], None, Some(Node)),
        ("/usr/lib/jvm/17/bin/java", &[], Some(Native), Some(Java)),
        ("/usr/sbin/php-fpm8.2", &[], None, Some(Php)),
        ("/usr/bin/ruby3.1", &[], None, Some(Ruby)),
        ("/usr/share/dotnet/dotnet", &[], None, Some(Dotnet)),
        ("/app/Shop.Api", &["/app/libcoreclr.so"], None, Some(Dotnet)),
        ("/usr/bin/uwsgi", &["/lib/libpython3.11.so.1.0"], None, Some(Python)),
        ("/srv/server", &["/lib/libpython3.11.so.1.0"], Some(Go), Some(Go)),
        ("/srv/server", &["/lib/libpython3.11.so.1.0"], Some(Native), Some(Python)),
        ("/srv/server", &["/usr/share/libjvm.txt", "/lib/libc.so.6"], Some(Native), Some(Native)),
        ("/usr/bin/node_exporter", &[], Some(Go), Some(Go)),
        ("/usr/bin/postgres", &["/lib/libc.so.6"], None, None),
    ];
    for (exe, libraries, inspected, expected) in table {
        assert_eq!(runtime_of(exe, libraries, inspected), expected, "{exe}");
    }
}

#[test]
fn only_the_kernel_s_mark_is_taken_off_a_path() {
    assert_eq!(without_deleted(b"/x (deleted)"), (&b"/x"[..], true));
    assert_eq!(without_deleted(b"/x (deleted) y"), (&b"/x (deleted) y"[..], false));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = (start_time(&bytes), ns_pid(&bytes), container::id(&bytes));
        let _ = maps::executable_files(&bytes[..], Path::new("/m"));
    }

    #[test]
    fn a_cgroup_like_line_gives_a_short_hexadecimal_id_or_none(
        line in "[0-9]:[a-z]{0,3}:(/[a-f0-9.:-]{0,70}(\\.scope)?){0,3}",
    ) {
        if let Some(id) = container::id(line.as_bytes()) {
            prop_assert!(id.len() == 12 && line.contains(&id));
        }
    }

    #[test]
    fn a_mapping_survives_any_path(path in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut line = b"1000-2000 r-xp 00000000 08:01 9 ".to_vec();
        line.extend(path);
        let mapping = parse_mapping(&line).unwrap();
        prop_assert_eq!((mapping.start, mapping.end, mapping.inode), (0x1000, 0x2000, 9));
    }
}
