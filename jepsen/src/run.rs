//! One run: a workload, a nemesis, a seed. Starts everything, breaks it, judges, and writes what it saw: the history
//! (`.jsonl`), the outcome (`.json`), a page with plots (`.html`), and the nodes' logs where the run does not pass.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::client::Outcome;
use crate::cluster::{Cluster, Options};
use crate::database::Kind;
use crate::history::{Entry, History};
use crate::nemesis::{Injected, Nemesis, Site};
use crate::net::{Cable, HUB, Namespaces, Network};
use crate::postgres::Server;
use crate::report;
use crate::verdict::Verdict;
use crate::workload::{Context, Workload};

/// How long the load goes on after the last fault.
const RECOVERY: Duration = Duration::from_secs(3);

/// How long the clients may take to end when told so.
const LOAD_ENDS_WITHIN: Duration = Duration::from_mins(2);

/// How long the judging may take.
const JUDGED_WITHIN: Duration = Duration::from_mins(5);

/// How often the observer asks who leads.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// What every way to run has in common.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: u64,
    /// The praetor program
    #[arg(long, env = "PRAETOR_BINARY", default_value = "target/release/praetor")]
    pub binary: PathBuf,
    /// Another build of it, for the nemesis `upgrade` [default: the same one]
    #[arg(long)]
    pub upgrade_to: Option<PathBuf>,
    /// A setting of every node, may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
    /// Where histories, outcomes and reports go
    #[arg(long, default_value = "target/jepsen")]
    pub out: PathBuf,
    /// All nodes on 127.0.0.1, in place of network namespaces; needs no root, and faults of the network are not to be had
    #[arg(long)]
    pub loopback: bool,
}

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong.
    pub nemesis: Nemesis,
    /// Replays a run's choices, not its timing.
    pub seed: u64,
    /// For how long things go wrong.
    pub seconds: u64,
}

impl Cell {
    /// How its files begin.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", workload_name(self.workload), self.nemesis.name(), self.seed)
    }

    /// Where its outcome is.
    pub fn outcome_path(&self, out: &Path) -> PathBuf {
        out.join(format!("{}.json", self.name()))
    }
}

/// The name of a workload, as on the command line.
///
/// # Panics
/// Never: each has one.
pub fn workload_name(workload: Workload) -> String {
    workload.to_possible_value().expect("no variant is skipped").get_name().to_owned()
}

/// Operations by what became of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Operations {
    /// They happened.
    pub ok: u64,
    /// They did not happen.
    pub failed: u64,
    /// Either.
    pub unknown: u64,
}

impl Operations {
    /// Counts those of a history.
    pub fn of(entries: &[Entry]) -> Self {
        let count = |outcome: Outcome| entries.iter().filter(|entry| entry.outcome.as_ref() == Some(&outcome)).count() as u64;
        Self { ok: count(Outcome::Ok), failed: count(Outcome::Failed), unknown: count(Outcome::Unknown) }
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

/// What became of a run, as its file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Its workload's name.
    pub workload: String,
    /// Its nemesis' name.
    pub nemesis: String,
    /// Its seed.
    pub seed: u64,
    /// How long things went wrong.
    pub seconds: u64,
    /// 0 valid, 1 invalid, 2 unknown.
    pub code: u8,
    /// The verdict, in words.
    pub verdict: String,
    /// What clients did.
    pub operations: Operations,
    /// What went wrong.
    pub faults: Vec<Injected>,
}

/// Runs a cell in network namespaces of its own, which takes a second process; or right here, on 127.0.0.1.
///
/// # Errors
/// It could not even begin.
pub async fn run(cell: Cell, common: &Common, inside: Option<&str>) -> anyhow::Result<u8> {
    if common.loopback || inside.is_some() {
        return here(cell, common, inside).await;
    }
    let namespaces = Namespaces::create(common.nodes)?;
    let mut command = tokio::process::Command::from(namespaces.inside(&std::env::current_exe()?));
    // The same words again, the seed where it was chosen just now, and the name of the network.
    command.args(std::env::args_os().skip(1)).arg("--inside").arg(namespaces.prefix());
    if !std::env::args().any(|word| word == "--seed" || word.starts_with("--seed=")) {
        command.args(["--seed", &cell.seed.to_string()]);
    }
    let status = command.status();
    let status = tokio::select! {
        status = status => status?,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            return Ok(Verdict::Unknown(String::new()).exit_code());
        }
    };
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2))
}

async fn here(cell: Cell, common: &Common, inside: Option<&str>) -> anyhow::Result<u8> {
    std::fs::create_dir_all(&common.out)?;
    let name = cell.name();
    let history = History::create(&common.out.join(format!("{name}.jsonl")), cell.seed, &format!("{name}, {common:?}"))?;
    println!("{name}: seed {}", cell.seed);
    let mut faults = Vec::new();
    let verdict = match whole_run(cell, common, inside, &history, &mut faults).await {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Unknown(format!("{error:#}")),
    };
    let entries = history.entries();
    let done = Done {
        workload: workload_name(cell.workload),
        nemesis: cell.nemesis.name(),
        seed: cell.seed,
        seconds: cell.seconds,
        code: verdict.exit_code(),
        verdict: verdict.to_string(),
        operations: Operations::of(&entries),
        faults,
    };
    std::fs::write(common.out.join(format!("{name}.html")), report::page(&done, &entries))?;
    std::fs::write(cell.outcome_path(&common.out), serde_json::to_vec_pretty(&done)?)?;
    println!("{} operations, {} faults\n{verdict}", done.operations.all(), done.faults.len());
    Ok(done.code)
}

