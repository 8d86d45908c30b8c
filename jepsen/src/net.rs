//! A network of a run's own: a network namespace for each node and one, the hub, for clients and PostgreSQL. Nothing of
//! the machine's own network is touched: what there is beside it are the namespaces, by name.
//!
//! The program runs twice. The outer one makes the namespaces, starts itself again inside of the hub, waits, and removes
//! them. The inner one lays the cables and does the run. Namespaces that a run left behind, because it was killed, are
//! swept by the next one: their names hold the process id of the outer program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::native;

/// Where `ip netns` keeps the namespaces.
const NAMESPACES: &str = "/run/netns";

/// How the names of ours begin; a process id follows.
const PREFIX: &str = "jepsen";

/// The address of the hub.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);

/// All addresses.
pub const SUBNET: &str = "10.99.0.0/24";

/// A member of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where clients and PostgreSQL are.
    Hub,
    /// A node.
    Node(u64),
}

impl Place {
    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Hub => HUB,
            Self::Node(id) => Ipv4Addr::new(10, 99, 0, id as u8),
        }
    }
}

/// The namespaces, as the outer program holds them. Dropped, they are removed with the processes in them.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    nodes: u64,
}

impl Namespaces {
    /// Makes them, after sweeping those of runs that are dead.
    ///
    /// # Errors
    /// There is no `ip`, or no right to use it.
    pub fn create(nodes: u64) -> anyhow::Result<Self> {
        ensure!((1..200).contains(&nodes), "a network of 1 to 199 nodes");
        sweep();
        let namespaces = Self { prefix: format!("{PREFIX}{}", std::process::id()), nodes };
        for place in namespaces.places() {
            run("ip", &["netns", "add", &name(&namespaces.prefix, place)]).context("network namespaces need root and iproute2")?;
        }
        Ok(namespaces)
    }

    /// What the inner program is told, for [`Network::lay`].
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A command inside of the hub.
    pub fn inside(&self, program: &Path) -> Command {
        inside(&name(&self.prefix, Place::Hub), program)
    }

    fn places(&self) -> Vec<Place> {
        (1..=self.nodes).map(Place::Node).chain([Place::Hub]).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for place in self.places() {
            remove(&name(&self.prefix, place));
        }
    }
}

/// A command inside of a namespace.
fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

fn name(prefix: &str, place: Place) -> String {
    match place {
        Place::Hub => format!("{prefix}-hub"),
        Place::Node(id) => format!("{prefix}-{id}"),
    }
}

/// Removes the namespaces of runs whose process is gone.
fn sweep() {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).and_then(|(pid, _)| pid.parse::<i32>().ok());
        if let Some(pid) = pid
            && !lives(pid)
        {
            remove(&name);
        }
    }
}

/// Whether a process is there, and is more than an entry that nobody has asked for yet.
fn lives(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("State:")).is_some_and(|state| !state.trim().starts_with('Z'))
}

/// Ends what runs in a namespace of ours, and removes it.
fn remove(namespace: &str) {
    if let Ok(pids) = run("ip", &["netns", "pids", namespace]) {
        for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()) {
            // One that ended meanwhile needs no signal.
            let _ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    if let Err(error) = run("ip", &["netns", "del", namespace]) {
        eprintln!("the namespace {namespace} could not be removed: {error:#}");
    }
}

/// What nodes are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// A pair of virtual devices of the kernel.
    Plain,
    /// A program between two tap devices, that can be slow and lose: see `native/wire.c`.
    Wire,
}

/// The network, as the inner program uses it.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    nodes: u64,
    wires: BTreeMap<u64, Wire>,
    /// What the wires are compiled and controlled in.
    directory: TempDir,
}

