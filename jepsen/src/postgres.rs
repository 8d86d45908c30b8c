//! A PostgreSQL server of a test's own, which may be stopped or stand still while nodes use it. Its programs are those of
//! the newest version that Debian installed, or else those on the path.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};
use tempfile::TempDir;

use crate::cluster::last_lines;
use crate::net::SUBNET;
use crate::ports::Port;
use crate::wait::until;

/// Where Debian keeps the programs, by version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// Who runs the server where the test is root, whom PostgreSQL refuses.
const USER: &str = "postgres";

/// How long the server may take to start, after a crash too, or to end.
const WITHIN: Duration = Duration::from_mins(1);

/// A server. Dropped, it is killed and its files are removed.
#[derive(Debug)]
pub struct Server {
    directory: TempDir,
    programs: PathBuf,
    user: Option<User>,
    host: Ipv4Addr,
    port: Port,
    process: Option<Child>,
}

impl Server {
    /// Makes an empty one and starts it.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or refuses.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// The same at an address, from whose network anyone is let in.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or refuses.
    pub async fn start_at(host: Ipv4Addr) -> anyhow::Result<Self> {
        let mut server = Self::empty(host)?;
        let data = server.data();
        let made = server
            .program("initdb")?
            .arg("-D")
            .arg(&data)
            .args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .status()
            .context("initdb cannot be started")?;
        ensure!(made.success(), "initdb ended with {made}:\n{}", server.log_tail());
        if !host.is_loopback() {
            let mut rules = File::options().append(true).open(data.join("pg_hba.conf"))?;
            writeln!(rules, "host all all {SUBNET} trust\nhost replication all {SUBNET} trust")?;
        }
        server.restart().await?;
        Ok(server)
    }

    /// A streaming standby of a server, which [`Server::promote`] makes a server like any other.
    ///
    /// # Errors
    /// The other one does not run, or refuses.
    pub async fn standby_of(primary: &Self) -> anyhow::Result<Self> {
        let mut server = Self::empty(primary.host)?;
        server.follow(primary).await?;
        Ok(server)
    }

    /// This one, which does not run, becomes a streaming standby of another, from a fresh copy and at its own address.
    ///
    /// # Errors
    /// The other one does not run, or refuses.
    pub async fn follow(&mut self, primary: &Self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the server runs");
        if self.data().exists() {
            fs::remove_dir_all(self.data())?;
        }
        let copied = self
            .program("pg_basebackup")?
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-U", USER, "-h", &primary.host.to_string()])
            .args(["-p", &primary.port.number().to_string(), "-D"])
            .arg(self.data())
            .status()
            .context("pg_basebackup cannot be started")?;
        ensure!(copied.success(), "pg_basebackup ended with {copied}:\n{}", self.log_tail());
        self.restart().await
    }

    /// A standby becomes a server like any other.
    ///
    /// # Errors
    /// It refuses, or takes too long.
    pub async fn promote(&self) -> anyhow::Result<()> {
        // Nobody follows it yet, so a commit may not wait for anybody.
        self.ask("ALTER SYSTEM SET synchronous_standby_names = ''").await?;
        self.ask("SELECT pg_reload_conf()").await?;
        self.ask("SELECT pg_promote()").await?;
        let promoted = "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END";
        until(WITHIN, "the standby is promoted", async || (self.ask(promoted).await.ok()?.first()? == "primary").then_some(())).await
    }

    /// From now on each commit waits until the standby has it; returns once a standby follows.
    ///
    /// # Errors
    /// None follows in time.
    pub async fn wait_for_standby(&self) -> anyhow::Result<()> {
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        self.ask("SELECT pg_reload_conf()").await?;
        let following = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
        until(WITHIN, "a standby follows", async || (self.ask(following).await.ok()?.first()? == "sync").then_some(())).await
    }

    async fn ask(&self, statement: &'static str) -> anyhow::Result<Vec<String>> {
        let mut connection = PgConnectOptions::from_str(&self.url())?.connect().await?;
        let rows = sqlx::query(statement).fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
    }

