//! Committed 1 KiB events per second through three nodes, each its own process, with `fsync` on a majority.
//!
//! `cargo bench --bench bus` starts three copies of itself as nodes on loopback with their data in a temporary folder (on the disk that
//! `TMPDIR` names: not a memory disk, or `fsync` costs nothing), and lets 1, 16 and 128 publishers publish one event at a time, each
//! waiting for the acknowledgement before the next. Publishers are spread over the nodes, so two thirds go the way through a
//! follower; a second run has all of them at the leader. Options: `--seconds N` per step (default 5), `--bytes N` per event
//! (default 1024), `--publishers A,B,...`, `--json`.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time, waits, and is no part of a node")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use praetor::bus::{Message, Topic};
use praetor::clock::SystemClock;
use praetor::cluster::{Cluster, ClusterConfig};

/// As the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NODES: u64 = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "node") {
        return node(&arguments[2..]);
    }
    let options = Options::parse(&arguments[1..])?;
    let mut group = Group::start()?;
    let leader = group.leader()?;
    if !options.json {
        println!("three nodes, three processes; {} bytes an event; {} s a step; leader: node {leader}", options.bytes, options.seconds);
        println!("{:>10} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}", "publishers", "at", "committed/s", "MB/s", "p50 ms", "p99 ms", "max ms");
    }
    for place in ["all nodes", "leader"] {
        for publishers in &options.publishers {
            let result = group.measure(&options, *publishers, (place == "leader").then_some(leader))?;
            result.print(&options, *publishers, place);
        }
    }
    Ok(())
}

struct Options {
    seconds: u64,
    bytes: usize,
    publishers: Vec<u64>,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { seconds: 5, bytes: 1024, publishers: vec![1, 16, 128], json: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seconds" => options.seconds = value()?.parse()?,
                "--bytes" => options.bytes = value()?.parse()?,
                "--publishers" => options.publishers = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--json" => options.json = true,
                // What cargo itself hands to a benchmark.
                "--bench" => {}
                other => bail!("unknown option {other}"),
            }
        }
        ensure!(options.seconds > 0 && !options.publishers.contains(&0), "nothing would be measured");
        Ok(options)
    }
}

/// What one node measured: latencies in microseconds, by bucket.
#[derive(Default)]
struct Measured {
    committed: u64,
    buckets: BTreeMap<u64, u64>,
    longest: u64,
}

impl Measured {
    fn add(&mut self, micros: u64) {
        self.committed += 1;
        self.longest = self.longest.max(micros);
        // About 3% wide.
        let magnitude = u64::from(micros.max(32).ilog2()) - 5;
        *self.buckets.entry(micros >> magnitude << magnitude).or_default() += 1;
    }

    fn merge(&mut self, other: Self) {
        self.committed += other.committed;
        self.longest = self.longest.max(other.longest);
        for (bucket, count) in other.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }

    fn percentile(&self, percent: u64) -> f64 {
        let mut rest = self.committed * percent / 100;
        for (bucket, count) in &self.buckets {
            if rest < *count {
                return *bucket as f64 / 1000.0;
            }
            rest -= count;
        }
        self.longest as f64 / 1000.0
    }

    fn print(&self, options: &Options, publishers: u64, place: &str) {
        let rate = self.committed as f64 / options.seconds as f64;
        let (p50, p99, longest) = (self.percentile(50), self.percentile(99), self.longest as f64 / 1000.0);
        if options.json {
            println!(
                r#"{{"publishers":{publishers},"at":"{place}","bytes":{},"committed_per_second":{rate:.0},"p50_ms":{p50:.2},"p99_ms":{p99:.2},"max_ms":{longest:.1}}}"#,
                options.bytes
            );
        } else {
            let megabytes = rate * options.bytes as f64 / 1e6;
            println!("{publishers:>10} {place:>12} {rate:>12.0} {megabytes:>9.1} {p50:>9.2} {p99:>9.2} {longest:>9.1}");
        }
    }
}

/// Three nodes as child processes, told what to do by a line on their standard input.
struct Group {
    _folder: tempfile::TempDir,
    nodes: BTreeMap<u64, (Child, BufReader<std::process::ChildStdout>)>,
}

impl Group {
    fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("praetor-bench").tempdir()?;
        let listeners: Vec<TcpListener> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let peers: Vec<String> =
            (1..).zip(&listeners).map(|(id, listener)| Ok(format!("{id}={}", listener.local_addr()?))).collect::<Result<_>>()?;
        drop(listeners);
        let mut nodes = BTreeMap::new();
        for id in 1..=NODES {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["node", &id.to_string(), &peers.join(",")])
                .arg(folder.path().join(id.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let output = BufReader::new(child.stdout.take().context("its output is piped")?);
            nodes.insert(id, (child, output));
        }
        Ok(Self { _folder: folder, nodes })
    }

