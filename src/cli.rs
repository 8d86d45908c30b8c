//! The command line. A flag of `server start` stands for a variable and is put over the environment under its name, so
//! that settings have one way in (see [`crate::config`]). Flags of the reference are accepted by name, with their
//! effect where there is one.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Variables;
use crate::store::migrate::DatabaseArgs;

/// A Prefect server that does not go down.
#[derive(Debug, Parser)]
#[command(name = "praetor", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Accepted as in `prefect`; there is no profile to choose here.
    #[arg(long, global = true, hide = true)]
    pub profile: Option<String>,
    /// Accepted as in `prefect`.
    #[arg(long, global = true, hide = true)]
    pub prompt: bool,
    /// Accepted as in `prefect`.
    #[arg(long, global = true, hide = true)]
    pub no_prompt: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node, or care for its database.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Run a local group: nodes as child processes behind one front door.
    Dev(DevArgs),
    /// Look at the group, and change who belongs to it.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Look into the bus.
    #[command(subcommand)]
    Bus(BusCommand),
}

/// `praetor server ...`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Start one node, which serves the API and may lead the services.
    Start(Box<StartArgs>),
    /// A member that may lead the services and serves no client API.
    #[command(subcommand)]
    Services(ServicesCommand),
    /// Create, adopt or check the database.
    Database(DatabaseArgs),
}

/// `praetor server services ...`
#[derive(Debug, Subcommand)]
pub enum ServicesCommand {
    /// Start such a member.
    Start(NodeArgs),
}

/// Flags of `server start`. Each names its variable in the help text.
#[derive(Debug, Default, Args)]
pub struct StartArgs {
    /// Address to listen on [PREFECT_SERVER_API_HOST, default 127.0.0.1]
    #[arg(long)]
    pub host: Option<String>,
    /// Port to listen on, 0 for any free one [PREFECT_SERVER_API_PORT, default 4200]
    #[arg(long)]
    pub port: Option<String>,
    /// Seconds an idle connection is kept [PREFECT_SERVER_API_KEEPALIVE_TIMEOUT]
    #[arg(long, value_name = "SECONDS")]
    pub keep_alive_timeout: Option<String>,
    /// Do not lead the background services [PRAETOR_SERVICES=false]
    #[arg(long)]
    pub no_services: bool,
    /// Run the scheduler [PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED]
    #[arg(long, overrides_with = "no_scheduler")]
    pub scheduler: bool,
    /// Do not run the scheduler
    #[arg(long)]
    pub no_scheduler: bool,
    /// Mark late runs [PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED]
    #[arg(long, overrides_with = "no_late_runs")]
    pub late_runs: bool,
    /// Do not mark late runs
    #[arg(long)]
    pub no_late_runs: bool,
    /// Serve the UI where its files are there [PREFECT_SERVER_UI_ENABLED]
    #[arg(long, overrides_with = "no_ui")]
    pub ui: bool,
    /// Do not serve the UI
    #[arg(long)]
    pub no_ui: bool,
    /// The UI's files [PRAETOR_UI_DIR, default those of an installed prefect package]
    #[arg(long, value_name = "DIR")]
    pub ui_dir: Option<String>,
    /// Accepted; nothing is sent anywhere
    #[arg(long, overrides_with = "analytics_off")]
    pub analytics_on: bool,
    /// Accepted; nothing is sent anywhere
    #[arg(long)]
    pub analytics_off: bool,
    /// Accepted; one process uses all cores
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// What every node takes.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of every node.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL [PREFECT_SERVER_LOGGING_LEVEL, default INFO]
    #[arg(long)]
    pub log_level: Option<String>,
    /// This node's number, from 1 [PRAETOR_NODE_ID, default 1]
    #[arg(long, value_name = "N")]
    pub node_id: Option<String>,
    /// Where the other nodes reach this one [PRAETOR_CLUSTER_LISTEN, default its entry in the peers]
    #[arg(long, value_name = "HOST:PORT")]
    pub cluster_listen: Option<String>,
    /// All members, this node included [PRAETOR_CLUSTER_PEERS]
    #[arg(long, value_name = "1=HOST:PORT,2=...")]
    pub cluster_peers: Option<String>,
    /// Where this node keeps its log [PRAETOR_DATA_DIR, default $PREFECT_HOME/praetor/node-N]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The database [PREFECT_API_DATABASE_CONNECTION_URL, default $PREFECT_HOME/prefect.db]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Stop when standard input ends; `praetor dev` uses it so that no child outlives it
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// `praetor dev`
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Port of the front door; the nodes take the next free ones
    #[arg(long, default_value_t = 4200)]
    pub port: u16,
    /// The database of all nodes [default: one SQLite file in the data directory]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Where everything is kept [default: ~/.praetor/dev]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Wipe the data directory first
    #[arg(long)]
    pub fresh: bool,
    /// Leave a node that died dead
    #[arg(long)]
    pub no_restart: bool,
    /// Log level of the nodes
    #[arg(long, default_value = "INFO")]
    pub log_level: String,
}

/// `praetor cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the group as one of its nodes sees it.
    Status(AskArgs),
    /// List its nodes.
    Members(AskArgs),
    /// Take in a node that was started with an empty data directory and lists itself and members as its peers.
    Add(AddArgs),
    /// Strike a node off, alive or not; its id is never used again.
    Remove(RemoveArgs),
    /// Have another node lead the Raft group.
    TransferLeader(TransferArgs),
}

