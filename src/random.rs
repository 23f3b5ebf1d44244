//! Random numbers that depend on (seed, stream, index) and on nothing else, so that data, initial weights and dropout
//! do not change with batch size, thread count or order.
//!
//! Philox4x32-10, from Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): the seed
//! is the key, the index fills the low half of the counter and the stream the high half.

const MULTIPLIERS: (u32, u32) = (0xD251_1F53, 0xCD9E_8D57);
const WEYL: (u32, u32) = (0x9E37_79B9, 0xBB67_AE85);
const ROUNDS: usize = 10;

/// One stream of random numbers; `Copy`, without state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    stream: u64,
}

impl Random {
    /// Streams of one seed are independent of each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream }
    }

    /// The 128 random bits at `index`.
    pub fn at(&self, index: u64) -> [u32; 4] {
        let counter = [low(index), high(index), low(self.stream), high(self.stream)];
        philox(counter, [low(self.seed), high(self.seed)])
    }

    /// The 64 low random bits at `index`.
    pub fn bits(&self, index: u64) -> u64 {
        let [a, b, ..] = self.at(index);
        u64::from(a) | u64::from(b) << 32
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻²⁴.
    pub fn uniform(&self, index: u64) -> f32 {
        let [a, ..] = self.at(index);
        (a >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal (Box–Muller, computed in f64).
    pub fn normal(&self, index: u64) -> f32 {
        let [a, b, ..] = self.at(index);
        // The half keeps the logarithm away from zero.
        let u = (f64::from(a) + 0.5) / 4_294_967_296.0;
        let v = f64::from(b) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Standard normals for all of `out`, four from each of the blocks `first`, `first + 1`, …: several times as quick
    /// as [`Random::normal`], from which its numbers differ (Box–Muller in both of its coordinates, in f64).
    pub fn fill_normal(&self, first: u64, out: &mut [f32]) {
        for (block, four) in out.chunks_mut(4).enumerate() {
            let [a, b, c, d] = self.at(first.wrapping_add(block as u64));
            for (two, (a, b)) in four.chunks_mut(2).zip([(a, b), (c, d)]) {
                // The half keeps the logarithm away from zero.
                let u = (f64::from(a) + 0.5) / 4_294_967_296.0;
                let radius = (-2.0 * u.ln()).sqrt();
                let (sin, cos) = (std::f64::consts::TAU * (f64::from(b) / 4_294_967_296.0)).sin_cos();
                two.iter_mut().zip([cos, sin]).for_each(|(place, part)| *place = (radius * part) as f32);
            }
        }
    }

    /// Uniform in `0..n`; 0 if `n` is 0. The bias is below n · 2⁻⁶⁴.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// A random order of `0..n` (Fisher–Yates; the numbers at indices 0 to n are used).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            let other = self.below(last as u64, last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }
}

fn low(x: u64) -> u32 {
    x as u32
}

fn high(x: u64) -> u32 {
    (x >> 32) as u32
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS.0) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS.1) * u64::from(counter[2]);
        counter = [high(right) ^ counter[1] ^ key[0], low(right), high(left) ^ counter[3] ^ key[1], low(left)];
        key = [key[0].wrapping_add(WEYL.0), key[1].wrapping_add(WEYL.1)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn seed_stream_and_index_reach_key_and_counter() {
        assert_eq!(Random::new(0, 0).at(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let pi = Random::new(0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e).at(0x85a3_08d3_243f_6a88);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let random = Random::new(5, 9);
        let n = 200_000_u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| f64::from(random.uniform(i))) - 0.5).abs() < 0.003);
        assert!(mean(&|i| f64::from(random.normal(i))).abs() < 0.01);
        assert!((mean(&|i| f64::from(random.normal(i)).powi(2)) - 1.0).abs() < 0.02);
        assert!((mean(&|i| f64::from(random.normal(i)).powi(4)) - 3.0).abs() < 0.2);
        assert!((0..n).all(|i| (0.0..1.0).contains(&random.uniform(i))));
    }

    #[test]
    fn filled_normals_are_normal_independent_and_do_not_depend_on_the_length() {
        let random = Random::new(6, 2);
        let mut many = vec![0.0; 200_002];
        random.fill_normal(3, &mut many);
        let mut few = [0.0; 7];
        random.fill_normal(4, &mut few);
        assert_eq!(few, many[4..11]);
        let mean = |f: &dyn Fn(usize) -> f32| (0..200_000).map(|i| f64::from(f(i))).sum::<f64>() / 200_000.0;
        assert!(mean(&|i| many[i]).abs() < 0.01);
        assert!((mean(&|i| many[i].powi(2)) - 1.0).abs() < 0.02);
        assert!((mean(&|i| many[i].powi(4)) - 3.0).abs() < 0.2);
        for lag in [1, 2] {
            assert!(mean(&|i| many[i] * many[i + lag]).abs() < 0.01);
            assert!((mean(&|i| (many[i] * many[i + lag]).powi(2)) - 1.0).abs() < 0.05);
        }
    }

    #[test]
    fn below_covers_its_range_and_never_leaves_it() {
        let random = Random::new(1, 2);
        let mut seen = [0_u32; 7];
        for i in 0..7000 {
            seen[random.below(i, 7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert_eq!(random.below(3, 0), 0);
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        for n in [0, 1, 2, 257] {
            let mut order = Random::new(n as u64, 3).permutation(n);
            assert!(n < 100 || order.iter().enumerate().any(|(i, &o)| i != o));
            order.sort_unstable();
            assert!(order.into_iter().eq(0..n));
        }
    }
}
