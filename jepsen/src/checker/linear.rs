//! Linearizability of one object, by the search of Wing and Gong with the memory of Lowe: is there an order of the
//! operations that keeps to real time and that a sequential object could have shown?
//!
//! An operation without an end may take effect at any time after it began, or never. The search is over configurations:
//! which operations have taken effect, and the state they left. None is looked at twice. It is bounded, since it may be
//! exponential in the number of operations that overlap: beyond the bound the answer is that it is not known.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A sequential object.
pub trait Model {
    /// What it may be.
    type State: Clone + Debug + Eq + Hash;
    /// What may be done to it, with what was answered.
    type Op: Debug;

    /// Before anything was done.
    fn initial(&self) -> Self::State;

    /// What the operation makes of a state; `None` where it could not have been answered so.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation with its places in real time.
#[derive(Clone, Debug)]
pub struct Call<Op> {
    /// What was done.
    pub op: Op,
    /// When it began.
    pub called: usize,
    /// When it ended; `None` where that is not known.
    pub ended: Option<usize>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is such an order.
    Linear,
    /// There is none. Says how far one gets, and what does not fit there.
    NotLinear(String),
    /// The search came to its bound.
    Unknown,
}

/// Which operations have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Taken(Box<[u64]>);

impl Taken {
    fn none_of(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)].into_boxed_slice())
    }

    fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn with(&self, number: usize) -> Self {
        let mut more = self.clone();
        more.0[number / 64] |= 1 << (number % 64);
        more
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// Searches at most `bound` configurations.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Op>], bound: usize) -> Found {
    let start = (Taken::none_of(calls.len()), model.initial());
    let mut seen = HashSet::from([start.clone()]);
    let mut stack = vec![start.clone()];
    let mut furthest = start;
    while let Some((taken, state)) = stack.pop() {
        let left = || calls.iter().enumerate().filter(|(number, _)| !taken.has(*number));
        // Whatever began after the first of them had ended comes after it.
        let Some(first_end) = left().filter_map(|(_, call)| call.ended).min() else { return Found::Linear };
        if taken.count() > furthest.0.count() {
            furthest = (taken.clone(), state.clone());
        }
        // The stack has those that ended first on its top: they are the likeliest to have come first.
        let mut next: Vec<usize> = left().filter(|(_, call)| call.called < first_end).map(|(number, _)| number).collect();
        next.sort_by_key(|number| std::cmp::Reverse(calls[*number].ended.unwrap_or(usize::MAX)));
        for number in next {
            if let Some(state) = model.step(&state, &calls[number].op) {
                let configuration = (taken.with(number), state);
                if seen.insert(configuration.clone()) {
                    stack.push(configuration);
                }
            }
        }
        if seen.len() > bound {
            return Found::Unknown;
        }
    }
    let (taken, state) = furthest;
    let stuck = calls.iter().enumerate().filter(|(number, call)| !taken.has(*number) && call.ended.is_some());
    let first = stuck.min_by_key(|(_, call)| call.ended).map(|(_, call)| call);
    Found::NotLinear(format!("after {} of {} operations the state is {state:?}, and {first:?} does not fit", taken.count(), calls.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of numbers.
    struct Register;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Write(u32),
        Read(u32),
        /// From the first, where it is, to the second.
        Swap(u32, u32, bool),
    }

    impl Model for Register {
        type State = u32;
        type Op = Op;

        fn initial(&self) -> u32 {
            0
        }

        fn step(&self, state: &u32, op: &Op) -> Option<u32> {
            match *op {
                Op::Write(value) => Some(value),
                Op::Read(value) => (*state == value).then_some(*state),
                Op::Swap(from, to, done) => (done == (*state == from)).then_some(if done { to } else { *state }),
            }
        }
    }

    fn found(calls: &[(Op, usize, Option<usize>)]) -> Found {
        let calls: Vec<_> = calls.iter().map(|(op, called, ended)| Call { op: *op, called: *called, ended: *ended }).collect();
        check(&Register, &calls, 100_000)
    }

    fn is_linear(calls: &[(Op, usize, Option<usize>)]) -> bool {
        match found(calls) {
            Found::Linear => true,
            Found::NotLinear(_) => false,
            Found::Unknown => panic!("it is short"),
        }
    }

    #[test]
    fn one_after_the_other_a_read_gives_what_was_written_last() {
        assert!(is_linear(&[]));
        assert!(is_linear(&[(Op::Write(1), 0, Some(1)), (Op::Read(1), 2, Some(3))]));
        assert!(!is_linear(&[(Op::Write(1), 0, Some(1)), (Op::Read(0), 2, Some(3))]), "a stale read");
        assert!(!is_linear(&[(Op::Write(1), 0, Some(1)), (Op::Read(2), 2, Some(3))]), "nobody wrote it");
    }

    #[test]
    fn overlapping_operations_may_come_in_any_order_but_in_one() {
        let write = (Op::Write(1), 0, Some(10));
        assert!(is_linear(&[write, (Op::Read(0), 1, Some(2)), (Op::Read(1), 3, Some(4))]));
        assert!(!is_linear(&[write, (Op::Read(1), 1, Some(2)), (Op::Read(0), 3, Some(4))]), "it was read, and then not");
        // Two writes at once, and readers that disagree about their order.
        let writes = [(Op::Write(1), 0, Some(10)), (Op::Write(2), 1, Some(11))];
        let reads = |values: [u32; 2]| [(Op::Read(values[0]), 12, Some(13)), (Op::Read(values[1]), 14, Some(15))];
        assert!(is_linear(&[writes, reads([1, 1])].concat()));
        assert!(is_linear(&[writes, reads([2, 2])].concat()));
        assert!(!is_linear(&[writes, reads([1, 2])].concat()));
    }

    #[test]
    fn what_has_no_end_may_have_happened_late_or_never() {
        let lost = (Op::Write(1), 0, None);
        assert!(is_linear(&[lost, (Op::Read(0), 1, Some(2))]));
        assert!(is_linear(&[lost, (Op::Read(0), 1, Some(2)), (Op::Read(1), 3, Some(4))]), "it came late");
        assert!(!is_linear(&[lost, (Op::Read(1), 1, Some(2)), (Op::Read(0), 3, Some(4))]), "it came and went");
        assert!(!is_linear(&[(Op::Read(1), 0, Some(1)), (Op::Write(1), 2, None)]), "before it began");
    }

    #[test]
    fn of_two_that_swap_from_the_same_value_one_fails() {
        let both = |first, second| [(Op::Swap(0, 1, first), 0, Some(5)), (Op::Swap(0, 2, second), 1, Some(6))];
        assert!(is_linear(&both(true, false)));
        assert!(is_linear(&both(false, true)));
        assert!(!is_linear(&both(true, true)), "both took it");
        assert!(!is_linear(&both(false, false)), "nobody took it");
    }

    #[test]
    fn a_search_too_long_is_unknown() {
        // Writes that all overlap, and a read of none of them.
        let mut calls: Vec<_> = (1..=40).map(|value| (Op::Write(value), value as usize, Some(100))).collect();
        calls.push((Op::Read(99), 50, Some(100)));
        let calls: Vec<_> = calls.iter().map(|(op, called, ended)| Call { op: *op, called: *called, ended: *ended }).collect();
        assert_eq!(check(&Register, &calls, 1000), Found::Unknown);
    }

    #[test]
    fn random_histories_of_a_real_register_are_linear_and_with_one_answer_changed_most_are_not() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};

        let (mut caught, mut changed) = (0, 0);
        for seed in 0..300 {
            let mut chance = StdRng::seed_from_u64(seed);
            // Three clients; each operation takes effect at one moment between its beginning and its end.
            let mut moments: Vec<(usize, usize, usize)> = Vec::new();
            for client in 0..3 {
                let mut at = client;
                for _ in 0..8 {
                    let (effect, end) = (at + chance.random_range(1..20), at + chance.random_range(20..40));
                    moments.push((effect * 3 + client, at * 3 + client, end * 3 + client));
                    at = end + chance.random_range(1..5);
                }
            }
            moments.sort_unstable();
            let (mut value, mut calls) = (0, Vec::new());
            for (number, (_, called, ended)) in moments.iter().enumerate() {
                let op = if chance.random_ratio(1, 2) {
                    value = number as u32 + 1;
                    Op::Write(value)
                } else {
                    Op::Read(value)
                };
                calls.push((op, *called, Some(*ended)));
            }
            assert!(is_linear(&calls), "seed {seed}: {calls:?}");
            let reads: Vec<usize> = (0..calls.len()).filter(|at| matches!(calls[*at].0, Op::Read(_))).collect();
            if let Some(at) = reads.last() {
                let Op::Read(value) = calls[*at].0 else { continue };
                calls[*at].0 = Op::Read(value + 1);
                changed += 1;
                caught += usize::from(!is_linear(&calls));
            }
        }
        // Some changed answers are those of a write that overlaps.
        assert!(changed > 250 && caught * 10 > changed * 8, "{caught} of {changed}");
    }
}