/// `praetor cluster add`
#[derive(Clone, Debug, Args)]
pub struct AddArgs {
    /// Its number, which the group never had before, and where the others reach it
    #[arg(value_name = "N=HOST:PORT", value_parser = numbered)]
    pub member: (u64, String),
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

fn numbered(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("write N=HOST:PORT")?;
    Ok((id.parse().map_err(|_| format!("{id:?} is no number"))?, address.to_owned()))
}

/// `praetor cluster remove`
#[derive(Clone, Debug, Args)]
pub struct RemoveArgs {
    /// Its number
    #[arg(value_name = "N")]
    pub id: u64,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `praetor cluster transfer-leader`
#[derive(Clone, Debug, Args)]
pub struct TransferArgs {
    /// To whom [default: the one whose log is the most complete]
    #[arg(value_name = "N")]
    pub to: Option<u64>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `praetor bus ...`
#[derive(Debug, Subcommand)]
pub enum BusCommand {
    /// List the streams.
    Streams(AskArgs),
    /// List the consumer groups.
    Groups(AskArgs),
    /// Look at what consumers gave up on, or delete it.
    DeadLetters(DeadLettersArgs),
    /// Have what consumers gave up on go through them again.
    Replay(ReplayArgs),
}

/// `praetor bus dead-letters`
#[derive(Clone, Debug, Args)]
pub struct DeadLettersArgs {
    /// Show this message with all there is, instead of a list
    pub id: Option<uuid::Uuid>,
    /// Only of this consumer group
    #[arg(long)]
    pub group: Option<String>,
    /// At most so many, the newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=crate::limits::DEAD_LETTERS))]
    pub limit: u64,
    /// Leave out so many of the newest
    #[arg(long, default_value_t = 0)]
    pub offset: u64,
    /// Delete the message that is named
    #[arg(long, requires = "id")]
    pub delete: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `praetor bus replay`
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The messages
    #[arg(required_unless_present_any = ["group", "all"])]
    pub ids: Vec<uuid::Uuid>,
    /// Only of this consumer group
    #[arg(long)]
    pub group: Option<String>,
    /// All there are
    #[arg(long, conflicts_with_all = ["ids", "group"])]
    pub all: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Flags of commands that ask a node.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// The API of any node
    #[arg(long, env = "PREFECT_API_URL", default_value = "http://127.0.0.1:4200/api", value_name = "URL")]
    pub api_url: String,
    /// `user:password`, when the API asks for it
    #[arg(long, env = "PREFECT_API_AUTH_STRING", hide_env_values = true, value_name = "USER:PASSWORD")]
    pub auth_string: Option<String>,
    /// Print the answer as it came
    #[arg(long)]
    pub json: bool,
    /// Ask again every second, until interrupted
    #[arg(long)]
    pub watch: bool,
}

impl StartArgs {
    /// Puts the flags that were given over `variables`.
    pub fn apply(&self, variables: &mut Variables) {
        let mut set = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                variables.insert(name.to_owned(), value.to_owned());
            }
        };
        set("PREFECT_SERVER_API_HOST", self.host.as_deref());
        set("PREFECT_SERVER_API_PORT", self.port.as_deref());
        set("PREFECT_SERVER_API_KEEPALIVE_TIMEOUT", self.keep_alive_timeout.as_deref());
        set("PRAETOR_SERVICES", self.no_services.then_some("false"));
        set("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", pair(self.scheduler, self.no_scheduler));
        set("PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED", pair(self.late_runs, self.no_late_runs));
        set("PREFECT_SERVER_UI_ENABLED", pair(self.ui, self.no_ui));
        set("PRAETOR_UI_DIR", self.ui_dir.as_deref());
        self.node.apply(variables);
    }
}

impl NodeArgs {
    /// Puts the flags that were given over `variables`.
    pub fn apply(&self, variables: &mut Variables) {
        for (name, value) in [
            ("PREFECT_SERVER_LOGGING_LEVEL", &self.log_level),
            ("PRAETOR_NODE_ID", &self.node_id),
            ("PRAETOR_CLUSTER_LISTEN", &self.cluster_listen),
            ("PRAETOR_CLUSTER_PEERS", &self.cluster_peers),
            ("PRAETOR_DATA_DIR", &self.data_dir),
            ("PREFECT_SERVER_DATABASE_CONNECTION_URL", &self.database_url),
        ] {
            if let Some(value) = value {
                variables.insert(name.to_owned(), value.clone());
            }
        }
    }
}

fn pair(on: bool, off: bool) -> Option<&'static str> {
    match (on, off) {
        (true, _) => Some("true"),
        (false, true) => Some("false"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn start(line: &str) -> Variables {
        let Command::Server(ServerCommand::Start(args)) = Cli::parse_from(line.split(' ')).command else {
            panic!("another command");
        };
        let mut variables = Variables::new();
        args.apply(&mut variables);
        variables
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stand_for_their_variables_and_absent_ones_for_nothing() {
        let variables =
            start("prefect server start --host 0.0.0.0 --port 4300 --no-scheduler --no-services --workers 2 --analytics-off --no-ui");
        let expected = [
            ("PRAETOR_SERVICES", "false"),
            ("PREFECT_SERVER_API_HOST", "0.0.0.0"),
            ("PREFECT_SERVER_API_PORT", "4300"),
            ("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "false"),
            ("PREFECT_SERVER_UI_ENABLED", "false"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert!(start("praetor server start").is_empty());
    }
}
