//! The simulations that are run, and that they find what they are for. Each seed is run in a process of its own, to which the
//! machine gives neither random numbers nor random addresses, so that it goes the same way each time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::Bug;
use super::laws::Counts;
use super::world::{Outcome, run};

/// Simulations in an ordinary run of the tests.
const SEEDS: u64 = 40;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Starts simulations as processes.
struct Steady {
    scratch: TempDir,
    library: PathBuf,
}

impl Steady {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let (source, library) = (scratch.path().join("steady.c"), scratch.path().join("steady.so"));
        std::fs::write(&source, include_str!("steady.c")).expect("it can be written");
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compile.status().expect("there is a C compiler").success(), "cc takes steady.c");
        Self { scratch, library }
    }

    /// The simulation of this seed, from a process that has it from [`replay`].
    fn run(&self, seed: u64, bug: Option<Bug>, lines: bool) -> Outcome {
        let into = tempfile::Builder::new().tempfile_in(self.scratch.path()).expect("a file");
        let mut process = Command::new("setarch");
        process.arg("--addr-no-randomize").arg(std::env::current_exe().expect("this program has a path"));
        process.args(["--exact", "cluster::simulation::tests::replay", "--nocapture"]);
        // All of what a process knows of its surroundings moves its addresses.
        process.env_clear().env("LD_PRELOAD", &self.library).env("PRAETOR_SIM_SEED", seed.to_string());
        process.env("PRAETOR_SIM_INTO", into.path()).env("PRAETOR_SIM_BUG", serde_json::to_string(&bug).expect("a name"));
        process.env("PRAETOR_SIM_LINES", u8::from(lines).to_string()).stdin(Stdio::null());
        let output = process.output().expect("setarch, of util-linux, is there");
        let text = std::fs::read(into.path()).expect("it can be read");
        serde_json::from_slice(&text).unwrap_or_else(|_| {
            let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            // A panic of the simulation is a finding too.
            Outcome { broken: Some(format!("{}: {}", output.status, told.concat())), ..Outcome::default() }
        })
    }

    /// Runs the seeds, as many at a time as there are cores.
    fn each<T: Send>(&self, seeds: std::ops::Range<u64>, body: impl Fn(&Self, u64) -> T + Sync) -> Vec<(u64, T)> {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let threads = setting("PRAETOR_SIM_THREADS").unwrap_or_else(cores);
        let next = std::sync::atomic::AtomicU64::new(seeds.start);
        let work = || {
            let mut done = Vec::new();
            loop {
                let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if seed >= seeds.end {
                    return done;
                }
                done.push((seed, body(self, seed)));
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        })
    }
}

/// `PRAETOR_SIM_SEEDS` says how many, `PRAETOR_SIM_FIRST` from which on.
#[test]
#[expect(clippy::disallowed_methods, reason = "the time that it takes is a result")]
fn seeds_break_no_law() {
    let first = setting("PRAETOR_SIM_FIRST").unwrap_or(0);
    let count = setting("PRAETOR_SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let outcomes = Steady::new().each(first..first + count, |steady, seed| {
        let began = std::time::Instant::now();
        let outcome = steady.run(seed, None, false);
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

#[test]
fn a_seed_is_replayed_exactly() {
    let seeds = setting("PRAETOR_SIM_TWICE").unwrap_or(12);
    for (seed, (first, second)) in Steady::new().each(0..seeds, |steady, seed| (steady.run(seed, None, true), steady.run(seed, None, true)))
    {
        let differs = first.lines.iter().zip(&second.lines).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        assert!(first.counts.entries > 0, "seed {seed}: {:?}", first.broken);
    }
}

/// Shows what happens in `PRAETOR_SIM_SEED`.
#[test]
fn replay() {
    let Some(seed) = setting("PRAETOR_SIM_SEED") else { return };
    if let Some(into) = std::env::var_os("PRAETOR_SIM_INTO") {
        // The process that another one has started to run the seed in.
        let bug = std::env::var("PRAETOR_SIM_BUG").expect("it is set");
        let outcome = run(seed, serde_json::from_str(&bug).expect("it is a bug"), setting("PRAETOR_SIM_LINES") == Some(1));
        std::fs::write(Path::new(&into), serde_json::to_vec(&outcome).expect("it is plain data")).expect("it can be written");
        return;
    }
    let outcome = Steady::new().run(seed, None, true);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: trace {:016x}, {:?}", outcome.trace, outcome.counts);
    assert_eq!(outcome.broken, None);
}

/// The first of the seeds that finds a planted bug, and what it says.
fn found(bug: Bug) -> (u64, String) {
    let steady = Steady::new();
    let found = (0..300).find_map(|seed| steady.run(seed, Some(bug), false).broken.map(|broken| (seed, broken)));
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
