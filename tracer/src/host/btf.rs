//! Where the running kernel keeps the struct members that the eBPF programs follow, from its BTF.
//!
//! May import the contract's [`Offsets`] only. Owns a small reader of the BPF Type Format (Linux
//! `Documentation/bpf/btf.rst`): one pass over the types, no name table. It is total: any bytes
//! give offsets or an [`Error`], in time linear in the input. Invariant: nothing is guessed; a
//! missing member is an error that names it, but for those that [`Offsets`] marks as optional.

use std::{
    fs::File,
    io::{self, Read},
    mem::offset_of,
    path::Path,
};

use tracer_ebpf::{
    config::Offsets,
    socket::{RECEIVES, SENDS, SockHead},
};

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Bytes read at most; kernels of 2026 have some 3 to 10 MiB.
const MAX_BYTES: u64 = 128 << 20;
/// Typedefs, qualifiers and anonymous structs followed one inside the other.
const MAX_DEPTH: u32 = 16;
/// Members looked at in one search; `task_struct`, the largest, has some 300.
const MAX_MEMBERS: u32 = 8192;
/// Struct definitions of one name that are tried; the kernel has one, rarely two.
const MAX_CANDIDATES: usize = 8;

/// Why offsets could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: String, source: io::Error },
    /// Not BTF, cut short, or of a kind newer than this reader.
    #[error("the kernel's BTF cannot be understood: {0}")]
    Malformed(String),
    #[error("the kernel's BTF has no member {0}")]
    NoMember(String),
}

/// The offsets of the running kernel.
///
/// # Errors
/// When the kernel has no BTF, or it cannot be read or understood, or lacks a mandatory member.
pub fn kernel_offsets() -> Result<Offsets, Error> {
    read_offsets(Path::new(VMLINUX))
}

/// The offsets in a file of raw BTF.
///
/// # Errors
/// As [`kernel_offsets`].
pub fn read_offsets(path: &Path) -> Result<Offsets, Error> {
    let unreadable = |source| Error::Unreadable { path: path.display().to_string(), source };
    let mut bytes = Vec::new();
    // Read, not mapped: this file can only be mapped since Linux 6.16.
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    offsets(&bytes)
}

/// The offsets in raw BTF of this machine's byte order.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::NoMember`].
pub fn offsets(bytes: &[u8]) -> Result<Offsets, Error> {
    let btf = Btf::parse(bytes)?;
    // Without it there are no frames of Python, which is no reason not to run.
    let task_fsbase = btf.offset("task_struct", "thread.fsbase").unwrap_or(0);
    // Without it more is copied of some stacks than they are.
    let mm = (btf.offset("task_struct", "mm"), btf.offset("mm_struct", "start_stack"));
    let (task_mm, mm_start_stack) = match mm {
        (Ok(mm), Ok(start_stack)) => (mm, start_stack),
        _ => (0, 0),
    };
    let utask = [
        btf.offset("task_struct", "utask"),
        btf.offset("uprobe_task", "return_instances"),
        btf.offset("return_instance", "orig_ret_vaddr"),
        btf.offset("return_instance", "stack"),
        btf.offset("return_instance", "next"),
    ];
    let [task_utask, utask_return_instances, ri_orig_ret_vaddr, ri_stack, ri_next, ri_known] =
        match utask {
            [Ok(utask), Ok(instances), Ok(vaddr), Ok(stack), Ok(next)] => {
                [utask, instances, vaddr, stack, next, 1]
            }
            _ => [0; 6],
        };
    let sock_num = btf.offset("sock", "__sk_common.skc_num")?;
    let sock_dport = btf.offset("sock", "__sk_common.skc_dport")?;
    let is_as_read = sock_num as usize == offset_of!(SockHead, num)
        && sock_dport as usize == offset_of!(SockHead, dport);
    let socket_hooks = u32::from(is_as_read && btf.tracepoints == [true; TRACEPOINTS.len()]);
    Ok(Offsets {
        task_files: btf.offset("task_struct", "files")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_signal: btf.offset("task_struct", "signal")?,
        task_utask,
        signal_live: btf.offset("signal_struct", "live")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdt_fd: btf.offset("fdtable", "fd")?,
        fdt_max_fds: btf.offset("fdtable", "max_fds")?,
        file_private_data: btf.offset("file", "private_data")?,
        file_inode: btf.offset("file", "f_inode")?,
        inode_ino: btf.offset("inode", "i_ino")?,
        socket_type: btf.offset("socket", "type")?,
        socket_sk: btf.offset("socket", "sk")?,
        sock_num,
        sock_dport,
        sock_net: btf.offset("sock", "__sk_common.skc_net.net")?,
        net_inum: btf.offset("net", "ns.inum")?,
        utask_return_instances,
        ri_orig_ret_vaddr,
        ri_stack,
        ri_next,
        ri_known,
        task_fsbase,
        task_mm,
        mm_start_stack,
        socket_hooks,
    })
}