async fn whole_run(
    cell: Cell,
    common: &Common,
    inside: Option<&str>,
    history: &History,
    faults: &mut Vec<Injected>,
) -> anyhow::Result<Verdict> {
    let Cell { workload, nemesis, seed, seconds } = cell;
    let mut site = set_up(cell, common, inside, history).await?;
    let stop = CancellationToken::new();
    let apis = Arc::new(site.cluster.ids().into_iter().map(|id| site.cluster.api(id)).collect::<Vec<_>>());
    let context = Context { apis: apis.clone(), history: history.clone(), stop: stop.clone(), seed };
    #[expect(clippy::disallowed_methods, reason = "the harness has two tasks, and ends both below")]
    let (mut load, observer) = (tokio::spawn(workload.run(context)), tokio::spawn(observe(apis, history.clone(), stop.clone())));

    let trouble = nemesis.trouble(&mut site, seed, Duration::from_secs(seconds), faults).await;
    // The load goes on while the group recovers; then it ends.
    tokio::time::sleep(RECOVERY).await;
    stop.cancel();
    let ended = tokio::time::timeout(LOAD_ENDS_WITHIN, &mut load).await;
    load.abort();
    observer.await?;
    let verdict = async {
        trouble?;
        ended.with_context(|| format!("clients did not end within {} s", LOAD_ENDS_WITHIN.as_secs()))??;
        tokio::time::timeout(JUDGED_WITHIN, workload.check(&site.cluster, history)).await.context("the judging took too long")?
    };
    let verdict = verdict.await.unwrap_or_else(|error| Verdict::Unknown(format!("{error:#}")));
    let errors = site.cluster.unexpected();
    let verdict = match verdict {
        Verdict::Valid(_) if !errors.is_empty() => Verdict::Invalid(format!("errors in the logs: {}", errors.join("; "))),
        Verdict::Valid(_) if nemesis != Nemesis::None && faults.is_empty() => Verdict::Unknown("the nemesis never struck".to_owned()),
        other => other,
    };
    site.cluster.judged();
    if verdict.exit_code() != 0 {
        for id in site.cluster.ids() {
            std::fs::write(common.out.join(format!("{}.node-{id}.log", cell.name())), site.cluster.log(id))?;
        }
    }
    Ok(verdict)
}

async fn set_up(cell: Cell, common: &Common, inside: Option<&str>, history: &History) -> anyhow::Result<Site> {
    let Cell { workload, nemesis, seed, .. } = cell;
    let binary = common.binary.canonicalize().with_context(|| format!("there is no {}", common.binary.display()))?;
    let mut options = Options::new(common.nodes, Kind::Postgres).binary(&binary);
    let mut host = std::net::Ipv4Addr::LOCALHOST;
    if let Some(prefix) = inside {
        let network = Network::lay(prefix, common.nodes, nemesis.cable().unwrap_or(Cable::Plain), seed)?;
        options = options.network(Arc::new(network));
        host = HUB;
    } else {
        ensure!(nemesis.unprivileged(), "{} needs network namespaces, so it cannot be had with --loopback", nemesis.name());
    }
    let postgres = Server::start_at(host).await?;
    options = options.postgres(postgres.url());
    let mut standby = None;
    if nemesis.wants_standby() {
        let server = Server::standby_of(&postgres).await?;
        postgres.wait_for_standby().await?;
        options = options.hosts([&postgres, &server].map(|server| format!("{}:{}", server.host(), server.port())).to_vec());
        standby = Some(server);
    }
    for (name, value) in workload.variables() {
        options = options.variable(name, value);
    }
    for setting in &common.settings {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        options = options.variable(name, value);
    }
    let cluster = Cluster::start(nemesis.prepare(options)?).await?;
    let other = common.upgrade_to.as_ref().map(|path| path.canonicalize()).transpose()?;
    Ok(Site { cluster, postgres, standby, history: history.clone(), builds: [binary.clone(), other.unwrap_or(binary)] })
}

/// Writes down who leads, whenever that changes.
async fn observe(apis: Arc<Vec<String>>, history: History, stop: CancellationToken) {
    let clients: Vec<crate::client::Http> = apis.iter().map(crate::client::Http::new).collect();
    let mut known = json!(null);
    while stop.run_until_cancelled(tokio::time::sleep(OBSERVE_EVERY)).await.is_some() {
        let asked = clients.iter().map(|http| tokio::time::timeout(OBSERVE_EVERY, http.get("/cluster/status")));
        let answers = futures_util::future::join_all(asked).await;
        let told: Vec<u64> =
            answers.into_iter().filter_map(|answer| answer.ok()?.ok()).filter_map(|(_, status)| status["leader"].as_u64()).collect();
        let majority = |id: &u64| told.iter().filter(|other| *other == id).count() > clients.len() / 2;
        let leader = json!(told.iter().find(|id| majority(id)));
        if leader != known {
            history.add("observer", "leader", leader.clone(), None);
            known = leader;
        }
    }
}
