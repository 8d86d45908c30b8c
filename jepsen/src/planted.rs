//! Shows that checkers catch what they are there for: for each bug that a build has on purpose (feature `planted-bugs`, see
//! `src/config/planted.rs`), the workload and the trouble that must bring it to light. The verdict must be invalid, and
//! for the reason that the bug gives.
//!
//! ```text
//! cargo build --features planted-bugs && cargo run -p praetor-jepsen -- planted --binary target/debug/praetor
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Options};
use crate::database::Kind;
use crate::history::History;
use crate::verdict::Verdict;
use crate::workload::{Context, Workload};

/// How the runs are to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A praetor program with the feature planted-bugs
    #[arg(long, env = "PRAETOR_BINARY", default_value = "target/debug/praetor")]
    pub binary: PathBuf,
    /// How long each run lasts
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Replays the choices of all runs (not their timing)
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only bugs whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Where histories go
    #[arg(long, default_value = "target/jepsen")]
    pub out: PathBuf,
}

/// What is done to the group meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// The services leader is killed and comes back, again and again.
    Kill,
    /// The services leader stands still until another one leads, and wakes up.
    Pause,
    /// Each node in turn is killed and comes back, faster.
    KillEach,
}

/// A bug, what must find it, and what must be said then.
struct Bug {
    name: &'static str,
    workload: Workload,
    trouble: Trouble,
    says: &'static str,
}

const fn bug(name: &'static str, workload: Workload, trouble: Trouble, says: &'static str) -> Bug {
    Bug { name, workload, trouble, says }
}

const BUGS: &[Bug] = &[
    bug("planted.ack_early", Workload::PublishConsume, Trouble::KillEach, "confirmed events lost"),
    bug("planted.no_dedupe", Workload::PublishConsume, Trouble::None, "twice"),
    bug("planted.cursor_without_effect", Workload::PublishConsume, Trouble::None, "confirmed events lost"),
    bug("planted.no_fence", Workload::Automations, Trouble::Pause, "under 2 keys"),
    bug("planted.action_key", Workload::Automations, Trouble::Kill, "keys"),
    bug("planted.stale_read", Workload::FlowRuns, Trouble::None, "not linearizable"),
    bug("planted.stale_read", Workload::Membership, Trouble::None, "not linearizable"),
    bug("planted.no_limit", Workload::Limits, Trouble::None, "are held; it has"),
    bug("planted.lease_leak", Workload::Limits, Trouble::None, "nobody holds one"),
    bug("planted.slot_twice", Workload::Schedules, Trouble::Kill, "2 runs for slot"),
    bug("planted.ack_ignored", Workload::BackgroundTasks, Trouble::None, "though it was acknowledged"),
    bug("planted.epoch_back", Workload::Membership, Trouble::Kill, "epoch"),
];

/// Runs them all, prints a row of a Markdown table for each. True where every one was found.
///
/// # Errors
/// A group did not start, or could not be looked at.
pub async fn run(args: &Args) -> anyhow::Result<bool> {
    std::fs::create_dir_all(&args.out)?;
    println!("| bug | workload | trouble | found | verdict |\n|---|---|---|---|---|");
    let mut all = true;
    for bug in BUGS.iter().filter(|bug| bug.name.contains(&args.only)) {
        let verdict = one(args, bug).await?;
        let found = matches!(&verdict, Verdict::Invalid(why) if why.contains(bug.says));
        all &= found;
        let told: String = verdict.to_string().chars().take(160).collect();
        println!("| {} | {:?} | {:?} | {} | {told} |", bug.name, bug.workload, bug.trouble, if found { "yes" } else { "NO" });
    }
    Ok(all)
}

async fn one(args: &Args, bug: &Bug) -> anyhow::Result<Verdict> {
    let name = format!("{}-{:?}-{}.jsonl", bug.name, bug.workload, args.seed).to_lowercase();
    let history = History::create(&args.out.join(name), args.seed, bug.name)?;
    let mut cluster = Cluster::start(options(&args.binary, bug)).await?;
    let stop = CancellationToken::new();
    let apis = Arc::new(cluster.ids().into_iter().map(|id| cluster.api(id)).collect());
    let context = Context { apis, history: history.clone(), stop: stop.clone(), seed: args.seed };
    let trouble = async {
        // The load is under way when the trouble begins.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let troubled = trouble(&mut cluster, &history, bug.trouble, Duration::from_secs(args.seconds)).await;
        stop.cancel();
        troubled
    };
    let (troubled, ()) = futures_util::future::join(trouble, bug.workload.run(context)).await;
    troubled?;
    bug.workload.check(&cluster, &history).await
}

fn options(binary: &Path, bug: &Bug) -> Options {
    // A node with a bug may well log errors; the verdict is that of the history alone.
    let options = Options::new(3, Kind::Postgres).binary(binary).variable("PRAETOR_FAILPOINT", bug.name).allow_error("");
    bug.workload.variables().into_iter().fold(options, |options, (name, value)| options.variable(name, value))
}

async fn trouble(cluster: &mut Cluster, history: &History, trouble: Trouble, lasting: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + lasting;
    let ids = cluster.ids();
    for turn in 0.. {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match trouble {
            Trouble::None => tokio::time::sleep(left).await,
            Trouble::Kill | Trouble::KillEach => {
                let victim = if trouble == Trouble::Kill { cluster.services_leader().await? } else { ids[turn % ids.len()] };
                history.add("nemesis", "kill", victim.into(), None);
                cluster.kill(victim)?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                cluster.restart(victim).await?;
                history.add("nemesis", "restarted", victim.into(), None);
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            Trouble::Pause => {
                let victim = cluster.services_leader().await?;
                history.add("nemesis", "pause", victim.into(), None);
                cluster.pause(victim)?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                cluster.resume(victim)?;
                history.add("nemesis", "resumed", victim.into(), None);
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
        }
    }
    for id in ids {
        cluster.wait_ready(id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_but_the_one_that_another_contains_has_a_bug_to_find() {
        use clap::ValueEnum;

        let found = |workload: &Workload| BUGS.iter().any(|bug| bug.workload == *workload);
        let without: Vec<_> = Workload::value_variants().iter().filter(|workload| !found(workload)).collect();
        assert_eq!(without, [&Workload::LeaderServices]);
    }
}
