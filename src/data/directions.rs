//! Directions in feature space that follow from a name: what generated worlds are built from.

use crate::random::Random;

/// FNV-1a, 64 bits: a stream number from a name, the same on every machine and in every version.
pub fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A unit vector `[dim]`, uniform on the sphere, that belongs to `name`.
pub fn direction(seed: u64, name: &str, dim: usize) -> Vec<f32> {
    let random = Random::new(seed, stream_of(name));
    let mut vector: Vec<f32> = (0..dim as u64).map(|i| random.normal(i)).collect();
    make_unit(&mut vector);
    vector
}

/// Scales to length 1; a vector of zeros stays as it is.
pub fn make_unit(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

/// `into += scale · what`.
pub fn add(into: &mut [f32], scale: f32, what: &[f32]) {
    for (i, w) in into.iter_mut().zip(what) {
        *i += scale * w;
    }
}

/// Adds noise of expected length `scale`, from the numbers of `random` at `row · dim …`.
pub fn add_noise(into: &mut [f32], scale: f32, random: Random, row: usize) {
    let dim = into.len();
    let each = scale / (dim.max(1) as f32).sqrt();
    for (c, i) in into.iter_mut().enumerate() {
        *i += each * random.normal((row * dim + c) as u64);
    }
}

/// Appends the sentence vector, the mean of all rows scaled to length 1, as the last row of `[rows, dim]`.
pub fn push_sentence(rows: &mut Vec<f32>, dim: usize) {
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(dim.max(1)) {
        add(&mut mean, 1.0, row);
    }
    make_unit(&mut mean);
    rows.extend(mean);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn directions_are_units_that_differ_by_name_and_seed() {
        let dog = direction(1, "dog", 256);
        assert!((dot(&dog, &dog) - 1.0).abs() < 1e-5);
        assert_eq!(dog, direction(1, "dog", 256));
        assert!(dot(&dog, &direction(1, "cat", 256)).abs() < 0.4);
        assert!(dot(&dog, &direction(2, "dog", 256)).abs() < 0.4);
    }

    #[test]
    fn the_sentence_is_the_mean_and_comes_last() {
        let mut rows = vec![1.0, 0.0, 0.0, 1.0];
        push_sentence(&mut rows, 2);
        assert!((rows[4] - 0.5_f32.sqrt()).abs() < 1e-6 && rows.len() == 6);
    }
}
