//! Many runs: every workload with every nemesis, or cells by chance until the time is over. Each run is a process of its
//! own, so that none harms the next; what has an outcome is not run again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::nemesis::Nemesis;
use crate::run::{Cell, Common, Done, Operations, workload_name};
use crate::workload::Workload;

/// How long a run may take beside its seconds: starting, judging, cleaning up.
const BESIDE: Duration = Duration::from_mins(6);

/// What the short selection may take; what is left when it is over is not begun.
const SHORT: Duration = Duration::from_secs(270);

/// How long each run of the short selection is broken.
const SHORT_SECONDS: u64 = 12;

/// Which runs.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Names with commas between, or `all`
    #[arg(long, default_value = "all")]
    pub workloads: String,
    /// Names with commas between, or `all`
    #[arg(long, default_value = "all")]
    pub nemeses: String,
    /// So many seeds for each
    #[arg(long, default_value_t = 2)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// How long each is broken
    #[arg(long, default_value_t = 25)]
    pub seconds: u64,
    /// Run those again that did not pass
    #[arg(long)]
    pub again: bool,
    /// What runs have in common.
    #[command(flatten)]
    pub common: Common,
}

fn chosen<T: ValueEnum>(names: &str) -> anyhow::Result<Vec<T>> {
    if names == "all" {
        return Ok(T::value_variants().to_vec());
    }
    names.split(',').map(|name| T::from_str(name.trim(), false).map_err(|error| anyhow::anyhow!("{name}: {error}"))).collect()
}

/// The nemeses that can be had.
fn available(common: &Common) -> Vec<Nemesis> {
    let wanted =
        |nemesis: &Nemesis| (*nemesis != Nemesis::Upgrade || common.upgrade_to.is_some()) && (!common.loopback || nemesis.unprivileged());
    Nemesis::value_variants().iter().copied().filter(wanted).collect()
}

/// Runs all that have no outcome yet and prints the table of all; gives the worst exit code.
///
/// # Errors
/// A name is wrong, or a run could not be started.
pub async fn matrix(args: &MatrixArgs) -> anyhow::Result<u8> {
    let workloads: Vec<Workload> = chosen(&args.workloads)?;
    let nemeses = if args.nemeses == "all" { available(&args.common) } else { chosen(&args.nemeses)? };
    let mut cells = Vec::new();
    for seed in args.first_seed..args.first_seed + args.seeds {
        for workload in &workloads {
            for nemesis in &nemeses {
                cells.push(Cell { workload: *workload, nemesis: *nemesis, seed, seconds: args.seconds });
            }
        }
    }
    let mut done = Vec::new();
    for (number, cell) in cells.iter().enumerate() {
        let outcome = match outcome(cell, &args.common.out)? {
            Some(outcome) if outcome.code == 0 || !args.again => outcome,
            _ => {
                println!("{} of {}: {}", number + 1, cells.len(), cell.name());
                let outcome = one(*cell, &args.common).await?;
                println!("    {}", outcome.verdict);
                outcome
            }
        };
        done.push(outcome);
        fs::write(args.common.out.join("table.md"), table(&done))?;
    }
    println!("\n{}", table(&done));
    Ok(worst(&done))
}

/// A selection for every change: by seed, of each family something, within five minutes.
///
/// # Errors
/// A run could not be started.
pub async fn short(seed: u64, common: &Common) -> anyhow::Result<u8> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut nemeses = available(common);
    nemeses.retain(|nemesis| *nemesis != Nemesis::None);
    nemeses.shuffle(&mut chance);
    let mut workloads = Workload::value_variants().to_vec();
    workloads.shuffle(&mut chance);
    let end = Instant::now() + SHORT;
    let mut done = Vec::new();
    for (number, nemesis) in nemeses.into_iter().enumerate() {
        let cell = Cell { workload: workloads[number % workloads.len()], nemesis, seed, seconds: SHORT_SECONDS };
        // What may not end in time is not begun: a usual run takes twice its seconds.
        if Instant::now() + Duration::from_secs(SHORT_SECONDS * 2 + 10) > end {
            break;
        }
        println!("{}", cell.name());
        let outcome = one(cell, common).await?;
        println!("    {}", outcome.verdict);
        done.push(outcome);
    }
    println!("\n{}", table(&done));
    if done.is_empty() { Ok(2) } else { Ok(worst(&done)) }
}

/// Cells by chance, for hours; stops at none.
///
/// # Errors
/// A run could not be started.
pub async fn hours(
    hours: f64,
    workload: Option<Workload>,
    nemesis: Option<Nemesis>,
    seed: u64,
    seconds: u64,
    common: &Common,
) -> anyhow::Result<u8> {
    let end = Instant::now() + Duration::from_secs_f64(hours * 3600.0);
    let mut chance = StdRng::seed_from_u64(seed);
    let nemeses = available(common);
    let mut done = Vec::new();
    while Instant::now() < end {
        let any = Workload::value_variants();
        let workload = workload.unwrap_or_else(|| any[chance.random_range(0..any.len())]);
        let nemesis = nemesis.unwrap_or_else(|| nemeses[chance.random_range(0..nemeses.len())]);
        let cell = Cell { workload, nemesis, seed: u64::from(chance.random::<u32>()), seconds };
        println!("{}", cell.name());
        let outcome = one(cell, common).await?;
        println!("    {}", outcome.verdict);
        done.push(outcome);
        fs::write(common.out.join("table.md"), table(&done))?;
    }
    println!("\n{}", table(&done));
    Ok(worst(&done))
}

fn worst(done: &[Done]) -> u8 {
    // What is wrong weighs more than what is not known.
    if done.iter().any(|done| done.code == 1) { 1 } else { done.iter().map(|done| done.code).max().unwrap_or(2) }
}

