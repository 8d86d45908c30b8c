//! One run: workloads, a nemesis, a seed. Starts everything, breaks it, judges, and writes what each workload saw: the
//! history (`.jsonl`), the outcome (`.json`), a page with plots (`.html`), and the nodes' logs where it does not pass.

use std::collections::BTreeMap;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What clients do, all of it at once on the same nodes.
    pub workloads: Vec<Workload>,
    /// What goes wrong.
    pub nemesis: Nemesis,
    /// Replays a run's choices, not its timing.
    pub seed: u64,
    /// For how long things go wrong.
    pub seconds: u64,
}

impl Plan {
    /// What is judged, each apart.
    pub fn cells(&self) -> Vec<Cell> {
        let Self { nemesis, seed, seconds, .. } = *self;
        self.workloads.iter().map(|workload| Cell { workload: *workload, nemesis, seed, seconds }).collect()
    }

    /// Its workloads as on the command line.
    pub fn workload_names(&self) -> String {
        self.workloads.iter().copied().map(workload_name).collect::<Vec<_>>().join(",")
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.workload_names(), self.nemesis.name(), self.seed)
    }

    /// The settings that its workloads need of the nodes.
    ///
    /// # Errors
    /// Two of them want another value for the same setting.
    pub fn variables(&self) -> anyhow::Result<BTreeMap<&'static str, String>> {
        let mut variables = BTreeMap::new();
        for (name, value) in self.workloads.iter().flat_map(|workload| workload.variables()) {
            if let Some(other) = variables.insert(name, value.clone()) {
                ensure!(other == value, "{}: workloads need {name}={other} and {name}={value}, so they cannot run together", self.name());
            }
        }
        Ok(variables)
    }
}

/// A workload's part of a run.
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

