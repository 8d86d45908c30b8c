//! Fault runs: a workload, a nemesis, a seed. Exit code 0 valid, 1 invalid, 2 unknown; the history is kept as evidence.
//!
//!     cargo run -p praetor-jepsen -- --workload publish-consume --nemesis kill --seconds 60

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jepsen::cluster::{Cluster, Options};
use jepsen::database::Kind;
use jepsen::history::History;
use jepsen::nemesis::Nemesis;
use jepsen::verdict::Verdict;
use jepsen::workload::{Context, Workload};
use tokio_util::sync::CancellationToken;

/// Breaks a Praetor group on purpose and judges what its clients saw.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// What clients do
    #[arg(long, value_enum)]
    workload: Workload,
    /// What goes wrong
    #[arg(long, value_enum, default_value = "kill")]
    nemesis: Nemesis,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Replays a run's choices (not its timing)
    #[arg(long)]
    seed: Option<u64>,
    /// The praetor program
    #[arg(long, env = "PRAETOR_BINARY", default_value = "target/release/praetor")]
    binary: PathBuf,
    /// Where the history goes
    #[arg(long, default_value = "target/jepsen")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let verdict = run(&args).await.unwrap_or_else(|error| Verdict::Unknown(format!("{error:#}")));
    println!("{verdict}");
    ExitCode::from(verdict.exit_code())
}

async fn run(args: &Args) -> anyhow::Result<Verdict> {
    let seed = args.seed.unwrap_or_else(rand::random);
    std::fs::create_dir_all(&args.out)?;
    let path = args.out.join(format!("{:?}-{:?}-{seed}.jsonl", args.workload, args.nemesis).to_lowercase());
    let history = History::create(&path, seed, &format!("{args:?}"))?;
    println!("seed {seed}, history {}", path.display());

    let mut cluster = Cluster::start(Options::new(args.nodes, Kind::Postgres).binary(&args.binary)).await?;
    let stop = CancellationToken::new();
    let apis = Arc::new(cluster.ids().into_iter().map(|id| cluster.api(id)).collect());
    let context = Context { apis, history: history.clone(), stop: stop.clone() };
    let workload = args.workload;
    #[expect(clippy::disallowed_methods, reason = "the harness has one task, and joins it below")]
    let load = tokio::spawn(workload.run(context));

    let strikes = args.nemesis.trouble(&mut cluster, &history, seed, Duration::from_secs(args.seconds)).await?;
    // The load goes on while the group recovers; then it ends.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.cancel();
    load.await?;

    let verdict = workload.check(&cluster, &history).await?;
    let errors = cluster.unexpected();
    println!("{strikes} strikes");
    Ok(match verdict {
        Verdict::Valid(_) if !errors.is_empty() => Verdict::Invalid(format!("errors in the logs: {}", errors.join("; "))),
        Verdict::Valid(_) if args.nemesis != Nemesis::None && strikes == 0 => Verdict::Unknown("the nemesis never struck".to_owned()),
        other => other,
    })
}
