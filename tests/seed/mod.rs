//! The seed of tests that draw what they try.

/// `MOVIOLA_SEED` if it is a number, one that no run had before if it is `fresh`, else always the same. Printed, so that
/// a failure can be had again.
pub fn seed() -> u64 {
    let asked = std::env::var("MOVIOLA_SEED").unwrap_or_default();
    let seed = match asked.as_str() {
        // Below 2⁵³, so that JSON keeps it.
        "fresh" => std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64 >> 11),
        other => other.parse().unwrap_or(1),
    };
    println!("MOVIOLA_SEED={seed}");
    seed
}
