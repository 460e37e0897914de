//! What is known of a goroutine's record against what each toolchain itself says of it.

use std::collections::BTreeMap;
use std::fs;

use gimli::{AttributeValue, Dwarf, EndianSlice, LittleEndian, SectionId};
use tracer::binary::elf::Elf;
use tracer::binary::go;

use super::build::{Go, MATRIX, Mode};

const ALL: [Go; 3] = [Go::System, Go::V1_24, Go::Newest];

/// The members of a struct by name, as the debug information has them.
fn members(elf: &Elf<'_>, wanted: &str) -> BTreeMap<String, usize> {
    let section = |id: SectionId| {
        let section = elf.section(id.name());
        let bytes =
            section.and_then(|s| elf.data().get(s.offset as usize..)?.get(..s.size as usize));
        Ok::<_, gimli::Error>(EndianSlice::new(bytes.unwrap_or_default(), LittleEndian))
    };
    let dwarf = Dwarf::load(section).expect("sections");
    let mut units = dwarf.units();
    while let Some(header) = units.next().expect("a unit") {
        let unit = dwarf.unit(header).expect("a unit");
        let mut tree = unit.entries_tree(None).expect("entries");
        let mut types = tree.root().expect("a root").children();
        while let Some(node) = types.next().expect("an entry") {
            let entry = node.entry();
            let name = |value| dwarf.attr_string(&unit, value).expect("a name").to_string_lossy();
            let is_struct = entry.tag() == gimli::DW_TAG_structure_type;
            let is_wanted =
                entry.attr_value(gimli::DW_AT_name).is_some_and(|at| name(at) == wanted);
            if !is_struct || !is_wanted {
                continue;
            }
            let mut found = BTreeMap::new();
            let mut members = node.children();
            while let Some(member) = members.next().expect("an entry") {
                let entry = member.entry();
                let at = entry.attr_value(gimli::DW_AT_data_member_location);
                let at = at.as_ref().and_then(AttributeValue::udata_value).expect("a place");
                let named = entry.attr_value(gimli::DW_AT_name).expect("a name");
                found.insert(name(named).into_owned(), at as usize);
            }
            return found;
        }
    }
    panic!("no {wanted}");
}

#[test]
fn the_record_of_a_goroutine_is_as_the_debug_information_has_it() {
    for toolchain in ALL {
        let program = toolchain.build("small", Mode::Default, &["-ldflags=-compressdwarf=false"]);
        let data = fs::read(program).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let known = go::layout(&elf).expect("a version that is known");
        let (g, sched) = (members(&elf, "runtime.g"), members(&elf, "runtime.gobuf"));
        let within = |name| g["sched"] + sched[name];
        assert_eq!(g["stack"], 0, "{toolchain:?}");
        let told =
            [known.sp, known.pc, known.own, known.bp, known.status, known.goid, known.reason];
        let wanted = ["sp", "pc", "g", "bp"].map(within).into_iter();
        let wanted = wanted.chain(["atomicstatus", "goid", "waitreason"].map(|name| g[name]));
        assert!(told.into_iter().eq(wanted), "{toolchain:?}: {known:?} {g:?} {sched:?}");
        let told = (Some(known.syscall_sp), Some(known.syscall_pc), known.syscall_bp);
        let at = |name| g.get(name).copied();
        let wanted = (at("syscallsp"), at("syscallpc"), at("syscallbp"));
        assert_eq!(told, wanted, "{toolchain:?}");
        // What changes with every turn is read with the rest.
        assert!(g["trackingSeq"] < go::RECORD_BYTES, "{toolchain:?}");
    }
}

#[test]
fn the_words_for_what_goroutines_wait_for_are_those_of_the_runtime() {
    for toolchain in ALL {
        let data = fs::read(toolchain.build("small", Mode::Default, &[])).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let known = go::layout(&elf).expect("a version that is known");
        let mut symbols = elf.definitions();
        let table = symbols.find(|symbol| symbol.name == b"runtime.waitReasonStrings");
        let table = table.expect("the runtime's words");
        let bytes = elf.bytes(table.vaddr, table.vaddr + table.size).expect("in the file");
        let words = bytes.as_chunks::<16>().0.iter().map(|header| {
            let word =
                |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("a word"));
            let text = (word(8) > 0).then(|| elf.bytes(word(0), word(0) + word(8)));
            str::from_utf8(text.map_or(Some(&[][..]), |text| text).expect("in the file"))
        });
        let words: Vec<_> = words.map(|word| word.expect("UTF-8")).collect();
        let told: Vec<_> = (0..=u8::MAX).map_while(|reason| known.words(reason)).collect();
        assert_eq!(told, words, "{toolchain:?}");
    }
}

#[test]
fn the_version_is_known_however_a_program_was_linked() {
    for (toolchain, mode) in MATRIX {
        let mut data = fs::read(toolchain.build("small", mode, &[])).expect("read");
        let known = go::layout(&Elf::parse(&data).expect("ELF"));
        assert!(known.is_some(), "{toolchain:?} {mode:?}");
        // Without a section table.
        data[0x28..0x30].fill(0);
        data[0x3c..0x40].fill(0);
        let found = go::layout(&Elf::parse(&data).expect("ELF"));
        assert_eq!(found, known, "{toolchain:?} {mode:?}");
    }
}
