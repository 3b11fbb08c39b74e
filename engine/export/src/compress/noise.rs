//! Tells bytes that deflate cannot make smaller from those that it can, much faster than deflate
//! itself finds out: random, encrypted and already compressed data.
//!
//! Deflate gains in two ways, and each is estimated: by coding frequent bytes in fewer bits
//! (the distribution of the bytes says how many), and by naming what came before (a sample of
//! the positions is looked up). All arithmetic is on integers, so that every machine decides the
//! same.

/// Bytes that are judged together. Half of it is deflate's window.
pub(crate) const SEGMENT: usize = 64 << 10;
/// Fewer bytes are not judged: chance alone would make their distribution uneven.
const MIN: usize = 16 << 10;

/// How far the sum of the squares of the bytes' frequencies may be above that of a uniform
/// distribution, in thousandths. Then no code of single bytes saves more than 1.4 %:
/// the collision entropy, 8 - log2(1.1) bits, is a lower bound of Shannon's.
const UNEVEN: u64 = 1100;

/// Distance between positions that are remembered.
const STRIDE: usize = 16;
/// Of every so many positions, [`STRIDE`] are looked up.
const WINDOW: usize = 256;
/// One in so many lookups may succeed: at most 1.6 % of a segment then repeats.
const LOOKUPS_PER_HIT: usize = 1024;
/// How far back deflate can point.
const REACH: usize = 32 << 10;

/// Whether deflating these bytes, at most [`SEGMENT`] of them, would be in vain.
pub(crate) fn is_noise(segment: &[u8]) -> bool {
    segment.len() >= MIN && is_even(segment) && !repeats(segment)
}

/// Whether all bytes are about as frequent.
fn is_even(segment: &[u8]) -> bool {
    // Four tables, because to count the same byte twice in a row in one means to wait.
    let mut counts = [[0_u32; 256]; 4];
    let (words, rest) = segment.as_chunks::<8>();
    for word in words {
        for (index, byte) in word.iter().enumerate() {
            counts[index % 4][usize::from(*byte)] += 1;
        }
    }
    for byte in rest {
        counts[0][usize::from(*byte)] += 1;
    }
    let count = |byte: usize| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>();
    let squares: u64 = (0..256).map(|byte| count(byte).pow(2)).sum();
    squares * 256 * 1000 <= (segment.len() as u64).pow(2) * UNEVEN
}

/// Whether more than a little of the segment is near in front of it already.
fn repeats(segment: &[u8]) -> bool {
    const SLOTS: usize = 4096;
    let slot = |word: u64| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % SLOTS;
    let word = |at: usize| segment[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    // Positions in strides, counted from 1: 0 is none.
    let mut seen = [0_u16; SLOTS];
    let mut hits = 0;
    for window in (0..segment.len()).step_by(WINDOW) {
        for at in window..window + STRIDE {
            let Some(here) = word(at) else { break };
            let before = usize::from(seen[slot(here)]);
            let Some(before) = before.checked_sub(1).map(|stride| stride * STRIDE) else {
                continue;
            };
            hits += usize::from(at - before <= REACH && word(before) == Some(here));
        }
        for at in (window..window + WINDOW).step_by(STRIDE) {
            let Some(here) = word(at) else { break };
            seen[slot(here)] = u16::try_from(at / STRIDE + 1).unwrap_or(0);
        }
    }
    hits * LOOKUPS_PER_HIT > segment.len() / WINDOW * STRIDE
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Not the lower bits of a linear generator: those repeat.
    fn random(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        out.write_all(data).expect("memory");
        out.finish().expect("memory")
    }

    #[test]
    fn what_does_not_compress_is_noise() {
        let noise = random(SEGMENT, 1);
        assert!(is_noise(&noise));
        assert!(is_noise(&noise[..MIN]));
        let numbers: String = (0..200_000_u64).map(|n| format!("{} ", n * n)).collect();
        let packed = gzip(numbers.as_bytes());
        assert!(is_noise(&packed[1000..1000 + SEGMENT]));
    }

    #[test]
    fn what_compresses_is_not() {
        let noise = random(SEGMENT, 2);
        let halves = [&noise[..SEGMENT / 2], &noise[..SEGMENT / 2]].concat();
        let blocks: Vec<u8> = noise.chunks(512).flat_map(|part| [part, part].concat()).collect();
        let digits: Vec<u8> =
            noise.iter().map(|byte| b"0123456789abcdef"[*byte as usize % 16]).collect();
        let sparse: Vec<u8> =
            noise.iter().enumerate().map(|(n, byte)| if n % 4 == 0 { 0 } else { *byte }).collect();
        let zeros = [&noise[..SEGMENT - 4096], &[0; 4096][..]].concat();
        for (name, data) in [
            ("a half twice", &halves[..]),
            ("blocks twice", &blocks[..SEGMENT]),
            ("digits", &digits),
            ("sparse", &sparse),
            ("zeros at the end", &zeros),
            ("zeros", &[0; SEGMENT]),
            ("too little to tell", &noise[..MIN - 1]),
        ] {
            assert!(!is_noise(data), "{name}");
        }
    }

    /// Whatever is called noise, deflate gains next to nothing on it.
    #[test]
    fn little_is_lost() {
        let mut judged = 0;
        for bits in 1..=8_u32 {
            for share in 0..=8 {
                // Bytes of fewer bits, and repetitions, in all proportions.
                let data: Vec<u8> = random(SEGMENT, u64::from(bits))
                    .chunks(64)
                    .enumerate()
                    .flat_map(|(n, part)| {
                        let narrow = n % 8 < share;
                        let byte = move |b: &u8| if narrow { b >> (8 - bits) } else { *b };
                        part.iter().map(byte).collect::<Vec<u8>>()
                    })
                    .collect();
                if is_noise(&data) {
                    judged += 1;
                    let packed = gzip(&data).len();
                    assert!(packed * 100 > data.len() * 97, "{bits} bits, {share}/8: {packed}");
                }
            }
        }
        assert!(judged > 0, "something is noise");
    }
}