/// The structs whose members are asked for: only these are remembered by name.
const STRUCTS: [&str; 13] = [
    "task_struct",
    "thread_struct",
    "mm_struct",
    "signal_struct",
    "files_struct",
    "fdtable",
    "file",
    "inode",
    "socket",
    "sock",
    "net",
    "uprobe_task",
    "return_instance",
];

/// Tracepoints that are asked for; the kernel describes each by a typedef.
const TRACEPOINTS: [&str; 2] = [SENDS, RECEIVES];

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
/// Typedef, volatile, const, restrict, type tag: the type word is what they stand for.
const TRANSPARENT_KINDS: [u32; 5] = [KIND_TYPEDEF, 9, 10, 11, 18];

/// Bytes after the common part of a type of `kind` with `vlen` elements.
fn tail_bytes(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        // ptr, fwd, typedef, volatile, const, restrict, func, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // int, var, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        KIND_STRUCT | KIND_UNION => vlen * MEMBER_BYTES,
        // enum, function prototype
        6 | 13 => vlen * 8,
        // data section, enum64
        15 | 19 => vlen * 12,
        _ => return None,
    })
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of each type in `types`; id 1 is the first.
    index: Vec<u32>,
    /// Ids of the structs named as in [`STRUCTS`], by its index.
    named: [Vec<u32>; STRUCTS.len()],
    /// Which of [`TRACEPOINTS`] there are.
    tracepoints: [bool; TRACEPOINTS.len()],
}

