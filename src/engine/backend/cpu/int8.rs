//! Kernels of `quantize_rows` and `linear_int8`.
//!
//! `b` is laid out anew in panels of 64 rows, in which four codes of each row stand side by side; a tile of 6 × 64 sums
//! stays in registers. Sums are exact integers, so the processor's instructions, parts and threads change no bit.
//!
//! # Notebook
//! Instructions for the product of a byte of each side multiply an unsigned one with a signed one. With VNNI codes of
//! `b` are stored with 128 added, and 128 · Σ a is taken from each sum: modulo 2³² that is exact. Before VNNI sums of
//! two products saturate at 16 bits: there |a| is multiplied with b under the sign of a, and 2 · 127² fits. That is
//! four instructions for 32 products, as many as f32 takes; it saves memory and no time.
//!
//! 1536 × 512 × 512 on one core of an EPYC of family 26 (AVX-512 VNNI), beside `linear` in f32 of that shape, and
//! all-MiniLM-L6-v2 on 10,000 captions beside itself in f32; the cores were busy but for the first figure:
//!
//! | | product | encoder |
//! |---|---|---|
//! | an epilogue a row | 2.96 to 3.04 times as fast | 1.60 to 1.78 |
//! | an epilogue a tile | 2.22 to 2.78 | 1.81 to 2.53 |
//! | the same, its values in one place (now) | 2.28 to 3.83 | 2.02 to 2.41 |
//!
//! Quantising `a` takes a fifth of the product's time; it took four fifths when codes were found with branches.

use super::Call;
use super::lanes::simd;
use super::quant::{code, largest};
use crate::engine::op::int8::CODES;
use crate::engine::op::quant::SMALLEST;
use rayon::prelude::*;

/// Rows that one task quantises.
const QUANTISED: usize = 16;
/// Rows of `b` in a panel: four of the widest vectors.
const COLS: usize = 64;
/// Rows of `a` in a tile of sums.
const ROWS: usize = 6;
/// Rows of `a` that one task multiplies with all panels.
const PART: usize = 48;
/// Words of a row that are moved into a panel at a time: a line of the cache.
const LINE: usize = 16;

type Sums = [[i32; COLS]; ROWS];

pub fn quantize_rows(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [x, mut codes, mut scales] = call.args();
    let (x, codes, scales) = (x.f32(), codes.u32_mut(), scales.f32_mut());
    let words = cols.div_ceil(CODES);
    if cols == 0 {
        scales[..rows].fill(0.0);
        return;
    }
    let parts = scales[..rows].par_chunks_mut(QUANTISED).zip(codes[..rows * words].par_chunks_mut(QUANTISED * words));
    parts.zip(x.par_chunks(QUANTISED * cols)).for_each(|((scales, codes), x)| {
        simd(
            #[inline(always)]
            || {
                let rows = codes.chunks_exact_mut(words).zip(x.chunks_exact(cols));
                for (scale, (codes, x)) in scales.iter_mut().zip(rows) {
                    *scale = quantize(x, bytemuck::cast_slice_mut(codes));
                }
            },
        );
    });
}

