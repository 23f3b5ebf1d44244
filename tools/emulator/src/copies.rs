//! `cp.async`: copies that are on their way from global to shared memory.

use crate::program::LANES;

/// One copy of one lane. Bytes were read when it was issued; they land when its group is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub lane: u32,
    group: u32,
    pub at: u32,
    pub size: u8,
    pub bytes: [u8; 16],
}

/// The copies of a warp's lanes.
#[derive(Debug, Default)]
pub struct Copies {
    pending: Vec<Pending>,
    /// Groups that each lane has committed.
    committed: [u32; LANES],
}

impl Copies {
    pub fn reset(&mut self) {
        self.pending.clear();
        self.committed = [0; LANES];
    }

    pub fn begin(&mut self, lane: u32, at: u32, size: u8, bytes: [u8; 16]) {
        let group = self.committed[lane as usize];
        self.pending.push(Pending { lane, group, at, size, bytes });
    }

    pub fn commit(&mut self, mask: u32) {
        for (lane, groups) in self.committed.iter_mut().enumerate() {
            *groups += mask >> lane & 1;
        }
    }

    /// Takes out what has landed for the lanes of `mask` when all but the latest `leave` groups are complete; with
    /// `None` everything, committed or not.
    pub fn land(&mut self, mask: u32, leave: Option<u32>) -> Vec<Pending> {
        let committed = self.committed;
        let landed = |p: &Pending| {
            let before = leave.map_or(u32::MAX, |leave| committed[p.lane as usize].saturating_sub(leave));
            mask >> p.lane & 1 == 1 && p.group < before
        };
        let out = self.pending.iter().copied().filter(|p| landed(p)).collect();
        self.pending.retain(|p| !landed(p));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_land_in_order() {
        let mut copies = Copies::default();
        copies.begin(0, 0, 16, [1; 16]);
        copies.commit(1);
        copies.begin(0, 16, 16, [2; 16]);
        copies.commit(1);
        copies.begin(0, 32, 16, [3; 16]);
        assert!(copies.land(1, Some(2)).is_empty());
        let first: Vec<u32> = copies.land(1, Some(1)).iter().map(|p| p.at).collect();
        assert_eq!(first, [0]);
        // A group that was not committed does not count.
        let second: Vec<u32> = copies.land(1, Some(0)).iter().map(|p| p.at).collect();
        assert_eq!(second, [16]);
        assert!(copies.land(2, None).is_empty());
        assert_eq!(copies.land(1, None).len(), 1);
    }
}
