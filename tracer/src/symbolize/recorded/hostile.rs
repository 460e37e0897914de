//! Recorded memory, changed by somebody who means harm.
//!
//! May import this module's files. Everything is chosen by proptest, so that a failure comes again with its seed
//! (`PROPTEST_RNG_SEED`).

use proptest::prelude::*;
use proptest::sample::Index;

use super::replay::Pieces;

/// So far around what was recorded there may be more memory.
const AROUND: u64 = 64 << 10;

/// A whole word of a memory: some piece, and the first or some word of it. Pieces are about as many as
/// objects, and most of the words are those of a few long tables.
type Place = (Index, Option<Index>);

fn place() -> impl Strategy<Value = Place> + Clone {
    (any::<Index>(), prop::option::weighted(0.7, any::<Index>()))
}

/// A change of one word.
#[derive(Clone, Debug)]
enum Change {
    Bit(u32),
    /// Another word of the memory.
    Other(Place),
    /// A pointer to some other place in it, with these lowest bits.
    Pointer(Place, u64),
    /// One half of it, the upper or the lower.
    Half(u64, bool),
    To(u64),
    /// The memory ends here, until the next piece.
    End,
}

/// Changes of a memory.
#[derive(Clone, Debug)]
pub(in crate::symbolize) struct Changes {
    changes: Vec<(Place, Change)>,
    /// Words of the memory that repeat beside what was recorded; none where nothing is there.
    beside: Vec<Place>,
}

/// Few or many of them: one leads further, many contradict each other.
pub(in crate::symbolize) fn changes() -> impl Strategy<Value = Changes> {
    let number = prop::sample::select(vec![0_u64, 1, 127, 128, 0x7fff_ffff, 0xffff_ffff, 1 << 20]);
    let change = prop_oneof![
        4 => (0_u32..64).prop_map(Change::Bit),
        4 => place().prop_map(Change::Other),
        4 => (place(), 0_u64..4).prop_map(|(to, tag)| Change::Pointer(to, tag)),
        // Lengths and small integers are halves of words.
        3 => (number, any::<bool>()).prop_map(|(half, upper)| Change::Half(half, upper)),
        1 => any::<u64>().prop_map(Change::To),
        1 => Just(Change::End),
    ];
    let many = prop_oneof![2 => 0_usize..4, 4 => 4_usize..64, 1 => 64_usize..400];
    let change = (place(), change);
    let changes = many.prop_flat_map(move |many| prop::collection::vec(change.clone(), many));
    let beside = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(place(), 8)];
    (changes, beside).prop_map(|(changes, beside)| Changes { changes, beside })
}

/// Memory that was changed.
#[derive(Clone)]
pub(in crate::symbolize) struct Hostile {
    pieces: Pieces,
    beside: Vec<u8>,
}

impl Changes {
    /// Makes the changes, each at some whole word.
    pub fn of(&self, pieces: &Pieces) -> Hostile {
        let words = Words::of(pieces);
        let mut changed = pieces.clone();
        for (at, change) in &self.changes {
            let at = words.address(*at);
            let Some(old) = changed.word(at) else { continue };
            let new = match change {
                Change::Bit(bit) => old ^ (1 << bit),
                Change::Other(other) => words.word(pieces, *other),
                Change::Pointer(to, tag) => words.address(*to) | tag,
                Change::Half(half, true) => (old & 0xffff_ffff) | (half << 32),
                Change::Half(half, false) => (old & !0xffff_ffff) | half,
                Change::To(word) => *word,
                Change::End => {
                    cut(&mut changed, at);
                    continue;
                }
            };
            put(&mut changed, at, new);
        }
        let beside = self.beside.iter().flat_map(|at| words.word(pieces, *at).to_le_bytes());
        Hostile { pieces: changed, beside: beside.collect() }
    }

    /// The same changes of bytes that are not in memory.
    pub fn of_bytes(&self, bytes: &mut [u8]) {
        let pieces = Pieces::of([(0, bytes.to_vec())]);
        let changed = self.of(&pieces).pieces.0.remove(&0).unwrap_or_default();
        bytes[..changed.len()].copy_from_slice(&changed);
    }
}

impl Hostile {
    pub fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        if self.pieces.read(address, into).is_some() {
            return Some(());
        }
        if self.beside.is_empty() {
            return None;
        }
        let end = address.checked_add(into.len() as u64)?;
        let from = address.saturating_sub(AROUND);
        let (start, piece) = self.pieces.0.range(..end.saturating_add(AROUND)).next_back()?;
        let near = from..start.saturating_add(piece.len() as u64).saturating_add(AROUND);
        if !near.contains(&end) {
            return None;
        }
        for (at, byte) in (address..).zip(into.iter_mut()) {
            let mut one = [0];
            *byte = match self.pieces.read(at, &mut one) {
                Some(()) => one[0],
                None => self.beside[(at % self.beside.len() as u64) as usize],
            };
        }
        Some(())
    }
}

/// Where the whole words of a memory are: where they begin in a piece, and how many there are.
struct Words(Vec<(u64, usize)>);

impl Words {
    fn of(pieces: &Pieces) -> Self {
        let words = |(start, piece): (&u64, &Vec<u8>)| {
            let first = start.next_multiple_of(8);
            let count = (start + piece.len() as u64).saturating_sub(first) / 8;
            (count > 0).then_some((first, count as usize))
        };
        Self(pieces.0.iter().filter_map(words).collect())
    }

    fn address(&self, (piece, word): Place) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let (first, count) = self.0[piece.index(self.0.len())];
        first + 8 * word.map_or(0, |word| word.index(count)) as u64
    }

    fn word(&self, pieces: &Pieces, place: Place) -> u64 {
        pieces.word(self.address(place)).unwrap_or_default()
    }
}

fn put(pieces: &mut Pieces, at: u64, word: u64) {
    if let Some((start, piece)) = pieces.0.range_mut(..=at).next_back()
        && let Some(into) = piece.get_mut((at - start) as usize..)
        && let Some(into) = into.first_chunk_mut()
    {
        *into = word.to_le_bytes();
    }
}

fn cut(pieces: &mut Pieces, at: u64) {
    if let Some((start, piece)) = pieces.0.range_mut(..=at).next_back() {
        piece.truncate((at - start) as usize);
    }
}
