//! Exchange between the lanes of a warp.

use crate::program::{LANES, POISON, Row, Shuffle};

/// `shfl.sync`: the value that each lane receives, and a bit for each lane whose source is within its segment. A lane
/// that is not among `members` gives poison.
pub fn shuffle(mode: Shuffle, value: &Row, by: &Row, clamp: &Row, members: &Row) -> (Row, u32) {
    let mut inside = 0;
    let out = std::array::from_fn(|l| {
        let lane = l as i32;
        let (b, c) = (by[l] as i32 & 31, clamp[l] as i32 & 31);
        let segment = (clamp[l] >> 8) as i32 & 31;
        let last = (lane & segment) | (c & !segment);
        let (from, within) = match mode {
            Shuffle::Up => (lane - b, lane - b >= last),
            Shuffle::Down => (lane + b, lane + b <= last),
            Shuffle::Bfly => (lane ^ b, lane ^ b <= last),
            Shuffle::Idx => ((lane & segment) | (b & !segment), ((lane & segment) | (b & !segment)) <= last),
        };
        if !within {
            return value[l];
        }
        inside |= 1 << l;
        match value.get(from as usize) {
            Some(&v) if members[l] >> from & 1 == 1 => v,
            _ => POISON,
        }
    });
    (out, inside)
}

/// `match.any.sync`: the lanes that have the same value.
pub fn match_any(value: &Row, members: &Row, mask: u32) -> Row {
    std::array::from_fn(|l| {
        let same = (0..LANES).filter(|&k| mask & members[l] & 1 << k != 0 && value[k] == value[l]);
        same.fold(0, |out, k| out | 1 << k)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::ALL;

    fn lanes() -> Row {
        std::array::from_fn(|l| l as u32)
    }

    #[test]
    fn modes_and_their_predicates() {
        let value = lanes().map(|l| l * 10);
        let (up, inside) = shuffle(Shuffle::Up, &value, &[3; 32], &[0; 32], &[ALL; 32]);
        assert_eq!((up[2], up[3], inside), (20, 0, ALL << 3));
        let (down, inside) = shuffle(Shuffle::Down, &value, &[1; 32], &[31; 32], &[ALL; 32]);
        assert_eq!((down[0], down[31], inside), (10, 310, ALL >> 1));
        let (bfly, inside) = shuffle(Shuffle::Bfly, &value, &[16; 32], &[31; 32], &[ALL; 32]);
        assert_eq!((bfly[0], bfly[17], inside), (160, 10, ALL));
        // Segments of 8 lanes: mask 0x18 in bits 8 to 12.
        let (idx, _) = shuffle(Shuffle::Idx, &value, &[2; 32], &[0x181f; 32], &[ALL; 32]);
        assert_eq!((idx[0], idx[9], idx[31]), (20, 100, 260));
        let (down, inside) = shuffle(Shuffle::Down, &value, &[1; 32], &[0x181f; 32], &[ALL; 32]);
        assert_eq!((down[7], inside), (70, 0x7f7f_7f7f));
    }

    #[test]
    fn absent_lanes_give_poison() {
        let (value, _) = shuffle(Shuffle::Idx, &lanes(), &[20; 32], &[31; 32], &[0xffff; 32]);
        assert_eq!(value[0], POISON);
        let same = match_any(&lanes().map(|l| l % 3), &[0xff; 32], 0xff);
        assert_eq!(same[0], 0b0100_1001);
    }
}