/// Writes the codes of a row and returns its scale.
#[inline(always)]
fn quantize(x: &[f32], codes: &mut [u8]) -> f32 {
    /// Adding 1.5·2²³ leaves an integer in the low bits.
    const INTEGER: f32 = 12_582_912.0;
    let m = largest(x);
    codes[x.len()..].fill(0);
    let codes = &mut codes[..x.len()];
    // No code shows a NaN or an infinity, so the scale does.
    let mut none = [0.0f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    whole.iter().for_each(|x| none.iter_mut().zip(x).for_each(|(none, x)| *none += x * 0.0));
    let none = none.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>();
    if m > SMALLEST {
        let inverse = 1.0 / m;
        codes.iter_mut().zip(x).for_each(|(byte, x)| *byte = (code(*x, m, inverse) + INTEGER).to_bits() as u8);
        m * (1.0 / 127.0) + none
    } else {
        codes.fill(0);
        none
    }
}

/// Words of the panels of `n` rows of so many words.
pub fn panel_words(n: usize, words: usize) -> usize {
    n.next_multiple_of(COLS) * words
}

/// Which instructions multiply.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Path {
    #[cfg(target_arch = "x86_64")]
    Vnni512,
    #[cfg(target_arch = "x86_64")]
    Vnni256,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Path {
    /// Those that this machine has, the fastest first.
    fn all() -> impl Iterator<Item = Path> {
        #[cfg(target_arch = "x86_64")]
        let special = [
            (Path::Vnni512, is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")),
            (Path::Vnni256, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni")),
            (Path::Avx2, is_x86_feature_detected!("avx2")),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [(Path, bool); 0] = [];
        special.into_iter().filter(|(_, there)| *there).map(|(path, _)| path).chain([Path::Plain])
    }

    /// What is added to each code of `b`, bit by bit.
    fn flip(self) -> u32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Vnni512 | Path::Vnni256 => 0x8080_8080,
            _ => 0,
        }
    }

    /// `sums[r][c] = Σ a[r] · panel[c]` over the words of M rows and a panel.
    fn tile<const M: usize>(self, a: [&[u32]; M], panel: &[u32], sums: &mut Sums) {
        match self {
            // SAFETY: `all` names a path only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            Path::Vnni512 => unsafe { x86::vnni512(a, panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Vnni256 => unsafe { x86::vnni256(a, panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { x86::avx2(a, panel, sums) },
            Path::Plain => simd(
                #[inline(always)]
                || plain(a, panel, sums),
            ),
        }
    }
}

#[inline(always)]
fn plain<const M: usize>(a: [&[u32]; M], panel: &[u32], sums: &mut Sums) {
    sums.iter_mut().for_each(|row| row.fill(0));
    for (w, b) in panel.as_chunks::<COLS>().0.iter().enumerate() {
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = a[w].to_le_bytes().map(|byte| i32::from(byte as i8));
            for (sum, b) in sums.iter_mut().zip(b) {
                let b = *b as i32;
                *sum += a[0] * (b << 24 >> 24) + a[1] * (b << 16 >> 24) + a[2] * (b << 8 >> 24) + a[3] * (b >> 24);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLS, Sums};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn load512(x: &[u32; 16]) -> __m512i {
        // SAFETY: the reference is to 64 bytes; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx")]
    fn load256(x: &[u32; 8]) -> __m256i {
        // SAFETY: the reference is to 32 bytes; the load asks for no alignment.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx")]
    fn store256(to: &mut [i32; 8], x: __m256i) {
        // SAFETY: the reference is to 32 bytes; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni512<const M: usize>(a: [&[u32]; M], panel: &[u32], sums: &mut Sums) {
        let panel = panel.as_chunks::<COLS>().0;
        let a = a.map(|a| &a[..panel.len()]);
        let mut all = [[_mm512_setzero_si512(); 4]; M];
        for (w, b) in panel.iter().enumerate() {
            let b = b.as_chunks::<16>().0;
            let b: [__m512i; 4] = std::array::from_fn(|v| load512(&b[v]));
            for r in 0..M {
                let a = _mm512_set1_epi32(a[r][w] as i32);
                for v in 0..4 {
                    all[r][v] = _mm512_dpbusd_epi32(all[r][v], b[v], a);
                }
            }
        }
        for (sums, all) in sums.iter_mut().zip(&all) {
            for (sums, x) in sums.as_chunks_mut::<16>().0.iter_mut().zip(all) {
                // SAFETY: the reference is to 64 bytes; the store asks for no alignment.
                unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), *x) };
            }
        }
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn vnni256<const M: usize>(a: [&[u32]; M], panel: &[u32], sums: &mut Sums) {
        let panel = panel.as_chunks::<COLS>().0;
        let a = a.map(|a| &a[..panel.len()]);
        for at in (0..COLS / 8).step_by(2) {
            let mut all = [[_mm256_setzero_si256(); 2]; M];
            for (w, b) in panel.iter().enumerate() {
                let b = b.as_chunks::<8>().0;
                let b = [load256(&b[at]), load256(&b[at + 1])];
                for r in 0..M {
                    let a = _mm256_set1_epi32(a[r][w] as i32);
                    for v in 0..2 {
                        all[r][v] = _mm256_dpbusd_avx_epi32(all[r][v], b[v], a);
                    }
                }
            }
            for (sums, all) in sums.iter_mut().zip(all) {
                let sums = sums.as_chunks_mut::<8>().0;
                store256(&mut sums[at], all[0]);
                store256(&mut sums[at + 1], all[1]);
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2<const M: usize>(a: [&[u32]; M], panel: &[u32], sums: &mut Sums) {
        let panel = panel.as_chunks::<COLS>().0;
        let a = a.map(|a| &a[..panel.len()]);
        let ones = _mm256_set1_epi16(1);
        for at in 0..COLS / 8 {
            let mut all = [_mm256_setzero_si256(); M];
            for (w, b) in panel.iter().enumerate() {
                let b = load256(&b.as_chunks::<8>().0[at]);
                for r in 0..M {
                    let a = _mm256_set1_epi32(a[r][w] as i32);
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
                    all[r] = _mm256_add_epi32(all[r], _mm256_madd_epi16(pairs, ones));
                }
            }
            for (sums, all) in sums.iter_mut().zip(all) {
                store256(&mut sums.as_chunks_mut::<8>().0[at], all);
            }
        }
    }
}

/// A product without its output.
struct Product<'a> {
    m: usize,
    n: usize,
    words: usize,
    a: &'a [u32],
    scales_a: &'a [f32],
    b: &'a [u32],
    scales_b: &'a [f32],
    /// Empty where there is none.
    bias: &'a [f32],
    activation: u32,
    has_residual: bool,
    /// Empty where there is none, or where it stands in y.
    residual: &'a [f32],
}

pub fn linear_int8(call: &mut Call) {
    let [m, n] = [0, 1].map(|i| call.size(i));
    let [words, stride] = [2, 3].map(|i| call.u32(i) as usize);
    let (activation, has_bias, has_residual) = (call.u32(4), call.u32(5) == 1, call.u32(6) == 1);
    let [a, scales_a, b, scales_b, bias, residual, mut y, mut panels] = call.args();
    let product = Product {
        m,
        n,
        words,
        a: a.u32(),
        scales_a: scales_a.f32(),
        b: b.u32(),
        scales_b: scales_b.f32(),
        bias: if has_bias { bias.f32() } else { &[] },
        activation,
        has_residual,
        residual: if has_residual { residual.f32() } else { &[] },
    };
    let path = Path::all().next().unwrap_or(Path::Plain);
    product.run(path, y.f32_mut(), stride, panels.u32_mut());
}

impl Product<'_> {
    fn run(&self, path: Path, y: &mut [f32], stride: usize, panels: &mut [u32]) {
        let &Product { m, n, words, .. } = self;
        if m == 0 || n == 0 {
            return;
        }
        let panels = &mut panels[..panel_words(n, words)];
        if words > 0 {
            panels
                .par_chunks_mut(COLS * words)
                .enumerate()
                .for_each(|(p, panel)| self.pack(path.flip(), p * COLS, panel));
        }
        let panels = &*panels;
        y[..(m - 1) * stride + n].par_chunks_mut(PART * stride).enumerate().for_each(|(part, y)| {
            let first = part * PART;
            let rows = PART.min(m - first);
            let row = |r: usize| &self.a[(first + r) * words..][..words];
            // What the flipped bits of `b` have added.
            let mut shifts = [0i32; PART];
            if path.flip() != 0 {
                shifts[..rows].iter_mut().enumerate().for_each(|(r, shift)| *shift = 128 * sum(row(r)));
            }
            let (mut sums, mut values) = ([[0; COLS]; ROWS], [[0.0; COLS]; ROWS]);
            for col in (0..n).step_by(COLS) {
                let panel = &panels[col * words..][..COLS * words];
                let columns = Columns::new(self, col);
                for r in (0..rows).step_by(ROWS) {
                    match rows - r {
                        1 => path.tile([row(r)], panel, &mut sums),
                        2 => path.tile([0, 1].map(|i| row(r + i)), panel, &mut sums),
                        3 => path.tile([0, 1, 2].map(|i| row(r + i)), panel, &mut sums),
                        4 => path.tile([0, 1, 2, 3].map(|i| row(r + i)), panel, &mut sums),
                        5 => path.tile([0, 1, 2, 3, 4].map(|i| row(r + i)), panel, &mut sums),
                        _ => path.tile([0, 1, 2, 3, 4, 5].map(|i| row(r + i)), panel, &mut sums),
                    }
                    let tile = ROWS.min(rows - r);
                    self.values(first + r, &columns, &sums, &shifts[r..], &mut values[..tile]);
                    for (i, values) in values[..tile].iter().enumerate() {
                        let y = &mut y[(r + i) * stride + col..][..columns.width];
                        self.store((first + r + i) * stride + col, &values[..columns.width], y);
                    }
                }
            }
        });
    }

    /// Rows of `b` from `first` on, word by word; what is beyond them is left 0 and goes nowhere.
    fn pack(&self, flip: u32, first: usize, panel: &mut [u32]) {
        let words = self.words;
        for begin in (0..words).step_by(LINE) {
            let end = words.min(begin + LINE);
            for c in 0..COLS {
                let row = if first + c < self.n { &self.b[(first + c) * words..][..words] } else { &[] };
                for w in begin..end {
                    panel[w * COLS + c] = row.get(w).map_or(0, |word| word ^ flip);
                }
            }
        }
    }

    /// Scales, bias and activation for a tile whose first row is `row`.
    fn values(&self, row: usize, columns: &Columns, sums: &Sums, shifts: &[i32], values: &mut [[f32; COLS]]) {
        simd(
            #[inline(always)]
            || {
                for (i, (values, sums)) in values.iter_mut().zip(sums).enumerate() {
                    let (scale, shift) = (self.scales_a[row + i], shifts[i]);
                    for c in 0..COLS {
                        let sum = sums[c].wrapping_sub(shift) as f32;
                        values[c] = sum * (scale * columns.scales[c]) + columns.bias[c];
                    }
                }
            },
        );
        if self.activation != 0 {
            super::pointwise::apply(self.activation, values.as_flattened_mut());
        }
    }

    /// Values and residual for a part of a row that begins at element `at` of y.
    fn store(&self, at: usize, values: &[f32], y: &mut [f32]) {
        if !self.has_residual {
            return y.copy_from_slice(values);
        }
        match self.residual.get(at..at + y.len()) {
            Some(residual) => y.iter_mut().zip(values).zip(residual).for_each(|((y, value), add)| *y = value + add),
            // It stands where y is written.
            None => y.iter_mut().zip(values).for_each(|(y, value)| *y += value),
        }
    }
}

/// What belongs to the columns of a tile: zeros beyond the last.
struct Columns {
    width: usize,
    scales: [f32; COLS],
    bias: [f32; COLS],
}

impl Columns {
    fn new(product: &Product, col: usize) -> Columns {
        let width = COLS.min(product.n - col);
        let mut columns = Columns { width, scales: [0.0; COLS], bias: [0.0; COLS] };
        columns.scales[..width].copy_from_slice(&product.scales_b[col..][..width]);
        if !product.bias.is_empty() {
            columns.bias[..width].copy_from_slice(&product.bias[col..][..width]);
        }
        columns
    }
}

/// The sum of a row's codes.
fn sum(words: &[u32]) -> i32 {
    let codes: &[i8] = bytemuck::cast_slice(words);
    simd(
        #[inline(always)]
        || codes.iter().map(|code| i32::from(*code)).sum(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn all_instructions_give_the_same_bits() {
        let seed = crate::seed::seed();
        let random = Random::new(seed, 1);
        for (round, [m, n, words]) in [[1, 1, 1], [7, 65, 17], [53, 130, 128], [48, 64, 0]].into_iter().enumerate() {
            let codes = |stream: usize, count: usize| -> Vec<u32> {
                let code = |i: usize| (random.uniform(((round * 2 + stream) << 32 | i) as u64) * 255.0) as u8;
                let byte = |i: usize| code(i).min(254).wrapping_sub(127);
                (0..count).map(|w| u32::from_le_bytes(std::array::from_fn(|b| byte(4 * w + b)))).collect()
            };
            let (a, b) = (codes(0, m * words), codes(1, n * words));
            let scales: Vec<f32> = (0..m.max(n)).map(|i| (1 + i % 7) as f32 / 512.0).collect();
            let product = Product {
                m,
                n,
                words,
                a: &a,
                scales_a: &scales[..m],
                b: &b,
                scales_b: &scales[..n],
                bias: &[],
                activation: 0,
                has_residual: false,
                residual: &[],
            };
            let by = |path| {
                let (mut y, mut panels) = (vec![f32::NAN; m * n], vec![u32::MAX; panel_words(n, words)]);
                product.run(path, &mut y, n, &mut panels);
                y.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let plain = by(Path::Plain);
            for path in Path::all() {
                assert!(by(path) == plain, "seed {seed}: {path:?} of {m} x {n} x {words}");
            }
        }
    }

    #[test]
    fn a_row_with_a_nan_says_so() {
        for (x, finite) in
            [([1.0f32, -2.0, 3.0], true), ([1.0, f32::NAN, 3.0], false), ([f32::INFINITY, 1.0, 0.0], false)]
        {
            let mut codes = [0u8; 4];
            assert_eq!(quantize(&x, &mut codes).is_finite(), finite, "{x:?}");
            assert_eq!(codes[3], 0);
        }
    }
}