    fn empty(host: Ipv4Addr) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("praetor-postgres-").tempdir()?;
        let user = if geteuid().is_root() {
            let user = User::from_name(USER)?.with_context(|| format!("PostgreSQL does not run as root, and there is no user {USER}"))?;
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            Some(user)
        } else {
            None
        };
        Ok(Self { directory, programs: programs(), user, host, port: Port::take()?, process: None })
    }

    /// Its address, as `PRAETOR_TEST_POSTGRES` has it.
    pub fn url(&self) -> String {
        format!("postgresql://{USER}@{}:{}/postgres", self.host, self.port.number())
    }

    /// Its address.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Errors
    /// It runs already, or does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the server runs already");
        let port = self.port.number().to_string();
        // Its process may be killed, never the machine, so nothing waits for the disk; a commit is kept all the same.
        let process = self
            .program("postgres")?
            .arg("-D")
            .arg(self.data())
            .args(["-p", &port, "-k"])
            .arg(self.directory.path())
            .args(["-c", &format!("listen_addresses={}", self.host)])
            .args(["-c", "fsync=off", "-c", "max_connections=200"])
            .spawn()
            .context("postgres cannot be started")?;
        self.process = Some(process);
        let options = PgConnectOptions::from_str(&self.url())?;
        let mut ended = None;
        let process = self.process.as_mut().context("it was started")?;
        let up = until(WITHIN, "PostgreSQL answers", async || {
            ended = process.try_wait().ok().flatten();
            let answers = match options.connect().await {
                Ok(connection) => connection.close().await.is_ok(),
                Err(_) => false,
            };
            (answers || ended.is_some()).then_some(())
        })
        .await;
        if let Some(status) = ended {
            self.process = None;
            bail!("PostgreSQL ended with {status}:\n{}", self.log_tail());
        }
        up.with_context(|| self.log_tail())
    }

    /// Ends it at once, amid its transactions, as a crash does: what was committed is there after [`Server::restart`].
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("the server does not run")?;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGQUIT)?;
        self.gone().await
    }

    /// SIGKILL to all its processes, after which it recovers as after [`Server::crash`].
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let first = self.process.as_ref().context("the server does not run")?.id();
        // The first process makes the others, and one whose parent is gone is not found any more.
        kill(Pid::from_raw(first.cast_signed()), Signal::SIGSTOP)?;
        for process in children(first)?.into_iter().chain([first]) {
            let _ended = kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL);
        }
        self.gone().await
    }

    /// Ends it in order: transactions are broken off, what was committed is written.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("the server does not run")?;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT)?;
        self.gone().await
    }

    async fn gone(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        until(WITHIN, "PostgreSQL ends", async || process.try_wait().ok().flatten()).await?;
        Ok(())
    }

    /// SIGSTOP to all its processes: its sockets stay open and nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// SIGCONT to all its processes.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        let first = self.process.as_ref().context("the server does not run")?.id();
        // The first process makes the others, so it has to stand still before they are listed.
        kill(Pid::from_raw(first.cast_signed()), signal)?;
        for process in children(first)? {
            // One that has ended meanwhile needs no signal.
            let _ended = kill(Pid::from_raw(process.cast_signed()), signal);
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of PostgreSQL's programs, its output in the log.
    fn program(&self, name: &str) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.directory.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(user) = &self.user {
            command.gid(user.gid.as_raw()).uid(user.uid.as_raw());
        }
        Ok(command)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("postgres.log")
    }

    fn log_tail(&self) -> String {
        last_lines(&fs::read_to_string(self.log_path()).unwrap_or_default(), 40)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What stands still could not end.
        let _awake = self.resume();
        let Some(mut process) = self.process.take() else { return };
        let told = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGQUIT);
        if told.is_err() || process.wait().is_err() {
            eprintln!("a test's PostgreSQL could not be ended");
        }
    }
}

/// The directory of the newest programs that Debian installed; empty, that is the path, where there are none.
fn programs() -> PathBuf {
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
    let installed = fs::read_dir(PROGRAMS).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = installed.filter(|path| path.join("bin/initdb").is_file()).max_by_key(|path| version(path));
    newest.map(|path| path.join("bin")).unwrap_or_default()
}

/// The processes that a process started.
fn children(of: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if parent.and_then(|parent| parent.trim().parse().ok()) == Some(of) {
            found.push(pid);
        }
    }
    Ok(found)
}