    fn tell(&mut self, id: u64, line: &str) -> Result<()> {
        let (child, _) = self.nodes.get_mut(&id).context("no such node")?;
        writeln!(child.stdin.as_mut().context("its input is piped")?, "{line}")?;
        Ok(())
    }

    fn hear(&mut self, id: u64) -> Result<String> {
        let (_, output) = self.nodes.get_mut(&id).context("no such node")?;
        let mut line = String::new();
        ensure!(output.read_line(&mut line)? > 0, "node {id} has ended");
        Ok(line.trim().to_owned())
    }

    fn leader(&mut self) -> Result<u64> {
        let mut leader = 0;
        for id in 1..=NODES {
            leader = self.hear(id)?.parse()?;
        }
        Ok(leader)
    }

    fn measure(&mut self, options: &Options, publishers: u64, only: Option<u64>) -> Result<Measured> {
        let mut ids: Vec<u64> = (1..=NODES).collect();
        if let Some(only) = only {
            ids.retain(|id| *id == only);
        }
        let shares: Vec<(u64, u64)> = ids
            .iter()
            .enumerate()
            .map(|(place, id)| (*id, (publishers + ids.len() as u64 - 1 - place as u64) / ids.len() as u64))
            .collect();
        for (id, share) in &shares {
            self.tell(*id, &format!("{share} {} {}", options.seconds, options.bytes))?;
        }
        let mut sum = Measured::default();
        for (id, _) in shares {
            let line = self.hear(id)?;
            let mut part = Measured::default();
            for item in line.split_whitespace() {
                let (bucket, count) = item.split_once(':').context("bucket:count")?;
                let (bucket, count): (u64, u64) = (bucket.parse()?, count.parse()?);
                part.committed += count;
                part.longest = part.longest.max(bucket);
                part.buckets.insert(bucket, count);
            }
            sum.merge(part);
        }
        Ok(sum)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (child, _) in self.nodes.values_mut() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One node: says who leads, then obeys lines of `publishers seconds bytes` until its input ends.
fn node(arguments: &[String]) -> Result<()> {
    // As the program has one: without a subscriber, tracing offers every span to the crate `log`.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let [id, peers, folder] = arguments else { bail!("node ID PEERS FOLDER") };
    let id: u64 = id.parse()?;
    let peers: BTreeMap<u64, String> = peers
        .split(',')
        .map(|peer| {
            let (id, address) = peer.split_once('=').context("id=address")?;
            Ok((id.parse()?, address.to_owned()))
        })
        .collect::<Result<_>>()?;
    let listen: SocketAddr = peers[&id].parse()?;
    let config = ClusterConfig { listen: Some(listen), peers, ..ClusterConfig::new(id, PathBuf::from(folder), Arc::new(SystemClock)) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cluster = runtime.block_on(Cluster::start(config))?;
    while cluster.ready().is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{}", cluster.status().leader.context("it is ready, so there is a leader")?);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [publishers, seconds, bytes] = numbers[..] else { bail!("publishers seconds bytes") };
        let measured = runtime.block_on(publish(&cluster, id, publishers, Duration::from_secs(seconds), bytes as usize))?;
        let buckets: Vec<String> = measured.buckets.iter().map(|(bucket, count)| format!("{bucket}:{count}")).collect();
        println!("{}", buckets.join(" "));
    }
    Ok(())
}

async fn publish(cluster: &Cluster, node: u64, publishers: u64, time: Duration, bytes: usize) -> Result<Measured> {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let stop = Arc::new(AtomicBool::new(false));
    let payload = bytes::Bytes::from(vec![b'e'; bytes]);
    let mut tasks = Vec::new();
    for _ in 0..publishers {
        let (bus, stop, payload) = (cluster.bus(), stop.clone(), payload.clone());
        tasks.push(tokio::spawn(async move {
            let mut measured = Measured::default();
            while !stop.load(Ordering::Relaxed) {
                let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
                let id = uuid::Uuid::from_u64_pair(node, serial);
                let began = Instant::now();
                bus.publish(Topic::Events, vec![Message { id, payload: payload.clone() }]).await?;
                measured.add(began.elapsed().as_micros() as u64);
            }
            anyhow::Ok(measured)
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut sum = Measured::default();
    for task in tasks {
        sum.merge(task.await??);
    }
    Ok(sum)
}
