//! The seed of tests that draw what they try.

/// `MOVIOLA_SEED`, one that no run had before if that is `fresh`, and always the same if it is not set. Printed, so that
/// a failure can be had again.
pub fn seed() -> u64 {
    let asked = std::env::var("MOVIOLA_SEED").unwrap_or_default();
    let seed = match asked.as_str() {
        // Below 2⁵³, so that JSON keeps it.
        "fresh" => std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64 >> 11),
        "" => 1,
        other => other.parse().expect("MOVIOLA_SEED is a number, or fresh"),
    };
    println!("MOVIOLA_SEED={seed}");
    seed
}
