//! The reader against BTF made here, against this machine's kernel, and against bytes of no sense.

use proptest::prelude::*;
use tracer_ebpf::config::Offsets;

use super::{Error, MAGIC, kernel_offsets, offsets, tail_bytes};

/// Writes BTF: types get the ids 1, 2, ... in the order of the calls.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    ids: u32,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], ids: 0 }
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        at
    }

    fn plain(&mut self, kind: u32, name: &str, word: u32, tail: &[u32]) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24, word]);
        self.words(tail);
        self.ids += 1;
        self.ids
    }

    /// `members`: name, type, byte offset.
    fn composite(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.name(name);
        self.words(&[name, (kind << 24) | members.len() as u32, 4096]);
        for (member, of_type, offset) in members {
            let member = self.name(member);
            self.words(&[member, *of_type, offset * 8]);
        }
        self.ids += 1;
        self.ids
    }

    fn finish(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend([24, 0, types, types, strings].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// A kernel in small: every shape of nesting that the real one uses.
fn kernel(with_uprobes: bool) -> Builder {
    kernel_with(with_uprobes, 8)
}

/// The same with the common part of `struct sock` at this offset.
fn kernel_with(with_uprobes: bool, common_at: u32) -> Builder {
    let mut b = Builder::new();
    let int = b.plain(1, "int", 4, &[0x20]);
    let pointer = b.plain(2, "", int, &[]);
    b.plain(3, "", 0, &[int, int, 4]);
    let _function = b.plain(12, "files", int, &[]);
    b.composite(4, "files_struct", &[("count", int, 0), ("fdt", pointer, 32)]);
    b.composite(4, "fdtable", &[("max_fds", int, 0), ("fd", pointer, 8)]);
    let anonymous = b.composite(4, "", &[("other", int, 0), ("f_inode", pointer, 8)]);
    let either = b.composite(5, "", &[("flags", int, 0), ("", anonymous, 0)]);
    b.composite(4, "file", &[("", either, 16), ("private_data", pointer, 200)]);
    b.composite(4, "inode", &[("i_ino", int, 64)]);
    b.composite(4, "socket", &[("state", int, 0), ("type", int, 4), ("sk", pointer, 24)]);
    let possible_net = b.composite(4, "", &[("net", pointer, 0)]);
    let possible_net = b.plain(8, "possible_net_t", possible_net, &[]);
    let common = b.composite(
        4,
        "sock_common",
        &[("skc_dport", int, 12), ("skc_num", int, 14), ("skc_net", possible_net, 48)],
    );
    let common = b.plain(10, "", common, &[]);
    b.composite(4, "sock", &[("__sk_common", common, common_at)]);
    let ns_common = b.composite(4, "ns_common", &[("inum", int, 16)]);
    b.composite(4, "net", &[("passive", int, 0), ("ns", ns_common, 128)]);
    b.composite(4, "signal_struct", &[("live", int, 4)]);
    let thread = b.composite(4, "thread_struct", &[("sp", pointer, 0), ("fsbase", pointer, 20)]);
    let mut task = vec![
        ("tgid", int, 100),
        ("files", pointer, 208),
        ("signal", pointer, 216),
        ("mm", pointer, 224),
        ("thread", thread, 300),
    ];
    b.composite(4, "mm_struct", &[("start_stack", pointer, 48)]);
    if with_uprobes {
        task.push(("utask", pointer, 240));
        b.composite(4, "uprobe_task", &[("return_instances", pointer, 40)]);
        let ri = [("stack", int, 16), ("orig_ret_vaddr", int, 24), ("next", pointer, 0)];
        b.composite(4, "return_instance", &ri);
    }
    b.composite(4, "task_struct", &task);
    b
}

const EXPECTED: Offsets = Offsets {
    task_files: 208,
    task_tgid: 100,
    task_signal: 216,
    task_utask: 240,
    signal_live: 4,
    files_fdt: 32,
    fdt_fd: 8,
    fdt_max_fds: 0,
    file_private_data: 200,
    file_inode: 24,
    inode_ino: 64,
    socket_type: 4,
    socket_sk: 24,
    sock_num: 22,
    sock_net: 56,
    net_inum: 144,
    utask_return_instances: 40,
    ri_orig_ret_vaddr: 24,
    ri_stack: 16,
    ri_next: 0,
    ri_known: 1,
    sock_dport: 20,
    task_fsbase: 320,
    task_mm: 224,
    mm_start_stack: 48,
    socket_hooks: 0,
};

#[test]
fn members_are_found_through_anonymous_members_typedefs_and_qualifiers() {
    assert_eq!(offsets(&kernel(true).finish()).unwrap(), EXPECTED);
}

#[test]
fn the_hooks_on_sockets_need_both_tracepoints_and_the_ports_where_programs_read_them() {
    const BOTH: [&str; 2] = ["btf_trace_sock_send_length", "btf_trace_sock_recv_length"];
    let with = |tracepoints: &[&str], common_at: u32| {
        let mut b = kernel_with(true, common_at);
        for name in tracepoints {
            b.plain(8, name, 0, &[]);
        }
        offsets(&b.finish()).unwrap()
    };
    let usual = Offsets { sock_num: 14, sock_dport: 12, sock_net: 48, ..EXPECTED };
    assert_eq!(with(&BOTH, 0), Offsets { socket_hooks: 1, ..usual });
    assert_eq!(with(&BOTH[..1], 0), usual);
    assert_eq!(with(&["btf_trace_sock_send_length_other", BOTH[1]], 0), usual);
    assert_eq!(with(&BOTH, 8), EXPECTED);
}

#[test]
fn without_uprobes_only_the_return_instances_are_unknown() {
    let expected = Offsets {
        task_utask: 0,
        utask_return_instances: 0,
        ri_orig_ret_vaddr: 0,
        ri_stack: 0,
        ri_known: 0,
        ..EXPECTED
    };
    assert_eq!(offsets(&kernel(false).finish()).unwrap(), expected);
}

#[test]
fn a_missing_mandatory_member_is_named() {
    let mut bytes = kernel(true).finish();
    let at = bytes.windows(8).position(|part| part == b"skc_num\0").unwrap();
    bytes[at] = b'X';
    let error = offsets(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "the kernel's BTF has no member sock.__sk_common.skc_num");
}

#[test]
fn a_bit_field_is_no_member_to_read() {
    let mut b = kernel(true);
    let found = b.types.windows(4).position(|word| word == (100_u32 * 8).to_ne_bytes()).unwrap();
    b.types[found] += 1;
    assert!(
        matches!(offsets(&b.finish()), Err(Error::NoMember(name)) if name == "task_struct.tgid")
    );
}

#[test]
fn of_two_structs_of_one_name_the_one_with_the_member_counts() {
    let mut b = Builder::new();
    b.composite(4, "task_struct", &[("unrelated", 1, 0)]);
    let (unrelated, real) = (b, kernel(true));
    // Ids are relative to the order, so the stranger goes last.
    let mut b = real;
    let strings = b.strings.len() as u32;
    let mut types = unrelated.types.clone();
    for at in [0, 12] {
        let name = u32::from_ne_bytes(types[at..at + 4].try_into().unwrap()) + strings;
        types[at..at + 4].copy_from_slice(&name.to_ne_bytes());
    }
    b.types.extend(types);
    b.strings.extend(unrelated.strings);
    assert_eq!(offsets(&b.finish()).unwrap(), EXPECTED);
}

#[test]
fn an_unknown_kind_and_a_foreign_file_are_refused() {
    let mut b = kernel(true);
    b.plain(31, "new", 0, &[]);
    assert!(matches!(offsets(&b.finish()), Err(Error::Malformed(_))));
    assert!(matches!(offsets(b"\x7fELF"), Err(Error::Malformed(_))));
    assert!(matches!(offsets(&[]), Err(Error::Malformed(_))));
}

#[test]
fn a_struct_that_contains_itself_ends_the_search() {
    let mut b = Builder::new();
    // Two anonymous members of its own type: without a bound, two to the power of the depth.
    b.composite(4, "task_struct", &[("", 1, 0), ("", 1, 0)]);
    assert!(matches!(offsets(&b.finish()), Err(Error::NoMember(_))));
    let mut b = Builder::new();
    b.composite(4, "task_struct", &[("", 2, 0)]);
    b.plain(8, "loop", 2, &[]);
    assert!(matches!(offsets(&b.finish()), Err(Error::NoMember(_))));
}

#[test]
fn the_running_kernel_has_every_mandatory_member() {
    let offsets = kernel_offsets().unwrap();
    // True of every kernel: the descriptor table starts with its size, and a socket's common part
    // is its first member.
    assert_eq!(offsets.fdt_max_fds, 0);
    assert_eq!(offsets.sock_num, 14);
    assert!(offsets.task_tgid > 0 && offsets.net_inum > 0);
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = offsets(&bytes);
    }

    #[test]
    fn any_damage_ends_in_a_result(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = kernel(true).finish();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = offsets(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = offsets(&bytes);
    }
}

#[test]
fn every_kind_up_to_enum64_has_a_length() {
    assert!((1..=19).all(|kind| tail_bytes(kind, 3).is_some()));
    assert_eq!((tail_bytes(0, 3), tail_bytes(20, 3)), (None, None));
}
