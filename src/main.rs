//! Parses the command line and runs what it asks for.

use std::process::ExitCode;

use clap::Parser;
use praetor::ask::{self, View};
use praetor::cli::{BusCommand, Cli, ClusterCommand, Command, ServerCommand, ServicesCommand};
use praetor::config::{Settings, Variables};
use praetor::node::{self, Role, RunOptions};
use praetor::store::migrate::{self, DatabaseArgs};
use praetor::store::open;

/// Many small buffers are made on one thread and dropped on another; the C library's allocator spends an eighth of the
/// bus's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("praetor: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli.command));
    // A thread may still wait for standard input, which nothing can interrupt.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("praetor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut variables = Settings::environment();
    match command {
        Command::Server(ServerCommand::Start(args)) => {
            args.apply(&mut variables);
            let options = RunOptions { role: Role::Server, exit_with_parent: args.node.exit_with_parent };
            node::run(Settings::load(&variables)?, options).await.map(done)
        }
        Command::Server(ServerCommand::Services(ServicesCommand::Start(args))) => {
            args.apply(&mut variables);
            let options = RunOptions { role: Role::Services, exit_with_parent: args.exit_with_parent };
            node::run(Settings::load(&variables)?, options).await.map(done)
        }
        Command::Dev(args) => praetor::dev::run(args).await.map(done),
        Command::Server(ServerCommand::Database(args)) => database(args, variables).await,
        Command::Cluster(ClusterCommand::Status(args)) => ask::status(&args, View::Cluster).await.map(done),
        Command::Cluster(ClusterCommand::Members(args)) => ask::status(&args, View::Members).await.map(done),
        Command::Cluster(ClusterCommand::Add(args)) => ask::add_member(&args).await.map(done),
        Command::Cluster(ClusterCommand::Remove(args)) => ask::remove_member(&args).await.map(done),
        Command::Cluster(ClusterCommand::TransferLeader(args)) => ask::transfer_leader(&args).await.map(done),
        Command::Bus(BusCommand::Streams(args)) => ask::status(&args, View::Streams).await.map(done),
        Command::Bus(BusCommand::Groups(args)) => ask::status(&args, View::Groups).await.map(done),
        Command::Bus(BusCommand::DeadLetters(args)) => ask::dead_letters(&args).await.map(done),
        Command::Bus(BusCommand::Replay(args)) => ask::replay(&args).await.map(done),
    }
}

async fn database(args: DatabaseArgs, mut variables: Variables) -> anyhow::Result<ExitCode> {
    if let Some(url) = args.database_url {
        variables.insert("PREFECT_SERVER_DATABASE_CONNECTION_URL".to_owned(), url);
    }
    let settings = Settings::load(&variables)?;
    let healthy = migrate::run(args.command, &open::address(&settings.database)?).await?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
