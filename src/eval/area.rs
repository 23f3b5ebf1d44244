//! The area under the ROC curve.

/// The chance that a random positive scores above a random negative, ties counting half (Hanley and McNeil 1982). `None`
/// where there are no positives or no negatives, or where a score is not a number.
pub fn auroc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    if scores.len() != positive.len() || scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let mut order: Vec<(f32, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = positive.iter().filter(|p| **p).count();
    let negatives = positive.len() - positives;
    // Negatives below each run of equal scores, and half of those within it.
    let (mut below, mut wins) = (0usize, 0.0);
    for run in order.chunk_by(|a, b| a.0 == b.0) {
        let inside = run.iter().filter(|r| !r.1).count();
        wins += (run.len() - inside) as f64 * (below as f64 + inside as f64 / 2.0);
        below += inside;
    }
    (positives > 0 && negatives > 0).then(|| wins / (positives as f64 * negatives as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs_and_halves_ties() {
        assert_eq!(auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Some(0.75));
        assert_eq!(auroc(&[1.0; 5], &[true, false, true, false, false]), Some(0.5));
        assert_eq!(auroc(&[-0.0, 0.0], &[true, false]), Some(0.5));
        assert_eq!(auroc(&[0.0, 1.0], &[true, true]), None);
        assert_eq!(auroc(&[f32::NAN, 1.0], &[true, false]), None);
    }
}
