//! Many runs: every workload with every nemesis, or cells by chance until the time is over. Each run is a process of its
//! own, so that none harms the next; what stands in the ledger is not run again.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::nemesis::Nemesis;
use crate::run::{Cell, Common, Done, Operations, Plan, workload_name, worse};
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
    /// Workloads run on the same nodes at once, as far as their settings allow; each is judged apart
    #[arg(long)]
    pub together: bool,
    /// So many at a time; more than the machine bears make elections late
    #[arg(long, default_value = "1")]
    pub jobs: NonZeroU8,
    /// Where a line for each run is kept; what has one is not run again [default: matrix.csv in --out]
    #[arg(long)]
    pub ledger: Option<PathBuf>,
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

/// Runs all that the ledger does not have yet and prints the table of all; gives the worst exit code.
///
/// # Errors
/// A name is wrong, the ledger cannot be read, or a run could not be started.
pub async fn matrix(args: &MatrixArgs) -> anyhow::Result<u8> {
    let workloads: Vec<Workload> = chosen(&args.workloads)?;
    let nemeses = if args.nemeses == "all" { available(&args.common) } else { chosen(&args.nemeses)? };
    fs::create_dir_all(&args.common.out)?;
    let path = args.ledger.clone().unwrap_or_else(|| args.common.out.join("matrix.csv"));
    let mut ledger = Ledger::open(&path)?;
    let mut plans = Vec::new();
    for seed in args.first_seed..args.first_seed + args.seeds {
        for nemesis in &nemeses {
            for mut plan in sets(&workloads, args.together, *nemesis, seed, args.seconds) {
                let cells = plan.cells();
                let open = |cell: &Cell| ledger.last_of(cell).is_none_or(|line| args.again && line.code != 0);
                plan.workloads = cells.iter().filter(|cell| open(cell)).map(|cell| cell.workload).collect();
                plans.extend((!plan.workloads.is_empty()).then_some(plan));
            }
        }
    }
    let build = build().await;
    let count = plans.len();
    let mut runs = stream::iter(plans).map(|plan| one(plan, &args.common)).buffer_unordered(usize::from(args.jobs.get()));
    let mut number = 0;
    while let Some(outcomes) = runs.next().await {
        number += 1;
        for outcome in outcomes? {
            let Done { workload, nemesis, seed, verdict, .. } = &outcome;
            println!("{number} of {count}: {workload}-{nemesis}-{seed}: {}", verdict.lines().next().unwrap_or_default());
            ledger.add(Line::of(&outcome, &build))?;
        }
        fs::write(args.common.out.join("table.md"), table(&ledger.lines))?;
    }
    println!("\n{}", table(&ledger.lines));
    Ok(worst(&ledger.lines))
}

