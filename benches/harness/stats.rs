//! What figures are made of: medians, ratios of one round, and the order in
//! which servers take their turns.

/// The middle of `values`; of an even number, the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median of the ratios of two rows of figures, round by round: what
/// disturbs a whole round disturbs both.
pub(crate) fn median_ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<f64> {
    let both = ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?));
    median(&both.collect::<Vec<f64>>())
}

/// Whose turn it is in this round: A B C, then C B A, and so on, so that
/// nobody always comes after the same one.
pub(crate) fn turns(servers: usize, round: usize) -> Vec<usize> {
    let forward = 0..servers;
    if round.is_multiple_of(2) { forward.collect() } else { forward.rev().collect() }
}
