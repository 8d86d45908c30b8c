//! Real processes: started on free ports in a temporary directory, killed, paused, restarted; their logs are kept and
//! an unexpected ERROR or panic in one fails the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Http;
use crate::database::{Database, Kind};
use crate::net::{Network, Place, run};
use crate::ports::Port;
use crate::preload::{CONTROL_VARIABLE, Control, Library};
use crate::wait::until;

/// Names the program, when [`Options::binary`] is not given.
pub const BINARY_VARIABLE: &str = "PRAETOR_BINARY";

/// What nodes show each other, where their addresses are not those of one machine.
const TOKEN: &str = "the-token-of-a-fault-run";

/// How long a group may take from start to ready: a debug build on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_mins(1);

/// How a group is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) nodes: u64,
    pub(crate) kind: Kind,
    binary: Option<PathBuf>,
    pub(crate) variables: Vec<(String, String)>,
    of_node: BTreeMap<u64, Vec<(String, String)>>,
    pub(crate) allowed: Vec<String>,
    postgres: Option<String>,
    through: Option<u16>,
    hosts: Vec<String>,
    network: Option<Arc<Network>>,
    library: Option<Arc<Library>>,
    disk_bytes: Option<u64>,
}

impl Options {
    /// A group of `nodes` on a database of `kind`.
    pub fn new(nodes: u64, kind: Kind) -> Self {
        Self {
            nodes,
            kind,
            binary: None,
            variables: Vec::new(),
            of_node: BTreeMap::new(),
            allowed: Vec::new(),
            postgres: None,
            through: None,
            hosts: Vec::new(),
            network: None,
            library: None,
            disk_bytes: None,
        }
    }

    /// The program to run.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// The PostgreSQL server to make the database on, in place of the one of all tests.
    #[must_use]
    pub fn postgres(mut self, url: impl Into<String>) -> Self {
        self.postgres = Some(url.into());
        self
    }

    /// The port by which nodes reach the PostgreSQL server, such as that of a proxy.
    #[must_use]
    pub fn through(mut self, port: u16) -> Self {
        self.through = Some(port);
        self
    }

    /// The servers that nodes are told of, such as `10.99.0.254:5432`, in place of the one the database was made on.
    #[must_use]
    pub fn hosts(mut self, hosts: Vec<String>) -> Self {
        self.hosts = hosts;
        self
    }

    /// Each node in a network namespace of its own.
    #[must_use]
    pub fn network(mut self, network: Arc<Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Puts a library into each node, through which its clock and its disk can be made to fail: see [`Cluster::faults`].
    #[must_use]
    pub fn faults(mut self, library: Arc<Library>) -> Self {
        self.library = Some(library);
        self
    }

    /// Each node's data directory is a file system of its own, of so many bytes. Needs root.
    #[must_use]
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// A setting of every node.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// A setting of one node.
    #[must_use]
    pub fn variable_of(mut self, id: u64, name: &str, value: impl ToString) -> Self {
        self.of_node.entry(id).or_default().push((name.to_owned(), value.to_string()));
        self
    }

    /// An ERROR line that contains `text` is expected.
    #[must_use]
    pub fn allow_error(mut self, text: &str) -> Self {
        self.allowed.push(text.to_owned());
        self
    }

    pub(crate) async fn database(&self, directory: &Path) -> anyhow::Result<Database> {
        let database = match &self.postgres {
            Some(url) => Database::on_postgres(url).await?,
            None => Database::create(self.kind, directory).await?,
        };
        let database = if self.hosts.is_empty() { database } else { database.on_hosts(&self.hosts) };
        Ok(match self.through {
            Some(port) => database.through(port),
            None => database,
        })
    }

    /// The program: the one given, or the one that [`BINARY_VARIABLE`] names.
    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        let named = || std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
        self.binary.clone().or_else(named).with_context(|| format!("{BINARY_VARIABLE} does not name the praetor program"))
    }
}

/// A running group. Dropped, it kills its processes and panics where a log holds an unexpected ERROR.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    nodes: BTreeMap<u64, Node>,
    database: Database,
    directory: Option<TempDir>,
    judged: bool,
}

/// A node's process, alive or not.
#[derive(Debug)]
struct Node {
    /// By which the group knows it: its place's number, until another node is put there.
    number: u64,
    http: Port,
    peer: Port,
    process: Option<Process>,
    binary: PathBuf,
    faults: Option<Control>,
    disk: Option<Disk>,
}

