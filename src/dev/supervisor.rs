//! The nodes as child processes: started, shown when they die, started again, stopped together.
//!
//! Each child holds the reading end of a pipe as its standard input; when this process ends in whatever way, the pipe
//! closes and the child stops. Children are in process groups of their own, so that ctrl-C reaches this process only.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::{Plan, PlannedNode};
use crate::task::Tasks;

/// The pause before a node that died is started again: long enough to see it.
const RESTART_AFTER: Duration = Duration::from_secs(3);
/// How long a node may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The children; drop it after [`Supervisor::stop`].
pub(super) struct Supervisor {
    running: Arc<Mutex<BTreeMap<u64, u32>>>,
    stopping: CancellationToken,
    /// How many nodes are still looked after.
    alive: watch::Receiver<usize>,
}

impl Supervisor {
    /// Starts all nodes of the plan, which send browsers to `ui_api_url`.
    pub(super) fn start(plan: &Plan, ui_api_url: Option<&str>, restart: bool, tasks: &Tasks) -> anyhow::Result<Self> {
        let running = Arc::new(Mutex::new(BTreeMap::new()));
        let stopping = CancellationToken::new();
        let (alive, seen) = watch::channel(plan.nodes.len());
        let alive = Arc::new(alive);
        for node in &plan.nodes {
            let launch = Launch::new(plan, node, ui_api_url)?;
            let child = launch.spawn(tasks)?;
            running.lock().insert(node.id, child.child.id().unwrap_or_default());
            let keeper = Keeper { launch, restart, running: Arc::clone(&running), stopping: stopping.clone(), tasks: tasks.clone() };
            let alive = Arc::clone(&alive);
            tasks.spawn("dev.keeper", async move {
                keeper.keep(child).await;
                alive.send_modify(|count| *count -= 1);
            });
        }
        Ok(Self { running, stopping, alive: seen })
    }

    /// The process id of a node that runs.
    pub(super) fn pid(&self, node: u64) -> Option<u32> {
        self.running.lock().get(&node).copied()
    }

    /// Resolves when no node runs and none will be started again.
    pub(super) async fn all_dead(&self) {
        let mut alive = self.alive.clone();
        // An error means that every keeper is gone, which is the same.
        drop(alive.wait_for(|count| *count == 0).await);
    }

    /// Stops all nodes at once and waits for them.
    pub(super) async fn stop(&self) {
        self.stopping.cancel();
        self.all_dead().await;
    }
}

/// How to start one node.
struct Launch {
    program: std::path::PathBuf,
    arguments: Vec<String>,
    home: std::path::PathBuf,
    ui_api_url: Option<String>,
    node: PlannedNode,
}

impl Launch {
    fn new(plan: &Plan, node: &PlannedNode, ui_api_url: Option<&str>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let arguments = [
            "server".to_owned(),
            "start".to_owned(),
            format!("--host={}", node.http.ip()),
            format!("--port={}", node.http.port()),
            format!("--node-id={}", node.id),
            format!("--cluster-peers={}", plan.peers()),
            format!("--data-dir={}", node.data_dir.display()),
            format!("--database-url={}", plan.database_url),
            format!("--log-level={}", plan.log_level),
            "--exit-with-parent".to_owned(),
        ]
        .to_vec();
        let ui_api_url = ui_api_url.map(str::to_owned);
        Ok(Self { program, arguments, home: plan.directory.clone(), ui_api_url, node: node.clone() })
    }

    fn spawn(&self, tasks: &Tasks) -> anyhow::Result<Running> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("PREFECT_HOME", &self.home)
            .envs(self.ui_api_url.as_ref().map(|url| ("PREFECT_SERVER_UI_API_URL", url)))
            .stdin(Stdio::piped())
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start node {}", self.node.id))?;
        if let Some(lines) = child.stderr.take() {
            let id = self.node.id;
            tasks.spawn("dev.logs", async move {
                let mut lines = BufReader::new(lines).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    eprintln!("node {id} | {line}");
                }
            });
        }
        let leash = child.stdin.take().context("a child has a standard input")?;
        Ok(Running { child, leash })
    }
}

/// A child, and the end of the pipe by which it knows that we live; waiting for a child would close its own.
struct Running {
    child: Child,
    leash: ChildStdin,
}

/// Looks after one node.
struct Keeper {
    launch: Launch,
    restart: bool,
    running: Arc<Mutex<BTreeMap<u64, u32>>>,
    stopping: CancellationToken,
    tasks: Tasks,
}

impl Keeper {
    async fn keep(&self, mut running: Running) {
        let id = self.launch.node.id;
        loop {
            let ended = tokio::select! {
                ended = running.child.wait() => ended,
                () = self.stopping.cancelled() => return self.end(running).await,
            };
            self.running.lock().remove(&id);
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            if !self.restart {
                println!("node {id} died ({how}); it stays dead");
                return;
            }
            loop {
                println!("node {id} died ({how}); it starts again in {} s", RESTART_AFTER.as_secs());
                if self.stopping.run_until_cancelled(tokio::time::sleep(RESTART_AFTER)).await.is_none() {
                    return;
                }
                match self.launch.spawn(&self.tasks) {
                    Ok(next) => {
                        running = next;
                        break;
                    }
                    Err(error) => println!("{error:#}"),
                }
            }
            let pid = running.child.id().unwrap_or_default();
            self.running.lock().insert(id, pid);
            println!("node {id} runs again, pid {pid}");
        }
    }

    /// Lets go of it, which tells it that all others stop too; SIGKILL for one that does not listen.
    async fn end(&self, running: Running) {
        let Running { mut child, leash } = running;
        let id = self.launch.node.id;
        drop(leash);
        match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => println!("node {id} ended with {status}"),
            Ok(Err(error)) => println!("node {id} cannot be waited for: {error}"),
            Err(_) => {
                println!("node {id} did not stop within {} s and is killed", STOP_WITHIN.as_secs());
                // It may have ended just now.
                drop(child.kill().await);
            }
        }
        self.running.lock().remove(&id);
    }
}