/// The runs that take in these workloads: one for each, or as few as their settings allow.
fn sets(workloads: &[Workload], together: bool, nemesis: Nemesis, seed: u64, seconds: u64) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    for workload in workloads {
        let with = |plan: &Plan| Plan { workloads: plan.workloads.iter().chain([workload]).copied().collect(), ..plan.clone() };
        match plans.iter_mut().find(|plan| together && with(plan).variables().is_ok()) {
            Some(plan) => plan.workloads.push(*workload),
            None => plans.push(Plan { workloads: vec![*workload], nemesis, seed, seconds }),
        }
    }
    plans
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
    let build = build().await;
    let mut done = Vec::new();
    let plan = |(number, nemesis): (usize, Nemesis)| Plan {
        workloads: vec![workloads[number % workloads.len()]],
        nemesis,
        seed,
        seconds: SHORT_SECONDS,
    };
    for plan in nemeses.into_iter().enumerate().map(plan) {
        // What may not end in time is not begun: a usual run takes twice its seconds.
        if Instant::now() + Duration::from_secs(SHORT_SECONDS * 2 + 10) > end {
            break;
        }
        println!("{}", plan.name());
        for outcome in one(plan, common).await? {
            println!("    {}: {}", outcome.workload, outcome.verdict);
            done.push(Line::of(&outcome, &build));
        }
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
    workloads: &[Workload],
    nemesis: Option<Nemesis>,
    seed: u64,
    seconds: u64,
    common: &Common,
) -> anyhow::Result<u8> {
    let end = Instant::now() + Duration::from_secs_f64(hours * 3600.0);
    let mut chance = StdRng::seed_from_u64(seed);
    let nemeses = available(common);
    let build = build().await;
    let mut done = Vec::new();
    while Instant::now() < end {
        let any = Workload::value_variants();
        let workloads = if workloads.is_empty() { vec![any[chance.random_range(0..any.len())]] } else { workloads.to_vec() };
        let nemesis = nemesis.unwrap_or_else(|| nemeses[chance.random_range(0..nemeses.len())]);
        let plan = Plan { workloads, nemesis, seed: u64::from(chance.random::<u32>()), seconds };
        println!("{}", plan.name());
        for outcome in one(plan, common).await? {
            println!("    {}: {}", outcome.workload, outcome.verdict);
            done.push(Line::of(&outcome, &build));
        }
        fs::write(common.out.join("table.md"), table(&done))?;
    }
    println!("\n{}", table(&done));
    Ok(worst(&done))
}

fn worst(lines: &[Line]) -> u8 {
    last(lines).iter().map(|line| line.code).reduce(worse).unwrap_or(2)
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
async fn one(plan: Plan, common: &Common) -> anyhow::Result<Vec<Done>> {
    fs::create_dir_all(&common.out)?;
    let cells = plan.cells();
    for path in cells.iter().map(|cell| cell.outcome_path(&common.out)).filter(|path| path.exists()) {
        fs::remove_file(&path)?;
    }
    let printed = format!("{}.txt", plan.name());
    let log = File::create(common.out.join(&printed))?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .arg("run")
        .args(["--workload", &plan.workload_names(), "--nemesis", &plan.nemesis.name()])
        .args(["--seed", &plan.seed.to_string(), "--seconds", &plan.seconds.to_string()])
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
    let status = if let Ok(status) = tokio::time::timeout(Duration::from_secs(plan.seconds) + BESIDE, child.wait()).await {
        format!("it ended with {}", status?)
    } else {
        child.kill().await?;
        "it took too long and was killed".to_owned()
    };
    let done = |cell: Cell| {
        if let Some(done) = outcome(&cell, &common.out)? {
            return Ok(done);
        }
        let done = Done {
            workload: workload_name(cell.workload),
            nemesis: cell.nemesis.name(),
            seed: cell.seed,
            seconds: cell.seconds,
            code: 2,
            verdict: format!("unknown: {status}; see {printed}"),
            operations: Operations::default(),
            faults: Vec::new(),
        };
        fs::write(cell.outcome_path(&common.out), serde_json::to_vec_pretty(&done)?)?;
        Ok(done)
    };
    cells.into_iter().map(done).collect()
}

/// What became of a run, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    workload: String,
    nemesis: String,
    seed: u64,
    seconds: u64,
    /// 0 valid, 1 invalid, 2 unknown.
    code: u8,
    /// Operations that happened, that did not, that may have.
    operations: [u64; 3],
    faults: u64,
    /// Of which commit the harness and the nodes are, as far as is known.
    build: String,
    /// The verdict's first line.
    verdict: String,
}

