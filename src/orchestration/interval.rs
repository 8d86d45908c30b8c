//! Waiting times with jitter, so that those who were sent away do not all come back at once
//! (`prefect/utilities/math.py`).

/// Share of the average by which a wait may be longer.
pub const CLAMPING: f64 = 0.3;

/// A waiting time out of an exponential distribution of the given average, cut at `1 + clamping` times the average and
/// below so that the average stays. Nothing is waited for where the average is not positive.
pub fn clamped_poisson(average: f64, clamping: f64) -> f64 {
    at(average, clamping, rand::random())
}

/// The same for a given position (0 to 1) between the bounds.
fn at(average: f64, clamping: f64, position: f64) -> f64 {
    if average <= 0.0 || clamping <= 0.0 {
        return average.max(0.0);
    }
    let upper = 1.0 + clamping;
    // Beyond 50 the power overflows and the bound is 0 anyway.
    let lower = if upper >= 50.0 { 0.0 } else { (upper.exp2() / (upper.exp2() - 1.0)).log2() };
    let below = |multiple: f64| 1.0 - (-multiple).exp();
    let position = below(lower) + position * (below(upper) - below(lower));
    -(1.0 - position).max(1e-10).ln() * average
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_their_bounds() {
        assert!((at(10.0, 0.3, 1.0) - 13.0).abs() < 1e-9);
        assert!((at(10.0, 0.3, 0.0) - 7.517_718).abs() < 1e-5);
        assert!(at(10.0, 60.0, 0.0).abs() < 1e-9);
        assert!(at(0.0, 0.3, 0.5).abs() < f64::EPSILON);
    }
}
