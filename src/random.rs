//! Random numbers by counter: (seed, stream, index) gives the same number in any order, on any number of threads.
//! Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// One stream of random numbers. Nothing is stored between calls.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    stream: u64,
}

impl Random {
    pub fn new(seed: u64, stream: u64) -> Random {
        Random { key: [seed as u32, (seed >> 32) as u32], stream }
    }

    /// Four independent words.
    pub fn at(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32], self.key)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&self, index: u64) -> f32 {
        unit(self.at(index)[0])
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&self, index: u64) -> f32 {
        let [a, b, ..] = self.at(index);
        let radius = (-2.0 * (1.0 - f64::from(unit(a))).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(unit(b))).cos()) as f32
    }

    /// Uniform in 0..n; 0 when n is 0. The bias is below n / 2⁶⁴.
    pub fn below(&self, index: u64, n: usize) -> usize {
        let [a, b, ..] = self.at(index);
        let wide = u128::from(u64::from(a) << 32 | u64::from(b)) * n as u128;
        (wide >> 64) as usize
    }

    /// A permutation of 0..n, by Fisher and Yates.
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i + 1));
        }
        order
    }
}

fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / (1u32 << 24) as f32
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let random = Random::new(1, 2);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let x = f64::from(random.normal(i));
            sum += x;
            squares += x * x;
        }
        assert!((sum / n as f64).abs() < 0.02, "{}", sum / n as f64);
        assert!((squares / n as f64 - 1.0).abs() < 0.02, "{}", squares / n as f64);
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Random::new(7, 0).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