/// A file system in memory. Dropped, it is gone.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(&at)?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "jepsen", &at.display().to_string()])?;
        Ok(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l", &self.0.display().to_string()]) {
            eprintln!("a disk of a fault run stays mounted: {error:#}");
        }
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// The node stops when this closes, so that none outlives the test.
    leash: ChildStdin,
}

impl Cluster {
    /// Starts all nodes and waits until each is ready.
    ///
    /// # Errors
    /// One did not become ready; its log is part of the message.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(options).await?;
        for id in cluster.ids() {
            cluster.spawn(id)?;
        }
        for id in cluster.ids() {
            cluster.wait_ready(id).await?;
        }
        Ok(cluster)
    }

    /// Makes everything but the processes; [`Cluster::spawn`] starts them one by one.
    ///
    /// # Errors
    /// No program, port or database.
    pub async fn prepare(options: Options) -> anyhow::Result<Self> {
        let binary = options.program()?;
        let directory = tempfile::Builder::new().prefix("praetor-test-").tempdir()?;
        let database = options.database(directory.path()).await?;
        let mut nodes = BTreeMap::new();
        for id in 1..=options.nodes {
            let path = |name: String| directory.path().join(name);
            let faults = options.library.as_ref().map(|_| Control::create(path(format!("node-{id}.faults")))).transpose()?;
            let disk = options.disk_bytes.map(|bytes| Disk::mount(path(format!("node-{id}")), bytes)).transpose()?;
            let binary = binary.clone();
            nodes.insert(id, Node { number: id, http: Port::take()?, peer: Port::take()?, process: None, binary, faults, disk });
        }
        Ok(Self { options, nodes, database, directory: Some(directory), judged: false })
    }

    /// All node ids.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// The nodes whose process runs (paused ones too).
    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(id, _)| *id).collect()
    }

    /// A node's address, such as `127.0.0.1:12345`.
    pub fn address(&self, id: u64) -> String {
        format!("{}:{}", self.host(id), self.node(id).http.number())
    }

    /// Where the other nodes reach this one.
    pub fn peer_address(&self, id: u64) -> String {
        format!("{}:{}", self.host(id), self.peer_port(id))
    }

    /// The port of [`Cluster::peer_address`].
    pub fn peer_port(&self, id: u64) -> u16 {
        self.node(id).peer.number()
    }

    fn host(&self, id: u64) -> Ipv4Addr {
        if self.options.network.is_some() { Place::Node(id).address() } else { Ipv4Addr::LOCALHOST }
    }

    /// A node's API, such as `http://127.0.0.1:12345/api`.
    pub fn api(&self, id: u64) -> String {
        format!("http://{}/api", self.address(id))
    }

    /// A client of a node.
    pub fn http(&self, id: u64) -> Http {
        Http::new(self.api(id))
    }

    /// The database of all nodes.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Looks at the database go to another server from now on, such as one that took over.
    pub fn database_moved(&mut self, host: &str, port: u16) {
        self.database.moved(host, port);
    }

    /// The network of the nodes.
    ///
    /// # Errors
    /// They have none of their own.
    pub fn network(&self) -> anyhow::Result<&Arc<Network>> {
        self.options.network.as_ref().context("the nodes are in no network namespaces")
    }

    /// What can be made to fail below a node.
    ///
    /// # Errors
    /// The group was started without [`Options::faults`].
    pub fn faults(&self, id: u64) -> anyhow::Result<&Control> {
        self.node(id).faults.as_ref().context("the nodes have no library of faults in them")
    }

    /// The program that a node runs, from its next start on.
    pub fn set_binary(&mut self, id: u64, binary: &Path) {
        binary.clone_into(&mut self.node_mut(id).binary);
    }

    /// What is wrong in the logs was told otherwise; the drop need not panic.
    pub fn judged(&mut self) {
        self.judged = true;
    }

    /// Where everything of this group lies.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Where a node keeps its log.
    pub fn data_directory(&self, id: u64) -> PathBuf {
        self.directory().join(format!("node-{id}"))
    }

    /// What a node logged so far, over all its lives.
    pub fn log(&self, id: u64) -> String {
        fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// A node's process id.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self, id: u64) -> u32 {
        self.node(id).process.as_ref().unwrap_or_else(|| panic!("node {id} does not run")).child.id()
    }

    /// A setting of one node, from its next start on; `None` takes it away.
    pub fn set_variable(&mut self, id: u64, name: &str, value: Option<&str>) {
        let variables = self.options.of_node.entry(id).or_default();
        variables.retain(|(known, _)| known != name);
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Puts another node in the place of one that is down: with an empty disk, and a number that the group never had. Gives the old
    /// number and the new one. It is no member, and does not run yet.
    ///
    /// # Errors
    /// The old one runs, or its disk cannot be wiped.
    pub fn replace(&mut self, id: u64) -> anyhow::Result<(u64, u64)> {
        if self.node(id).process.is_some() {
            bail!("node {id} runs");
        }
        fs::remove_dir_all(self.data_directory(id)).context("its disk is wiped")?;
        let new = self.nodes.values().map(|node| node.number).max().unwrap_or_default() + 1;
        Ok((std::mem::replace(&mut self.node_mut(id).number, new), new))
    }

    /// Starts a node's process without waiting for it.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self, id: u64) -> anyhow::Result<()> {
        if self.node(id).process.is_some() {
            bail!("node {id} runs already");
        }
        let log = File::options().create(true).append(true).open(self.log_path(id))?;
        let peers: Vec<String> = self.nodes.iter().map(|(id, node)| format!("{}={}", node.number, self.peer_address(*id))).collect();
        let binary = &self.node(id).binary;
        let mut command = match &self.options.network {
            Some(network) => network.command(id, binary),
            None => Command::new(binary),
        };
        scrub(&mut command);
        command
            .args(["server", "start", "--exit-with-parent"])
            .arg(format!("--host={}", self.host(id)))
            .arg(format!("--port={}", self.node(id).http.number()))
            .arg(format!("--node-id={}", self.node(id).number))
            .arg(format!("--data-dir={}", self.data_directory(id).display()))
            .arg(format!("--database-url={}", self.database.url()))
            .env("PREFECT_HOME", self.directory())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        if self.options.nodes > 1 {
            command.arg(format!("--cluster-peers={}", peers.join(",")));
        }
        if self.options.network.is_some() {
            command.env("PRAETOR_CLUSTER_TOKEN", TOKEN);
        }
        if let (Some(library), Some(faults)) = (&self.options.library, &self.node(id).faults) {
            command.env("LD_PRELOAD", library.path()).env(CONTROL_VARIABLE, faults.path());
        }
        let of_node = self.options.of_node.get(&id).map(Vec::as_slice).unwrap_or_default();
        for (name, value) in self.options.variables.iter().chain(of_node) {
            command.env(name, value);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let leash = child.stdin.take().context("a child has a standard input")?;
        self.node_mut(id).process = Some(Process { child, leash });
        Ok(())
    }

    /// Waits until a node says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn wait_ready(&mut self, id: u64) -> anyhow::Result<()> {
        let probe = Http::new(format!("http://{}", self.address(id)));
        let mut ended: Option<ExitStatus> = None;
        let node = self.nodes.get_mut(&id).context("no such node")?;
        let process = node.process.as_mut().with_context(|| format!("node {id} does not run"))?;
        let waited = until(READY_WITHIN, "the node is ready", async || {
            ended = process.child.try_wait().ok().flatten();
            let ready = matches!(probe.get("/readyz").await, Ok((200, _)));
            (ready || ended.is_some()).then_some(())
        })
        .await;
        if let Some(status) = ended {
            node.process = None;
            bail!("node {id} ended with {status}:\n{}", self.log_tail(id));
        }
        waited.with_context(|| format!("node {id}:\n{}", self.log_tail(id)))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, id: u64) -> anyhow::Result<()> {
        let mut process = self.node_mut(id).process.take().with_context(|| format!("node {id} does not run"))?;
        process.child.kill()?;
        process.child.wait()?;
        Ok(())
    }

    /// Whether a node's process ended by itself; it counts as not running from then on.
    pub fn ended(&mut self, id: u64) -> Option<ExitStatus> {
        let node = self.node_mut(id);
        let status = node.process.as_mut()?.child.try_wait().ok().flatten()?;
        node.process = None;
        Some(status)
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// It does not run, or does not end within 30 s.
    pub async fn stop(&mut self, id: u64) -> anyhow::Result<ExitStatus> {
        self.signal(id, Signal::SIGTERM)?;
        self.wait_exit(id, Duration::from_secs(30)).await
    }

    /// Waits for a node to end by itself.
    ///
    /// # Errors
    /// It does not.
    pub async fn wait_exit(&mut self, id: u64, within: Duration) -> anyhow::Result<ExitStatus> {
        let node = self.node_mut(id);
        let process = node.process.as_mut().with_context(|| format!("node {id} does not run"))?;
        let status = until(within, "the node ends", async || process.child.try_wait().ok().flatten()).await;
        let status = status.with_context(|| format!("node {id}:\n{}", self.log_tail(id)))?;
        self.node_mut(id).process = None;
        Ok(status)
    }

    /// SIGSTOP: it stands still and keeps its sockets.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, id: u64) -> anyhow::Result<()> {
        self.signal(id, Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, id: u64) -> anyhow::Result<()> {
        self.signal(id, Signal::SIGCONT)
    }

    /// Starts a node that is down and waits until it is ready.
    ///
    /// # Errors
    /// As [`Cluster::spawn`] and [`Cluster::wait_ready`].
    pub async fn restart(&mut self, id: u64) -> anyhow::Result<()> {
        self.spawn(id)?;
        self.wait_ready(id).await
    }

    /// What a node says of the group.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, id: u64) -> anyhow::Result<Value> {
        match self.http(id).get("/cluster/status").await? {
            (200, status) => Ok(status),
            (status, body) => bail!("node {id} answered {status}: {body}"),
        }
    }

    /// The leader that a majority of the nodes names, once there is one.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        self.agreed("leader").await
    }

    /// The leader of the services, the same way.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn services_leader(&self) -> anyhow::Result<u64> {
        self.agreed("services_leader").await
    }

    async fn agreed(&self, field: &str) -> anyhow::Result<u64> {
        until(Duration::from_secs(20), &format!("a majority agrees on the {field}"), async || {
            let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
            for id in self.running() {
                if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_millis(500), self.status(id)).await
                    && let Some(named) = status[field].as_u64()
                {
                    *votes.entry(named).or_default() += 1;
                }
            }
            let majority = self.nodes.len() / 2 + 1;
            let (named, _) = votes.into_iter().find(|(_, count)| *count >= majority)?;
            self.nodes.iter().find(|(_, node)| node.number == named && node.process.is_some()).map(|(id, _)| *id)
        })
        .await
    }

    /// ERROR lines and panics that no test allowed.
    pub fn unexpected(&self) -> Vec<String> {
        let mut found = Vec::new();
        for id in self.ids() {
            found.extend(unexpected_lines(&self.log(id), &self.options.allowed).into_iter().map(|line| format!("node {id}: {line}")));
        }
        found
    }

    fn signal(&self, id: u64, signal: Signal) -> anyhow::Result<()> {
        let process = self.node(id).process.as_ref().with_context(|| format!("node {id} does not run"))?;
        kill(Pid::from_raw(process.child.id().cast_signed()), signal)?;
        Ok(())
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.directory().join(format!("node-{id}.log"))
    }

    fn log_tail(&self, id: u64) -> String {
        last_lines(&self.log(id), 60)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let unexpected = if self.judged { Vec::new() } else { self.unexpected() };
        for (id, node) in &mut self.nodes {
            if let Some(Process { mut child, leash }) = node.process.take() {
                // SIGKILL ends a paused process too.
                if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                    eprintln!("node {id} could not be ended: {error}");
                }
                drop(leash);
            }
            node.disk = None;
        }
        if !unexpected.is_empty() {
            println!("unexpected in the logs of the nodes:\n{}", unexpected.join("\n"));
        }
        let failed = std::thread::panicking() || !unexpected.is_empty();
        if failed && let Some(directory) = self.directory.take() {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                let path = directory.path().join(format!("node-{id}.log"));
                let log = fs::read_to_string(path).unwrap_or_default();
                eprintln!("--- node {id}, last lines\n{}", last_lines(&log, 40));
            }
            eprintln!("kept: {}", directory.keep().display());
        }
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "unexpected errors in the logs:\n{}", unexpected.join("\n"));
        }
    }
}

/// Takes the settings of whoever runs the tests away from a program.
pub fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if ["PREFECT_", "PRAETOR_"].iter().any(|prefix| name.to_uppercase().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// ERROR lines and panics of a log, but for those that hold an allowed text.
pub(crate) fn unexpected_lines(log: &str, allowed: &[String]) -> Vec<String> {
    let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
    let known = |line: &&str| allowed.iter().any(|allowed| line.contains(allowed.as_str()));
    log.lines().filter(|line| bad(line) && !known(line)).map(str::to_owned).collect()
}

/// The end of a log.
pub(crate) fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Whether a process ended by this signal.
pub fn killed_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}