/// The common part of a type.
#[derive(Clone, Copy)]
struct Type<'a> {
    kind: u32,
    /// Member offsets carry a bit-field size in their upper eight bits.
    kind_flag: bool,
    name: u32,
    /// Type or size, by kind.
    word: u32,
    tail: &'a [u8],
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let malformed = |what: &str| Error::Malformed(what.to_owned());
        let word = |at| u32_at(bytes, at).ok_or_else(|| malformed("the header is cut short"));
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(malformed("no BTF magic of this byte order"));
        }
        let (header, type_off, type_len) = (word(4)?, word(8)?, word(12)?);
        let (str_off, str_len) = (word(16)?, word(20)?);
        let section = |offset: u32, len: u32| {
            let start = (header as usize).checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let types = section(type_off, type_len)
            .ok_or_else(|| malformed("the type section is outside the file"))?;
        let strings = section(str_off, str_len)
            .ok_or_else(|| malformed("the string section is outside the file"))?;

        let mut btf = Self {
            types,
            strings,
            index: vec![0],
            named: Default::default(),
            tracepoints: Default::default(),
        };
        let typedefs = TRACEPOINTS.map(|name| format!("btf_trace_{name}"));
        let mut at = 0;
        while at < types.len() {
            let id = btf.index.len();
            let found = btf.type_at(at).ok_or_else(|| {
                Error::Malformed(format!("type {id} is cut short or of an unknown kind"))
            })?;
            let start = u32::try_from(at).map_err(|_| malformed("more than 4 GiB of types"))?;
            if found.kind == KIND_STRUCT && found.name != 0 {
                let named = STRUCTS.iter().position(|name| btf.is_named(found.name, name));
                if let Some(ids) = named.and_then(|which| btf.named.get_mut(which))
                    && ids.len() < MAX_CANDIDATES
                    && let Ok(id) = u32::try_from(id)
                {
                    ids.push(id);
                }
            }
            if found.kind == KIND_TYPEDEF {
                for (which, typedef) in typedefs.iter().enumerate() {
                    btf.tracepoints[which] |= btf.is_named(found.name, typedef);
                }
            }
            at += TYPE_BYTES + found.tail.len();
            btf.index.push(start);
        }
        Ok(btf)
    }

    fn type_at(&self, at: usize) -> Option<Type<'a>> {
        let info = u32_at(self.types, at.checked_add(4)?)?;
        let kind = (info >> 24) & 0x1f;
        let start = at.checked_add(TYPE_BYTES)?;
        let end = start.checked_add(tail_bytes(kind, (info & 0xffff) as usize)?)?;
        Some(Type {
            kind,
            kind_flag: info >> 31 == 1,
            name: u32_at(self.types, at)?,
            word: u32_at(self.types, at + 8)?,
            tail: self.types.get(start..end)?,
        })
    }

    /// The type behind typedefs and qualifiers; id 0 is `void`, which has no members.
    fn resolve(&self, mut id: u32) -> Option<Type<'a>> {
        for _ in 0..MAX_DEPTH {
            let found = match id {
                0 => None,
                _ => self.type_at(*self.index.get(id as usize)? as usize),
            }?;
            if !TRANSPARENT_KINDS.contains(&found.kind) {
                return Some(found);
            }
            id = found.word;
        }
        None
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Byte offset of the member at the dotted `path` from the start of the struct called `name`.
    fn offset(&self, name: &str, path: &str) -> Result<u32, Error> {
        let which = STRUCTS.iter().position(|known| *known == name);
        let candidates = which.and_then(|which| self.named.get(which));
        candidates
            .into_iter()
            .flatten()
            .find_map(|id| self.follow(*id, path))
            .ok_or_else(|| Error::NoMember(format!("{name}.{path}")))
    }

    fn follow(&self, mut id: u32, path: &str) -> Option<u32> {
        let mut bits = 0_u32;
        for name in path.split('.') {
            let mut search = Search { name, members_left: MAX_MEMBERS };
            let (offset, member) = search.member(self, id, 0)?;
            bits = bits.checked_add(offset)?;
            id = member;
        }
        // The programs read whole bytes: a bit-field is as good as absent.
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// One search for a member, through anonymous members too, which may nest without end in hostile
/// bytes: so both its depth and the members looked at are bounded.
struct Search<'n> {
    name: &'n str,
    members_left: u32,
}

impl Search<'_> {
    /// Bit offset and type of the member in struct or union `id`.
    fn member(&mut self, btf: &Btf, id: u32, depth: u32) -> Option<(u32, u32)> {
        let owner = btf.resolve(id)?;
        if depth == MAX_DEPTH || !matches!(owner.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for member in owner.tail.chunks_exact(MEMBER_BYTES) {
            self.members_left = self.members_left.checked_sub(1)?;
            let (name, of_type) = (u32_at(member, 0)?, u32_at(member, 4)?);
            let offset = u32_at(member, 8)?;
            let offset = if owner.kind_flag { offset & 0x00ff_ffff } else { offset };
            if name == 0 {
                if let Some((inner, found)) = self.member(btf, of_type, depth + 1) {
                    return Some((offset.checked_add(inner)?, found));
                }
            } else if btf.is_named(name, self.name) {
                return Some((offset, of_type));
            }
        }
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests;
