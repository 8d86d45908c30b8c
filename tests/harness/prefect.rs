//! The published Prefect client as processes: scripts of this directory, its command line, its worker.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jepsen::cluster::scrub;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Names the published `prefect` program; `python` lies beside it.
const PREFECT_VARIABLE: &str = "PRAETOR_TEST_PREFECT";

/// How long a script may be silent: imports take seconds on a busy machine.
const LINE_WITHIN: Duration = Duration::from_mins(3);

/// A client with a home of its own, which knows one API.
pub struct Client {
    home: TempDir,
    api: String,
}

impl Client {
    /// A client of the API at `api`.
    pub fn new(api: &str) -> Self {
        Self { home: tempfile::tempdir().expect("a directory"), api: api.to_owned() }
    }

    /// Where it keeps things.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// `prefect` with these arguments.
    pub fn prefect(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&program());
        command.args(arguments);
        command
    }

    /// Runs `prefect` to its end and gives what it printed.
    pub async fn printed(&self, arguments: &[&str]) -> String {
        let output = self.prefect(arguments).output().await.expect("prefect runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "prefect {}: {text}{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Starts a script of `tests/`.
    pub fn script(&self, path: &str, arguments: &[&str]) -> Script {
        let name = Path::new(path).file_stem().and_then(|stem| stem.to_str()).expect("a script has a name").to_owned();
        let log = self.home.path().join(format!("{name}.log"));
        let mut command = self.command(&program().with_file_name("python"));
        let mut child = command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("python runs");
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        Script { child, input, lines, log }
    }

    /// A script of `tests/`, to be started with arguments and outputs of its own.
    pub fn python(&self, path: &str) -> Command {
        let mut command = self.command(&program().with_file_name("python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path));
        command
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = std::process::Command::new(program);
        scrub(&mut command);
        let mut command = Command::from(command);
        command
            .env("PREFECT_HOME", self.home.path())
            .env("PREFECT_API_URL", &self.api)
            .env("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
            .env("PREFECT_CLI_COLORS", "false")
            .env("DO_NOT_TRACK", "1")
            .env("COLUMNS", "240")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

fn program() -> PathBuf {
    std::env::var_os(PREFECT_VARIABLE)
        .map_or_else(|| panic!("{PREFECT_VARIABLE} does not name the published prefect: run these tests with tests/run"), PathBuf::from)
}

/// A script that runs; killed on drop.
pub struct Script {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Script {
    /// The next line of JSON that it prints; `None` once it has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let line = tokio::time::timeout(LINE_WITHIN, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("the script is silent:\n{}", self.log())).expect("its output can be read")?;
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                return Some(value);
            }
        }
    }

    /// Its only or next line, which must be there.
    pub async fn line(&mut self) -> Value {
        match self.next().await {
            Some(value) => value,
            None => panic!("the script ended early:\n{}", self.log()),
        }
    }

    /// Lets a script go on that waits for a line.
    pub async fn go_on(&mut self) {
        if let Some(mut input) = self.input.take() {
            input.write_all(b"\n").await.expect("the script reads");
        }
    }

    /// Waits for a successful end.
    pub async fn success(mut self) -> String {
        let status = self.child.wait().await.expect("it can be waited for");
        assert!(status.success(), "the script ended with {status}:\n{}", self.log());
        self.log()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