impl Network {
    /// Lays the cables. Runs inside of the hub.
    ///
    /// # Errors
    /// The kernel lacks something.
    pub fn lay(prefix: &str, nodes: u64, cable: Cable, seed: u64) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("praetor-net-").tempdir()?;
        let mut network = Self { prefix: prefix.to_owned(), nodes, wires: BTreeMap::new(), directory };
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["link", "add", "bridge", "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{HUB}/24"), "dev", "bridge"])?;
        run("ip", &["link", "set", "bridge", "up"])?;
        network.make_filter(Place::Hub)?;
        let program = match cable {
            Cable::Wire => Some(native::WIRE.compile(network.directory.path())?),
            Cable::Plain => None,
        };
        for id in 1..=nodes {
            let (namespace, device) = (name(prefix, Place::Node(id)), format!("node{id}"));
            match &program {
                Some(program) => {
                    let control = network.directory.path().join(format!("wire-{id}"));
                    let wire = Wire::start(program, Path::new(NAMESPACES).join(&namespace), &device, control, seed ^ id)?;
                    network.wires.insert(id, wire);
                }
                None => {
                    run("ip", &["link", "add", &device, "type", "veth", "peer", "name", "cable", "netns", &namespace]).map(drop)?;
                }
            }
            run("ip", &["link", "set", &device, "master", "bridge", "up"])?;
            run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
            run("ip", &["-n", &namespace, "addr", "add", &format!("{}/24", Place::Node(id).address()), "dev", "cable"])?;
            run("ip", &["-n", &namespace, "link", "set", "cable", "up"])?;
            network.make_filter(Place::Node(id))?;
        }
        Ok(network)
    }

    /// How many nodes it is for.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// A command inside of a node's namespace.
    pub(crate) fn command(&self, id: u64, program: &Path) -> Command {
        inside(&name(&self.prefix, Place::Node(id)), program)
    }

    /// The slow cable of a node.
    ///
    /// # Errors
    /// The network was laid with [`Cable::Plain`].
    pub fn wire(&self, id: u64) -> anyhow::Result<&Wire> {
        self.wires.get(&id).context("this network has plain cables")
    }

    fn make_filter(&self, place: Place) -> anyhow::Result<()> {
        self.filter(place, "add table inet jepsen; add chain inet jepsen in { type filter hook input priority 0; }")
    }

    fn filter(&self, place: Place, rules: &str) -> anyhow::Result<()> {
        self.nft(place, &[rules]).map(drop)
    }

    fn nft(&self, place: Place, words: &[&str]) -> anyhow::Result<String> {
        match place {
            Place::Hub => run("nft", words),
            Place::Node(_) => {
                let namespace = name(&self.prefix, place);
                run("ip", &[&["netns", "exec", &namespace, "nft"], words].concat())
            }
        }
    }

    /// From now on `at` drops what comes from `from`. Only this direction: packets the other way still arrive, though TCP
    /// soon has nothing to say when no answer comes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn drop_from(&self, at: Place, from: Place) -> anyhow::Result<()> {
        self.filter(at, &format!("add rule inet jepsen in ip saddr {} counter drop", from.address()))
    }

    /// Both directions.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cut(&self, one: Place, other: Place) -> anyhow::Result<()> {
        self.drop_from(one, other)?;
        self.drop_from(other, one)
    }

    /// A node and a server at a port of the hub no longer hear each other; clients at the hub still reach the node.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cut_port(&self, id: u64, port: u16) -> anyhow::Result<()> {
        self.filter(Place::Node(id), &format!("add rule inet jepsen in ip saddr {HUB} tcp sport {port} counter drop"))?;
        let address = Place::Node(id).address();
        self.filter(Place::Hub, &format!("add rule inet jepsen in ip saddr {address} tcp dport {port} counter drop"))
    }

    /// Undoes all cuts; gives how many packets they dropped, by where.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn heal(&self) -> anyhow::Result<BTreeMap<Place, u64>> {
        let mut dropped = BTreeMap::new();
        for place in (1..=self.nodes).map(Place::Node).chain([Place::Hub]) {
            let rules = self.nft(place, &["list", "chain", "inet", "jepsen", "in"])?;
            let packets: u64 = rules.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum();
            if rules.contains("counter packets") {
                dropped.insert(place, packets);
            }
            self.filter(place, "flush chain inet jepsen in")?;
        }
        Ok(dropped)
    }

    /// Whether a TCP connection from one place to a port of another comes about in time, and how long that takes.
    ///
    /// # Errors
    /// The place cannot be entered.
    #[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
    pub async fn reach_within(&self, from: Place, to: Place, port: u16, within: Duration) -> anyhow::Result<Option<Duration>> {
        let space = Path::new(NAMESPACES).join(name(&self.prefix, from));
        // A thread of its own, since it never leaves the namespace again.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let probe = || -> anyhow::Result<Option<Duration>> {
                setns(File::open(&space)?, CloneFlags::CLONE_NEWNET).with_context(|| space.display().to_string())?;
                let begun = Instant::now();
                let connected = TcpStream::connect_timeout(&SocketAddr::from((to.address(), port)), within);
                Ok(connected.is_ok().then(|| begun.elapsed()))
            };
            // Nobody waits any more where this fails.
            let _unheard = tell.send(probe());
        });
        told.await?
    }
}

/// A cable that a program carries frames over. Dropped, it is cut.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    leash: Option<ChildStdin>,
    control: File,
}

/// What a wire did so far.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Frames that came late.
    pub delayed: u64,
    /// Frames that it lost.
    pub lost: u64,
}

impl Wire {
    fn start(program: &Path, namespace: PathBuf, device: &str, control: PathBuf, seed: u64) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&control)?;
        file.set_len(4096)?;
        let mut child = Command::new(program)
            .arg(namespace)
            .args([device, "cable"])
            .arg(control)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the wire cannot be started")?;
        let leash = child.stdin.take();
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut said)?;
        let wire = Self { child, leash, control: file };
        ensure!(said.trim() == "ready", "the wire did not come up; the kernel may lack tap devices");
        Ok(wire)
    }

    /// Each frame takes so much longer from now on, each way, by chance up to `jitter` more; so many of a million are lost.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn set(&self, delay: Duration, jitter: Duration, loss_ppm: u64) -> anyhow::Result<()> {
        for (word, value) in [delay.as_micros() as u64, jitter.as_micros() as u64, loss_ppm].into_iter().enumerate() {
            self.control.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?;
        }
        Ok(())
    }

    /// What it did so far.
    ///
    /// # Errors
    /// The control file cannot be read.
    pub fn carried(&self) -> anyhow::Result<Carried> {
        let read = |word: u64| -> anyhow::Result<u64> {
            let mut bytes = [0; 8];
            self.control.read_exact_at(&mut bytes, word * 8)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        Ok(Carried { delayed: read(4)?, lost: read(5)? })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.leash.take());
        if let Err(error) = self.child.wait() {
            eprintln!("a wire could not be ended: {error}");
        }
    }
}

/// Runs a program to its end; gives what it printed.
pub(crate) fn run(program: &str, words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
