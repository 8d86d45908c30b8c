//! The simulations that are run, and that they find what they are for.

use std::time::Duration;

use super::Bug;
use super::laws::Counts;
use super::world::run;

/// Simulations in an ordinary run of the tests.
const SEEDS: u64 = 40;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs the seeds on as many threads as there are cores.
fn each<T: Send>(seeds: std::ops::Range<u64>, body: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let threads =
        setting("PRAETOR_SIM_THREADS").unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64));
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= seeds.end {
                return done;
            }
            done.push((seed, body(seed)));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// `PRAETOR_SIM_SEEDS` says how many, `PRAETOR_SIM_FIRST` from which on.
#[test]
#[expect(clippy::disallowed_methods, reason = "the time that it takes is a result")]
fn seeds_break_no_law() {
    let first = setting("PRAETOR_SIM_FIRST").unwrap_or(0);
    let count = setting("PRAETOR_SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let outcomes = each(first..first + count, |seed| {
        let began = std::time::Instant::now();
        let outcome = run(seed, None, false);
        if let Some(broken) = &outcome.broken {
            println!("seed {seed}: {broken}");
        }
        (outcome, began.elapsed())
    });
    let wall = began.elapsed();
    let mut sum = Counts::default();
    let (mut spent, mut simulated) = (Duration::ZERO, 0);
    for (_, (outcome, took)) in &outcomes {
        sum.add(&outcome.counts);
        spent += *took;
        simulated += outcome.milliseconds;
    }
    let broken: Vec<u64> = outcomes.iter().filter(|(_, (outcome, _))| outcome.broken.is_some()).map(|(seed, _)| *seed).collect();
    println!(
        "{count} seeds from {first}: {} broken; {:.1} ms of real and {:.1} s of simulated time per seed, {:.0} s in all; {sum:?}",
        broken.len(),
        spent.as_secs_f64() * 1e3 / count as f64,
        simulated as f64 / 1e3 / count as f64,
        wall.as_secs_f64(),
    );
    assert!(
        broken.is_empty(),
        "laws were broken; PRAETOR_SIM_SEED=N cargo test simulation::tests::replay -- --nocapture shows one of {broken:?}"
    );
    if count >= SEEDS {
        // A run in which nothing happens shows nothing.
        let Counts { acknowledged, unknown, duplicates, barriers, reads, leaders, elections, truncated, .. } = sum;
        let Counts { crashes, cuts, pauses, snapshots, installed, transfers, entries, .. } = sum;
        for (what, times) in [
            ("acknowledged", acknowledged),
            ("unknown", unknown),
            ("duplicates", duplicates),
            ("barriers", barriers),
            ("reads", reads),
            ("leaders", leaders),
            ("elections", elections),
            ("truncated", truncated),
            ("crashes", crashes),
            ("cuts", cuts),
            ("pauses", pauses),
            ("snapshots", snapshots),
            ("installed", installed),
            ("transfers", transfers),
            ("entries", entries),
        ] {
            assert!(times > 0, "{what} never happened");
        }
    }
}

/// Only where Tokio takes a seed; see the module.
#[cfg(tokio_unstable)]
#[test]
fn a_seed_is_replayed_exactly() {
    for (seed, (first, second)) in each(0..6, |seed| (run(seed, None, true), run(seed, None, true))) {
        let differs = first.lines.iter().zip(&second.lines).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.trace, first.milliseconds, first.counts), (second.trace, second.milliseconds, second.counts), "seed {seed}");
    }
}

/// Shows what happens in `PRAETOR_SIM_SEED`; `PRAETOR_SIM_TWICE` compares two runs of each of so many seeds.
#[test]
fn replay() {
    if let Some(seed) = setting("PRAETOR_SIM_SEED") {
        let outcome = run(seed, None, true);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: trace {:016x}, {:?}", outcome.trace, outcome.counts);
        assert_eq!(outcome.broken, None);
    }
    if let Some(count) = setting("PRAETOR_SIM_TWICE") {
        let outcomes = each(0..count, |seed| run(seed, None, false).trace == run(seed, None, false).trace);
        let differ: Vec<u64> = outcomes.iter().filter(|(_, same)| !same).map(|(seed, _)| *seed).collect();
        println!("{count} seeds run twice: {} with another trace: {differ:?}", differ.len());
        assert!(differ.is_empty());
    }
}

/// The first of the seeds that finds a planted bug, and what it says.
fn found(bug: Bug) -> (u64, String) {
    let found = (0..300).find_map(|seed| run(seed, Some(bug), false).broken.map(|broken| (seed, broken)));
    let (seed, broken) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    println!("{bug:?} is found by seed {seed}: {}", broken.chars().take(300).collect::<String>());
    (seed, broken)
}

#[test]
fn a_disk_that_acknowledges_before_it_has_written_is_found() {
    found(Bug::AcknowledgesBeforeFlush);
}

#[test]
fn a_disk_that_forgets_votes_is_found() {
    found(Bug::ForgetsVotes);
}

#[test]
fn ids_that_are_not_remembered_are_found() {
    // By the model, or by a reader who is given an entry without its id.
    let (_, broken) = found(Bug::ForgetsIds);
    assert!(broken.contains("the bus at") || broken.contains("gives Entry"), "{broken}");
}

#[test]
fn a_node_that_applies_otherwise_is_found() {
    let (_, broken) = found(Bug::AppliesOtherwise);
    assert!(broken.contains("applies"), "{broken}");
}

#[test]
fn a_stale_barrier_is_found() {
    let (_, broken) = found(Bug::ReadsStale);
    assert!(broken.contains("a barrier on node"), "{broken}");
}

#[test]
fn a_services_leader_that_never_lets_go_is_found() {
    let (_, broken) = found(Bug::NeverLetsGo);
    assert!(broken.contains("without word from anybody"), "{broken}");
}
