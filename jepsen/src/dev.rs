//! `praetor dev` as a process: a local group behind its front door, which starts a killed node again by itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Http;
use crate::cluster::{Options, READY_WITHIN, last_lines, scrub, unexpected_lines};
use crate::database::{Database, Kind};
use crate::ports::Port;
use crate::wait::until;

/// How long the group may take to stop when told so, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A running `praetor dev`. Dropped, it is stopped, and panics where the log holds an unexpected ERROR.
#[derive(Debug)]
pub struct Dev {
    options: Options,
    child: Child,
    _leash: ChildStdin,
    door: Port,
    database: Database,
    directory: Option<TempDir>,
}

/// A node as the group tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its process.
    pub pid: u32,
    /// Its API, such as `http://127.0.0.1:4201/api`.
    pub api: String,
}

impl Dev {
    /// Starts the group and waits until all nodes are up and the front door answers.
    ///
    /// # Errors
    /// It does not come up; its log is part of the message.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let binary = options.program()?;
        let directory = tempfile::Builder::new().prefix("praetor-dev-").tempdir()?;
        let database = options.database(directory.path()).await?;
        let door = Port::take()?;
        let log = File::create(log_path(directory.path()))?;
        let mut command = Command::new(&binary);
        scrub(&mut command);
        command
            .arg("dev")
            .arg(format!("--nodes={}", options.nodes))
            .arg(format!("--port={}", door.number()))
            .arg(format!("--data-dir={}", directory.path().display()))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        if options.kind == Kind::Postgres {
            command.arg(format!("--database-url={}", database.url()));
        }
        for (name, value) in &options.variables {
            command.env(name, value);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let leash = child.stdin.take().context("a child has a standard input")?;
        let mut dev = Self { options, child, _leash: leash, door, database, directory: Some(directory) };
        dev.wait_up().await?;
        Ok(dev)
    }

    /// The front door's API, such as `http://127.0.0.1:4200/api`.
    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.door.number())
    }

    /// A client of the front door.
    pub fn http(&self) -> Http {
        Http::new(self.api())
    }

    /// The database of all nodes.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Where everything of this group lies.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// What it and its nodes printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(self.directory())).unwrap_or_default()
    }

    /// What the group says of itself, by whichever node.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self) -> anyhow::Result<Value> {
        match self.http().get("/cluster/status").await? {
            (200, status) => Ok(status),
            (status, body) => bail!("the front door answered {status}: {body}"),
        }
    }

    /// The nodes that are up, by id.
    ///
    /// # Errors
    /// No answer.
    pub async fn nodes(&self) -> anyhow::Result<BTreeMap<u64, Seen>> {
        Ok(nodes_of(&self.status().await?))
    }

    /// The node that `role` (`leader` or `services_leader`) names, once there is one that is up.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn named(&self, role: &str) -> anyhow::Result<(u64, Seen)> {
        until(Duration::from_secs(30), &format!("there is a {role}"), async || {
            let status = self.status().await.ok()?;
            let id = status[role].as_u64()?;
            Some((id, nodes_of(&status).remove(&id)?))
        })
        .await
    }

    /// SIGKILL to a node; the group starts it again by itself.
    ///
    /// # Errors
    /// No process of that id.
    pub fn kill(&self, node: &Seen) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(node.pid.cast_signed()), Signal::SIGKILL)?)
    }

    /// SIGTERM to a node, which hands over, finishes and ends; the group starts it again by itself.
    ///
    /// # Errors
    /// No process of that id.
    pub fn terminate(&self, node: &Seen) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(node.pid.cast_signed()), Signal::SIGTERM)?)
    }

    /// Waits until all nodes are up, the one that was `before` as another process.
    ///
    /// # Errors
    /// They are not in time.
    pub async fn whole_again(&self, before: &Seen) -> anyhow::Result<()> {
        let all = self.options.nodes as usize;
        until(READY_WITHIN, "the node is back", async || {
            let nodes = self.nodes().await.ok()?;
            let back = nodes.len() == all && nodes.values().all(|node| node.pid != before.pid);
            back.then_some(())
        })
        .await
        .with_context(|| last_lines(&self.log(), 60))
    }

    /// SIGTERM, as ctrl-C; gives how long the whole group took to end.
    ///
    /// # Errors
    /// It does not end in time.
    #[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
    pub async fn stop(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let child = &mut self.child;
        until(STOP_WITHIN, "praetor dev ends", async || child.try_wait().ok().flatten()).await?;
        Ok(begun.elapsed())
    }

    async fn wait_up(&mut self) -> anyhow::Result<()> {
        let all = self.options.nodes as usize;
        let probe = self.http();
        let mut ended = None;
        let child = &mut self.child;
        let waited = until(READY_WITHIN, "all nodes are up", async || {
            ended = child.try_wait().ok().flatten();
            let up = match probe.get("/cluster/status").await {
                Ok((200, status)) => nodes_of(&status).len() == all && status["services_leader"].is_u64(),
                _ => false,
            };
            (up || ended.is_some()).then_some(())
        })
        .await;
        if let Some(status) = ended {
            bail!("praetor dev ended with {status}:\n{}", last_lines(&self.log(), 60));
        }
        waited.with_context(|| last_lines(&self.log(), 60))
    }
}

fn nodes_of(status: &Value) -> BTreeMap<u64, Seen> {
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let seen = |node: &Value| {
        let pid = u32::try_from(node["pid"].as_u64()?).ok()?;
        let api = format!("http://{}/api", node["http"].as_str()?);
        (node["up"] == true).then_some((node["id"].as_u64()?, Seen { pid, api }))
    };
    nodes.iter().filter_map(seen).collect()
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("dev.log")
}

impl Drop for Dev {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await, and this is no server")]
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let told = matches!(self.child.try_wait(), Ok(None)) && kill(pid, Signal::SIGTERM).is_ok();
        let deadline = Instant::now() + STOP_WITHIN;
        while told && matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Its children hold pipes to it and end with it.
        let killed = matches!(self.child.try_wait(), Ok(None));
        if killed && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("praetor dev could not be ended: {error}");
        }
        let log = self.log();
        let mut unexpected = unexpected_lines(&log, &self.options.allowed);
        if killed {
            unexpected.push(format!("praetor dev did not stop within {} s", STOP_WITHIN.as_secs()));
        }
        if !unexpected.is_empty() {
            println!("unexpected in the log of praetor dev:\n{}", unexpected.join("\n"));
        }
        if (std::thread::panicking() || !unexpected.is_empty())
            && let Some(directory) = self.directory.take()
        {
            eprintln!("--- praetor dev, last lines\n{}\nkept: {}", last_lines(&log, 60), directory.keep().display());
        }
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "unexpected errors in the log:\n{}", unexpected.join("\n"));
        }
    }
}