impl Line {
    fn of(done: &Done, build: &str) -> Self {
        Self {
            workload: done.workload.clone(),
            nemesis: done.nemesis.clone(),
            seed: done.seed,
            seconds: done.seconds,
            code: done.code,
            operations: [done.operations.ok, done.operations.failed, done.operations.unknown],
            faults: done.faults.len() as u64,
            build: build.to_owned(),
            verdict: done.verdict.lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn is_of(&self, cell: &Cell) -> bool {
        self.seed == cell.seed && self.nemesis == cell.nemesis.name() && self.workload == workload_name(cell.workload)
    }

    fn is_of_the_cell_of(&self, other: &Self) -> bool {
        (&self.workload, &self.nemesis, self.seed) == (&other.workload, &other.nemesis, other.seed)
    }

    fn read(text: &str) -> Option<Self> {
        let [workload, nemesis, seed, seconds, code, ok, failed, unknown, faults, build, verdict] =
            text.splitn(COLUMNS.len(), ',').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            workload: workload.to_owned(),
            nemesis: nemesis.to_owned(),
            seed: seed.parse().ok()?,
            seconds: seconds.parse().ok()?,
            code: code.parse().ok()?,
            operations: [ok.parse().ok()?, failed.parse().ok()?, unknown.parse().ok()?],
            faults: faults.parse().ok()?,
            build: build.to_owned(),
            verdict: verdict.to_owned(),
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, nemesis, seed, seconds, code, operations: [ok, failed, unknown], faults, build, verdict } = self;
        write!(f, "{workload},{nemesis},{seed},{seconds},{code},{ok},{failed},{unknown},{faults},{build},{verdict}")
    }
}

/// What stands in a line of the ledger; the verdict is last, since it may have commas.
const COLUMNS: [&str; 11] = ["workload", "nemesis", "seed", "seconds", "code", "ok", "failed", "unknown", "faults", "build", "verdict"];

/// A file with a line for each run, in the order in which they ended; none is ever changed.
struct Ledger {
    file: File,
    lines: Vec<Line>,
}

impl Ledger {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::options().create(true).append(true).read(true).open(path).with_context(|| path.display().to_string())?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if text.is_empty() {
            writeln!(file, "{}", COLUMNS.join(","))?;
        }
        let read = |(number, line)| Line::read(line).with_context(|| format!("{}: line {number}: {line:?}", path.display()));
        let lines = (1..).zip(text.lines()).skip(1).map(read).collect::<Result<_, _>>()?;
        Ok(Self { file, lines })
    }

    fn last_of(&self, cell: &Cell) -> Option<&Line> {
        self.lines.iter().rev().find(|line| line.is_of(cell))
    }

    fn add(&mut self, line: Line) -> anyhow::Result<()> {
        writeln!(self.file, "{line}")?;
        self.lines.push(line);
        Ok(())
    }
}