fn outcome(cell: &Cell, out: &Path) -> anyhow::Result<Option<Done>> {
    let path = cell.outcome_path(out);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path)?;
    Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?))
}

/// A run as a process of its own, its output in a file.
async fn one(cell: Cell, common: &Common) -> anyhow::Result<Done> {
    fs::create_dir_all(&common.out)?;
    let path = cell.outcome_path(&common.out);
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let printed: PathBuf = common.out.join(format!("{}.txt", cell.name()));
    let log = File::create(&printed)?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .arg("run")
        .args(["--workload", &workload_name(cell.workload), "--nemesis", &cell.nemesis.name()])
        .args(["--seed", &cell.seed.to_string(), "--seconds", &cell.seconds.to_string()])
        .args(["--nodes", &common.nodes.to_string()])
        .arg("--binary")
        .arg(&common.binary)
        .arg("--out")
        .arg(&common.out)
        .args(common.loopback.then_some("--loopback"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    for setting in &common.settings {
        command.args(["--set", setting]);
    }
    if let Some(other) = &common.upgrade_to {
        command.arg("--upgrade-to").arg(other);
    }
    let mut child = command.kill_on_drop(true).spawn()?;
    let status = if let Ok(status) = tokio::time::timeout(Duration::from_secs(cell.seconds) + BESIDE, child.wait()).await {
        format!("it ended with {}", status?)
    } else {
        child.kill().await?;
        "it took too long and was killed".to_owned()
    };
    if let Some(done) = outcome(&cell, &common.out)? {
        return Ok(done);
    }
    let done = Done {
        workload: workload_name(cell.workload),
        nemesis: cell.nemesis.name(),
        seed: cell.seed,
        seconds: cell.seconds,
        code: 2,
        verdict: format!("unknown: {status}; see {}", printed.display()),
        operations: Operations::default(),
        faults: Vec::new(),
    };
    fs::write(&path, serde_json::to_vec_pretty(&done)?)?;
    Ok(done)
}

/// Markdown: a line for each workload and nemesis, over its seeds.
fn table(done: &[Done]) -> String {
    let mut lines: Vec<(&str, &str, Vec<&Done>)> = Vec::new();
    for one in done {
        match lines.iter_mut().find(|(workload, nemesis, _)| *workload == one.workload && *nemesis == one.nemesis) {
            Some((_, _, cells)) => cells.push(one),
            None => lines.push((&one.workload, &one.nemesis, vec![one])),
        }
    }
    let mut text =
        "| workload | nemesis | runs | valid | operations ok / failed / unknown | faults |\n|---|---|--:|--:|--:|--:|\n".to_owned();
    let mut total = [0_u64; 6];
    let row = |text: &mut String, names: &str, counts: [u64; 6]| {
        let [runs, valid, ok, failed, unknown, faults] = counts;
        writeln!(text, "| {names} | {runs} | {valid} | {ok} / {failed} / {unknown} | {faults} |").expect("a string takes text");
    };
    for (workload, nemesis, cells) in &lines {
        let sum = |of: &dyn Fn(&Done) -> u64| cells.iter().map(|done| of(done)).sum::<u64>();
        let counts = [
            cells.len() as u64,
            sum(&|done| u64::from(done.code == 0)),
            sum(&|done| done.operations.ok),
            sum(&|done| done.operations.failed),
            sum(&|done| done.operations.unknown),
            sum(&|done| done.faults.len() as u64),
        ];
        total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        row(&mut text, &format!("{workload} | {nemesis}"), counts);
    }
    row(&mut text, "all | all", total);
    let failed: Vec<&Done> = done.iter().filter(|done| done.code != 0).collect();
    if !failed.is_empty() {
        text.push_str("\nNot valid:\n\n");
        for done in failed {
            let verdict = done.verdict.lines().next().unwrap_or_default();
            writeln!(text, "- {} {} seed {}: {verdict}", done.workload, done.nemesis, done.seed).expect("a string takes text");
        }
    }
    text
}

/// Names are checked before hours are spent.
///
/// # Errors
/// One is wrong.
pub fn check(common: &Common) -> anyhow::Result<()> {
    if !common.binary.exists() {
        bail!("there is no {}; build it, or name one with --binary", common.binary.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(nemesis: &str, seed: u64, code: u8) -> Done {
        let operations = Operations { ok: 10, failed: 2, unknown: 1 };
        let verdict = if code == 0 { "valid: all" } else { "INVALID: 3 lost" }.to_owned();
        Done { workload: "events".to_owned(), nemesis: nemesis.to_owned(), seed, seconds: 5, code, verdict, operations, faults: Vec::new() }
    }

    #[test]
    fn the_table_adds_up_seeds_and_names_what_failed() {
        let text = table(&[done("kill", 1, 0), done("pause", 1, 1), done("kill", 2, 0)]);
        assert!(text.contains("| events | kill | 2 | 2 | 20 / 4 / 2 | 0 |"), "{text}");
        assert!(text.contains("| events | pause | 1 | 0 | 10 / 2 / 1 | 0 |"), "{text}");
        assert!(text.contains("| all | all | 3 | 2 | 30 / 6 / 3 | 0 |"), "{text}");
        assert!(text.contains("- events pause seed 1: INVALID: 3 lost"), "{text}");
    }

    #[test]
    fn what_is_wrong_weighs_more_than_what_is_not_known() {
        assert_eq!(worst(&[done("kill", 1, 0), done("kill", 2, 2), done("kill", 3, 1)]), 1);
        assert_eq!(worst(&[done("kill", 1, 0), done("kill", 2, 2)]), 2);
        assert_eq!(worst(&[done("kill", 1, 0)]), 0);
        assert_eq!(worst(&[]), 2);
    }
}
