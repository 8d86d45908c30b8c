//! The load of `publish-consume` on servers that are not ours, with the same clients and the same checker: what a Python
//! server loses under the trouble that ours loses nothing under. The trouble is commands, since we do not know how such
//! servers are started.
//!
//! ```text
//! jepsen control --apis http://127.0.0.1:4201/api,http://127.0.0.1:4202/api \
//!     --strike 'kill -9 $(pidof redis-server)' --heal 'redis-server --daemonize yes'
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::client::Outcome;
use crate::history::History;
use crate::verdict::Verdict;
use crate::workload::{Context, Workload, publish_consume};

/// How the run is to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// APIs of the servers
    #[arg(long, value_delimiter = ',', required = true)]
    pub apis: Vec<String>,
    /// A command of the shell that breaks something; none for no trouble
    #[arg(long)]
    pub strike: Option<String>,
    /// A command of the shell that puts it right again
    #[arg(long)]
    pub heal: Option<String>,
    /// From one strike to the next
    #[arg(long, default_value_t = 10)]
    pub every: u64,
    /// From a strike to its healing
    #[arg(long, default_value_t = 3)]
    pub down: u64,
    /// How long the load lasts
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How long events may take to be readable in the end
    #[arg(long, default_value_t = 120)]
    pub patience: u64,
    /// Replays the clients' choices (not their timing)
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the history goes
    #[arg(long, default_value = "target/jepsen")]
    pub out: PathBuf,
}

/// Puts the load on, strikes, heals, and judges.
///
/// # Errors
/// A command failed, or no server answers in the end.
pub async fn run(args: &Args) -> anyhow::Result<Verdict> {
    std::fs::create_dir_all(&args.out)?;
    let history = History::create(&args.out.join(format!("control-{}.jsonl", args.seed)), args.seed, &format!("{args:?}"))?;
    let stop = CancellationToken::new();
    let context = Context { apis: Arc::new(args.apis.clone()), history: history.clone(), stop: stop.clone(), seed: args.seed };
    let trouble = async {
        let strikes = strike(args, &history).await;
        stop.cancel();
        strikes
    };
    let (strikes, ()) = futures_util::future::join(trouble, Workload::PublishConsume.run(context)).await;
    let strikes = strikes?;
    println!("{strikes} strikes");
    let verdict = publish_consume::check_by_api(&args.apis, &history, Duration::from_secs(args.patience)).await?;
    Ok(match verdict {
        Verdict::Valid(_) if args.strike.is_some() && strikes == 0 => Verdict::Unknown("nothing was struck".to_owned()),
        other => other,
    })
}

async fn strike(args: &Args, history: &History) -> anyhow::Result<u64> {
    let lasting = Duration::from_secs(args.seconds);
    let struck = async {
        let mut strikes = 0;
        let Some(command) = &args.strike else { return Ok(strikes) };
        // Whole rounds, so that all is healed in the end.
        for _ in 0..args.seconds / (args.every + args.down).max(1) {
            tokio::time::sleep(Duration::from_secs(args.every)).await;
            shell("strike", command, history).await?;
            strikes += 1;
            tokio::time::sleep(Duration::from_secs(args.down)).await;
            if let Some(heal) = &args.heal {
                shell("heal", heal, history).await?;
            }
        }
        Ok::<_, anyhow::Error>(strikes)
    };
    let (strikes, ()) = futures_util::future::join(struck, tokio::time::sleep(lasting)).await;
    strikes
}

async fn shell(what: &str, command: &str, history: &History) -> anyhow::Result<()> {
    history.add("nemesis", what, json!(command), None);
    let status = Command::new("sh").args(["-c", command]).status().await?;
    history.add("nemesis", what, json!(status.to_string()), Some(if status.success() { Outcome::Ok } else { Outcome::Failed }));
    anyhow::ensure!(status.success(), "{command} ended with {status}");
    Ok(())
}
