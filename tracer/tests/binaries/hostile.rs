//! Broken and hostile files: everything is read or refused, and nothing panics.

use std::{fs, sync::LazyLock};

use proptest::prelude::*;
use tracer::{
    binary::{
        elf::{Elf, ElfError},
        pclntab::{Error, GoTable},
        rets,
    },
    pools::{Catalogue, ProbeTable, inspect},
};

use super::build::{Go, Mode};

type Places = Vec<(usize, usize)>;

fn read_all(data: &[u8]) {
    let catalogue = Catalogue::embedded().expect("catalogue");
    let mut probes = ProbeTable::new(&catalogue).expect("fits");
    let _ = inspect(data, &catalogue, &mut probes);
    if let Ok(elf) = Elf::parse(data) {
        let _ = (elf.build_id(), elf.is_go(), elf.is_relocatable());
        let _ = elf.relative_relocations().count();
    }
    if let Ok(table) = GoTable::parse(data) {
        for function in table.functions().step_by(97) {
            table.resolve(function.start);
            table.resolve(function.end - 1);
        }
        let _ = table.find("main.main").count();
        let _ = table.inlined_into("database/sql.(*DB).putConn").count();
    }
}

/// A small Go executable, and the places of its tables as (offset, size).
static GO: LazyLock<(Vec<u8>, Places)> = LazyLock::new(|| {
    let data = fs::read(Go::System.build("small", Mode::StrippedPie, &[])).expect("read");
    let elf = Elf::parse(&data).expect("ELF");
    let mut places = vec![(0, 1024)];
    for name in [".gopclntab", ".noptrdata", ".data", ".dynamic", ".rela", ".dynsym", ".rela.dyn"] {
        if let Some(section) = elf.section(name) {
            places.push((section.offset as usize, section.size as usize));
        }
    }
    let table = elf.section(".gopclntab").or(elf.section(".data.rel.ro.gopclntab"));
    let header = table.expect("function table").offset as usize;
    places.extend([(header, 96), (header, 96)]);
    drop(elf);
    (data, places)
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn arbitrary_bytes_are_refused(data in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(matches!(Elf::parse(&data), Err(ElfError::Malformed(_))));
        prop_assert!(matches!(GoTable::parse(&data[..]), Err(Error::Elf(_))));
    }

    #[test]
    fn arbitrary_code_has_only_rets_that_are_rets(
        code in proptest::collection::vec(any::<u8>(), 0..64),
        start: u64,
    ) {
        if let Ok(exits) = rets::exits(&code, start) {
            for at in exits.returns {
                let rest = &code[(at - start) as usize..];
                prop_assert!(rest.iter().take(15).any(|byte| [0xc2, 0xc3].contains(byte)));
            }
        }
        let _ = rets::loads_from_first_argument(&code);
    }

    #[test]
    fn a_damaged_executable_does_no_harm(
        damage in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<u64>(), 0..4u8), 1..6),
        cut: Option<usize>,
    ) {
        let (data, places) = &*GO;
        let mut data = data.clone();
        for (place, at, value, width) in damage {
            let (start, size) = places[place % places.len()];
            let at = start + at % size;
            let bytes = &value.to_le_bytes()[..1 << width];
            if let Some(to) = data.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        }
        if let Some(cut) = cut {
            data.truncate(cut % data.len());
        }
        read_all(&data);
    }
}

#[test]
fn the_undamaged_executable_is_read() {
    let table = GoTable::parse(&*GO.0).expect("table");
    assert_eq!(table.find("main.main").count(), 1);
    read_all(&GO.0);
}

#[test]
fn a_table_whose_functions_are_not_in_order_is_refused() {
    for go in [Go::System, Go::Newest] {
        let mut data = fs::read(go.build("small", Mode::Stripped, &[])).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let table = elf.section(".gopclntab").expect("function table").offset as usize;
        // `pcHeader.pclnOffset`; the functions begin there, eight bytes each.
        let offset = data[table + 64..table + 72].try_into().map(u64::from_le_bytes);
        let functions = table + offset.expect("eight bytes") as usize;
        data[functions + 8..functions + 12].fill(0xff);
        assert_eq!(GoTable::parse(data).map(|table| table.len()), Err(Error::Malformed), "{go:?}");
    }
}

#[test]
fn tables_are_found_without_a_section_table() {
    for go in [Go::System, Go::V1_24, Go::Newest] {
        for mode in [Mode::Stripped, Mode::StrippedPie] {
            let mut data = fs::read(go.build("small", mode, &[])).expect("read");
            let with = GoTable::parse(data.clone()).expect("table");
            // e_shoff, e_shnum and e_shstrndx of the ELF header.
            data[0x28..0x30].fill(0);
            data[0x3c..0x40].fill(0);
            let without = GoTable::parse(data).expect("table");
            assert!(with.functions().eq(without.functions()), "{go:?} {mode:?}");
        }
    }
}
