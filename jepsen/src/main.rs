//! Breaks a Praetor group on purpose and judges what its clients saw. Exit code 0 valid, 1 invalid, 2 unknown.
//!
//!     jepsen run --workload publish-consume --nemesis kill --seed 1 --seconds 60
//!     jepsen matrix --workloads all --nemeses all --seeds 2 --seconds 25 --out target/jepsen
//!     jepsen failover --kills 100

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jepsen::failover::{FailoverArgs, failover};
use jepsen::matrix::{self, MatrixArgs};
use jepsen::nemesis::Nemesis;
use jepsen::run::{self, Common, Plan};
use jepsen::workload::Workload;
use jepsen::{control, planted};

/// Breaks a Praetor group on purpose and judges what its clients saw.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run; or, with `--hours`, runs by chance until the time is over
    Run(RunArgs),
    /// Every workload with every nemesis; goes on where it stopped
    Matrix(MatrixArgs),
    /// A selection by seed that takes five minutes at most
    Short(ShortArgs),
    /// How long things stand still when the leader is killed
    Failover(FailoverArgs),
    /// Bugs put in on purpose, each by the run that must find it
    Planted(planted::Args),
    /// The event load on servers that run already, ours or not
    Control(control::Args),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What clients do; several, with commas between, on the same nodes [with --hours: any]
    #[arg(long, value_enum, value_delimiter = ',', required_unless_present = "hours")]
    workload: Vec<Workload>,
    /// What goes wrong [with --hours: anything]
    #[arg(long, value_enum, required_unless_present = "hours")]
    nemesis: Option<Nemesis>,
    /// How long each run is broken
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Replays a run's choices (not its timing)
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with one run after another for so many hours
    #[arg(long)]
    hours: Option<f64>,
    /// The network that this process is in
    #[arg(long, hide = true)]
    inside: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ShortArgs {
    /// Chooses what is run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

#[tokio::main]
async fn main() -> ExitCode {
    match dispatch(Cli::parse().command).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => {
            matrix::check(&args.common)?;
            let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
            if let Some(hours) = args.hours {
                return matrix::hours(hours, &args.workload, args.nemesis, seed, args.seconds, &args.common).await;
            }
            let Some(nemesis) = args.nemesis else { anyhow::bail!("--workload and --nemesis are needed, or --hours") };
            let plan = Plan { workloads: args.workload, nemesis, seed, seconds: args.seconds };
            run::run(&plan, &args.common, args.inside.as_deref()).await
        }
        Command::Matrix(args) => {
            matrix::check(&args.common)?;
            matrix::matrix(&args).await
        }
        Command::Short(args) => {
            matrix::check(&args.common)?;
            matrix::short(args.seed, &args.common).await
        }
        Command::Failover(args) => {
            matrix::check(&args.common)?;
            failover(&args).await
        }
        Command::Planted(args) => Ok(u8::from(!planted::run(&args).await?)),
        Command::Control(args) => {
            let verdict = control::run(&args).await?;
            println!("{verdict}");
            Ok(verdict.exit_code())
        }
    }
}