/// The commit of the working directory, with a `+` when it was changed; `-` where there is none to be seen.
async fn build() -> String {
    let mut git = tokio::process::Command::new("git");
    let output = git.args(["describe", "--always", "--exclude=*", "--dirty=+"]).output().await;
    let text = output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// The last line of each cell.
fn last(lines: &[Line]) -> Vec<&Line> {
    let mut seen = HashSet::new();
    let mut last: Vec<&Line> = lines.iter().rev().filter(|line| seen.insert((&line.workload, &line.nemesis, line.seed))).collect();
    last.reverse();
    last
}

/// Markdown: a line for each nemesis, a column for each workload with how many of its seeds are valid; then every run that was
/// not. A cell that was run again counts as it ended the last time.
fn table(lines: &[Line]) -> String {
    let last = last(lines);
    let mut workloads: Vec<&str> = last.iter().map(|line| line.workload.as_str()).collect();
    let mut nemeses: Vec<&str> = last.iter().map(|line| line.nemesis.as_str()).collect();
    for names in [&mut workloads, &mut nemeses] {
        names.sort_unstable();
        names.dedup();
    }
    let mut text = format!("| nemesis | {} | operations ok / failed / unknown | faults |\n", workloads.join(" | "));
    writeln!(text, "|---{}|--:|--:|", "|--:".repeat(workloads.len())).expect("a string takes text");
    let mut row = |name: &str, of: &[&Line]| {
        write!(text, "| {name} |").expect("a string takes text");
        for workload in &workloads {
            let runs = of.iter().filter(|line| line.workload == *workload);
            let (valid, all) = runs.fold((0, 0), |(valid, all), line| (valid + u32::from(line.code == 0), all + 1));
            let cell = if all == 0 { String::new() } else { format!("{valid} of {all} ") };
            write!(text, " {cell}|").expect("a string takes text");
        }
        let sum = |index: usize| of.iter().map(|line| line.operations[index]).sum::<u64>();
        let faults: u64 = of.iter().map(|line| line.faults).sum();
        writeln!(text, " {} / {} / {} | {faults} |", sum(0), sum(1), sum(2)).expect("a string takes text");
    };
    for nemesis in &nemeses {
        row(nemesis, &last.iter().copied().filter(|line| line.nemesis == *nemesis).collect::<Vec<_>>());
    }
    row("all", &last);
    let failed: Vec<&Line> = lines.iter().filter(|line| line.code != 0).collect();
    if !failed.is_empty() {
        text.push_str("\nNot valid:\n\n");
        for line in failed {
            let after = last.iter().find(|other| line.is_of_the_cell_of(other)).is_some_and(|other| other.code == 0);
            let after = if after { "; valid when run again" } else { "" };
            let Line { workload, nemesis, seed, verdict, .. } = line;
            writeln!(text, "- {workload} {nemesis} seed {seed}: {verdict}{after}").expect("a string takes text");
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

    fn line(nemesis: &str, seed: u64, code: u8) -> Line {
        let verdict = if code == 0 { "valid: all" } else { "INVALID: 3 lost, 1 twice" }.to_owned();
        let (workload, nemesis, build) = ("schedules".to_owned(), nemesis.to_owned(), "abc".to_owned());
        Line { workload, nemesis, seed, seconds: 5, code, operations: [10, 2, 1], faults: 2, build, verdict }
    }

    #[test]
    fn the_table_adds_up_seeds_and_names_what_failed() {
        let text = table(&[line("kill", 1, 0), line("pause", 1, 1), line("kill", 2, 1), line("kill", 2, 0)]);
        assert!(text.contains("| kill | 2 of 2 | 20 / 4 / 2 | 4 |"), "{text}");
        assert!(text.contains("| pause | 0 of 1 | 10 / 2 / 1 | 2 |"), "{text}");
        assert!(text.contains("| all | 2 of 3 | 30 / 6 / 3 | 6 |"), "{text}");
        assert!(text.contains("- schedules pause seed 1: INVALID: 3 lost, 1 twice\n"), "{text}");
        assert!(text.contains("- schedules kill seed 2: INVALID: 3 lost, 1 twice; valid when run again\n"), "{text}");
    }

    #[test]
    fn a_ledger_has_what_was_added_when_it_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("matrix.csv");
        let cell = Cell { workload: Workload::Schedules, nemesis: Nemesis::Kill, seed: 2, seconds: 5 };
        let mut ledger = Ledger::open(&path).expect("it opens");
        assert!(ledger.last_of(&cell).is_none());
        for line in [line("kill", 2, 1), line("kill", 2, 0), line("kill", 3, 1)] {
            ledger.add(line).expect("it is written");
        }
        let again = Ledger::open(&path).expect("it opens");
        assert_eq!(again.lines, ledger.lines);
        assert_eq!(again.last_of(&cell), Some(&line("kill", 2, 0)));
        fs::write(&path, "workload\nnonsense\n").expect("it is written");
        assert!(Ledger::open(&path).is_err());
    }

    #[test]
    fn what_is_wrong_weighs_more_than_what_is_not_known() {
        assert_eq!(worst(&[line("kill", 1, 0), line("kill", 2, 2), line("kill", 3, 1)]), 1);
        assert_eq!(worst(&[line("kill", 1, 0), line("kill", 2, 2)]), 2);
        assert_eq!(worst(&[line("kill", 1, 2), line("kill", 1, 0)]), 0);
        assert_eq!(worst(&[]), 2);
    }
}
