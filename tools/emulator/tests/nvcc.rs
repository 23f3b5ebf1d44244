//! Unmodified output of nvcc, against the same functions in f64. See ptx/sample.cu.

mod support;
use support::{Arg, Gpu, Random};

const SAMPLE: &str = include_str!("ptx/sample.ptx");

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&w| f32::from_bits(w)).collect()
}

fn random(count: usize, scale: f32) -> Vec<u32> {
    let mut random = Random::new();
    (0..count).map(|_| (random.float() * scale).to_bits()).collect()
}

fn close(got: f32, want: f64, what: &str) {
    // Some of the functions are sums that cancel.
    let error = (f64::from(got) - want).abs() / (1e-2 + want.abs());
    assert!(error < 2e-5, "{what}: {got} instead of {want}");
}

#[test]
fn soft_max_over_rows() {
    let (rows, cols) = (5usize, 1000usize);
    let words = random(rows * cols, 3.0);
    let mut gpu = Gpu::new(SAMPLE);
    let x = gpu.upload(&words);
    let (y, z) = (gpu.upload(&vec![0; rows * cols]), gpu.upload(&vec![0; rows]));
    let args = [Arg::Pointer(x), Arg::Pointer(y), Arg::Pointer(z), Arg::Word(cols as u32)];
    gpu.run("soft_max", rows as u32, 256, &args).unwrap();
    let (y, z) = (floats(&gpu.download(y, rows * cols)), floats(&gpu.download(z, rows)));
    for (r, row) in floats(&words).chunks(cols).enumerate() {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        close(z[r], sum.ln(), "logarithm");
        for (c, &x) in row.iter().enumerate() {
            close(y[r * cols + c], f64::from(x).exp() / sum, "soft-max");
        }
    }
}

/// Abramowitz and Stegun 7.1.5: the series.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn functions_as_nvcc_expands_them() {
    let n = 1000;
    let words = random(n, 3.0);
    let references: [fn(f64) -> f64; 10] = [
        f64::tanh,
        |x| x.abs().sqrt(),
        |x| x.sin() + x.cos(),
        |x| x.abs().powf(1.5),
        erf,
        |x| x.abs().ln_1p(),
        |x| x % f64::from(0.7f32),
        |x| 1.0 / x.abs().sqrt(),
        |x| x / 3.0 + x.exp(),
        |x| x.floor() + x.trunc() + x.round_ties_even() + x.round(),
    ];
    let mut gpu = Gpu::new(SAMPLE);
    let x = gpu.upload(&words);
    for (kind, reference) in references.iter().enumerate() {
        let y = gpu.upload(&vec![0; n]);
        let args = [Arg::Pointer(x), Arg::Pointer(y), Arg::Word(n as u32), Arg::Word(kind as u32)];
        gpu.run("functions", n.div_ceil(96) as u32, 96, &args).unwrap();
        for (got, x) in floats(&gpu.download(y, n)).iter().zip(floats(&words)) {
            close(*got, reference(f64::from(x)), &format!("function {kind} of {x}"));
        }
    }
}

#[test]
fn tiles_and_histograms() {
    let n = 96usize;
    let mut random = Random::new();
    let words: Vec<u32> = (0..n * n).map(|_| random.word()).collect();
    let mut gpu = Gpu::new(SAMPLE);
    let (x, y, h) = (gpu.upload(&words), gpu.upload(&vec![0; n * n]), gpu.upload(&[0; 256]));
    let args = [Arg::Pointer(x), Arg::Pointer(y), Arg::Pointer(h), Arg::Word(n as u32)];
    gpu.run("transpose", 9, 256, &args).unwrap();
    let (y, h) = (gpu.download(y, n * n), gpu.download(h, 256));
    assert!((0..n * n).all(|i| y[i] == words[i % n * n + i / n]));
    let count = |b: u32| words.iter().filter(|&&w| w >> 24 == b).count() as u32;
    assert!((0..256).all(|b| h[b as usize] == count(b)));
}

#[test]
fn local_arrays_and_long_integers() {
    let (threads, step) = (64usize, 5u32);
    let words = random(threads * 16, 1.0);
    let mut gpu = Gpu::new(SAMPLE);
    let (x, y, z) = (gpu.upload(&words), gpu.upload(&vec![0; threads]), gpu.upload(&vec![0; threads * 2]));
    let args = [Arg::Pointer(x), Arg::Pointer(y), Arg::Pointer(z), Arg::Word(step)];
    gpu.run("mixed", 1, threads as u32, &args).unwrap();
    let (y, z) = (gpu.download(y, threads), gpu.download(z, threads * 2));
    for t in 0..threads {
        let mut a = floats(&words[t * 16..][..16]);
        for i in 0..40u32 {
            a[((i * step) & 15) as usize] += a[(((i + 1) * step) & 15) as usize];
        }
        assert_eq!(f32::from_bits(y[t]), a[(step & 15) as usize] + a[7]);
        let k = 0x0123_4567_89ab_cdefu64.wrapping_mul(t as u64 + 1);
        let high = ((u128::from(k) * u128::from(k)) >> 64) as u64;
        let rest = u64::from(k.count_ones()) + u64::from(k.leading_zeros());
        let want = (k / u64::from(step + 3) + k % 1_000_003 + (k >> 7)).wrapping_add(high).wrapping_add(rest);
        assert_eq!(u64::from(z[2 * t]) | u64::from(z[2 * t + 1]) << 32, want, "thread {t}");
    }
}

#[test]
fn a_removed_barrier_in_nvccs_code() {
    // The barrier between the partial sums and their sum.
    let broken = SAMPLE.replacen("bar.sync \t0;", "", 1);
    assert_ne!(broken, SAMPLE);
    let mut gpu = Gpu::new(&broken);
    let x = gpu.upload(&random(1000, 1.0));
    let args = [Arg::Pointer(x), Arg::Pointer(x), Arg::Pointer(x), Arg::Word(1000)];
    let error = gpu.run("soft_max", 1, 256, &args).unwrap_err().to_string();
    assert!(error.contains("ld.shared.f32"), "{error}");
}

#[test]
fn damaged_text_is_refused_without_a_panic() {
    let mut random = Random::new();
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for _ in 0..3 {
            let at = random.word() as usize % bytes.len();
            match random.word() % 3 {
                0 => bytes[at] = b" ;,{}[]()%.@|!-0129abrsu"[random.word() as usize % 23],
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(bytes.len() * 9 / 10)),
            }
        }
        refused += u32::from(cuda::parse::module(&String::from_utf8_lossy(&bytes)).is_err());
    }
    assert!(refused > 100, "{refused}");
}