/// Makes a run in network namespaces of its own, which takes a second process; or right here, on 127.0.0.1.
///
/// # Errors
/// It could not even begin.
pub async fn run(plan: &Plan, common: &Common, inside: Option<&str>) -> anyhow::Result<u8> {
    if common.loopback || inside.is_some() {
        return here(plan, common, inside).await;
    }
    let namespaces = Namespaces::create(common.nodes)?;
    let mut command = tokio::process::Command::from(namespaces.inside(&std::env::current_exe()?));
    // The same words again, the seed where it was chosen just now, and the name of the network.
    command.args(std::env::args_os().skip(1)).arg("--inside").arg(namespaces.prefix());
    if !std::env::args().any(|word| word == "--seed" || word.starts_with("--seed=")) {
        command.args(["--seed", &plan.seed.to_string()]);
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

async fn here(plan: &Plan, common: &Common, inside: Option<&str>) -> anyhow::Result<u8> {
    std::fs::create_dir_all(&common.out)?;
    println!("{}: seed {}", plan.name(), plan.seed);
    let about = format!("{}, {common:?}", plan.name());
    let create = |cell: Cell| Ok((cell, History::create(&common.out.join(format!("{}.jsonl", cell.name())), cell.seed, &about)?));
    let cells = plan.cells().into_iter().map(create).collect::<anyhow::Result<Vec<_>>>()?;
    let mut faults = Vec::new();
    let verdicts = match whole_run(plan, common, inside, &cells, &mut faults).await {
        Ok(verdicts) => verdicts,
        Err(error) => vec![unknown(error); cells.len()],
    };
    let mut code = 0;
    for ((cell, history), verdict) in cells.into_iter().zip(verdicts) {
        let entries = history.entries();
        let done = Done {
            workload: workload_name(cell.workload),
            nemesis: cell.nemesis.name(),
            seed: cell.seed,
            seconds: cell.seconds,
            code: verdict.exit_code(),
            verdict: verdict.to_string(),
            operations: Operations::of(&entries),
            faults: faults.clone(),
        };
        std::fs::write(common.out.join(format!("{}.html", cell.name())), report::page(&done, &entries))?;
        std::fs::write(cell.outcome_path(&common.out), serde_json::to_vec_pretty(&done)?)?;
        println!("{}: {} operations, {} faults\n{verdict}", done.workload, done.operations.all(), done.faults.len());
        code = worse(code, done.code);
    }
    Ok(code)
}

fn unknown(error: anyhow::Error) -> Verdict {
    Verdict::Unknown(format!("{error:#}"))
}

/// What is wrong weighs more than what is not known.
pub(crate) fn worse(a: u8, b: u8) -> u8 {
    if a == 1 || b == 1 { 1 } else { a.max(b) }
}

/// A verdict for each cell.
async fn whole_run(
    plan: &Plan,
    common: &Common,
    inside: Option<&str>,
    cells: &[(Cell, History)],
    faults: &mut Vec<Injected>,
) -> anyhow::Result<Vec<Verdict>> {
    let histories: Vec<History> = cells.iter().map(|(_, history)| history.clone()).collect();
    let mut site = set_up(plan, common, inside, &histories).await?;
    let stop = CancellationToken::new();
    let apis = Arc::new(site.cluster.ids().into_iter().map(|id| site.cluster.api(id)).collect::<Vec<_>>());
    let load = |(cell, history): &(Cell, History)| {
        let context = Context { apis: apis.clone(), history: history.clone(), stop: stop.clone(), seed: plan.seed };
        spawn(cell.workload.run(context))
    };
    let mut loads: Vec<_> = cells.iter().map(load).collect();
    let observer = spawn(observe(apis.clone(), histories, stop.clone()));

    let trouble = plan.nemesis.trouble(&mut site, plan.seed, Duration::from_secs(plan.seconds), faults).await;
    // The load goes on while the group recovers; then it ends.
    tokio::time::sleep(RECOVERY).await;
    stop.cancel();
    let ended = tokio::time::timeout(LOAD_ENDS_WITHIN, futures_util::future::try_join_all(&mut loads)).await;
    loads.iter().for_each(tokio::task::JoinHandle::abort);
    observer.await?;
    let judged = async {
        trouble?;
        ended.with_context(|| format!("clients did not end within {} s", LOAD_ENDS_WITHIN.as_secs()))??;
        // All at once, since each waits for something.
        let judged = cells.iter().map(async |(cell, history)| {
            let verdict = tokio::time::timeout(JUDGED_WITHIN, cell.workload.check(&site.cluster, history)).await;
            verdict.context("the judging took too long").flatten().unwrap_or_else(unknown)
        });
        Ok(futures_util::future::join_all(judged).await)
    };
    let mut verdicts = judged.await.unwrap_or_else(|error| vec![unknown(error); cells.len()]);
    let errors = site.cluster.unexpected();
    for verdict in &mut verdicts {
        if let Verdict::Valid(_) = verdict {
            if !errors.is_empty() {
                *verdict = Verdict::Invalid(format!("errors in the logs: {}", errors.join("; ")));
            } else if plan.nemesis != Nemesis::None && faults.is_empty() {
                *verdict = Verdict::Unknown("the nemesis never struck".to_owned());
            }
        }
    }
    site.cluster.judged();
    for ((cell, _), _) in cells.iter().zip(&verdicts).filter(|(_, verdict)| verdict.exit_code() != 0) {
        for id in site.cluster.ids() {
            std::fs::write(common.out.join(format!("{}.node-{id}.log", cell.name())), site.cluster.log(id))?;
        }
    }
    Ok(verdicts)
}

#[expect(clippy::disallowed_methods, reason = "the harness has few tasks, and ends all of them itself")]
fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(task)
}

async fn set_up(plan: &Plan, common: &Common, inside: Option<&str>, histories: &[History]) -> anyhow::Result<Site> {
    let Plan { nemesis, seed, .. } = *plan;
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
    for (name, value) in plan.variables()? {
        options = options.variable(name, value);
    }
    for setting in &common.settings {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        options = options.variable(name, value);
    }
    let cluster = Cluster::start(nemesis.prepare(options)?).await?;
    let other = common.upgrade_to.as_ref().map(|path| path.canonicalize()).transpose()?;
    Ok(Site { cluster, postgres, standby, histories: histories.to_vec(), builds: [binary.clone(), other.unwrap_or(binary)] })
}

/// Writes down who leads, whenever that changes.
async fn observe(apis: Arc<Vec<String>>, histories: Vec<History>, stop: CancellationToken) {
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
            for history in &histories {
                history.add("observer", "leader", leader.clone(), None);
            }
            known = leader;
        }
    }
}
