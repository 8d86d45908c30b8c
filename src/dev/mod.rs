//! `praetor dev`: a local group. Nodes are child processes of this same binary, so that one can really be killed; one
//! front door passes requests to those that are ready; a child that died is shown and started again. Ctrl-C stops all,
//! and no child outlives this process, however it ends.

mod front_door;
mod plan;
mod supervisor;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::DevArgs;
use crate::listener::{Limits, Listener};
use crate::task::Tasks;
use front_door::FrontDoor;
use plan::Plan;
use supervisor::Supervisor;

/// Open connections of the front door.
const CONNECTIONS_MAX: usize = 4096;
/// Longer than the nodes' own, so that a connection is not closed under a client for no reason.
const IDLE: Duration = Duration::from_secs(75);

/// What the nodes tell a browser that wants the API: this door, unless the environment names another.
fn ui_api_url(door: SocketAddr) -> Option<String> {
    let set = |name: &str| std::env::var_os(name).is_some();
    if set("PREFECT_SERVER_UI_API_URL") || set("PREFECT_UI_API_URL") {
        return None;
    }
    let base_path = std::env::var("PREFECT_SERVER_API_BASE_PATH").unwrap_or_else(|_| "/api".to_owned());
    Some(format!("http://{door}{base_path}"))
}

/// Runs the local group until interrupted.
///
/// # Errors
/// A port or the data directory cannot be had.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let plan = Plan::make(&args)?;
    let listener = Listener::bind("127.0.0.1", args.port)
        .await
        .with_context(|| format!("cannot listen on 127.0.0.1:{}; another process may use it, or give --port", args.port))?;
    let door_address = listener.address();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let tasks = Tasks::new();
    let supervisor = Supervisor::start(&plan, ui_api_url(door_address).as_deref(), !args.no_restart, &tasks)?;
    let addresses: Vec<_> = plan.nodes.iter().map(|node| node.http).collect();
    let door = FrontDoor::new(&addresses, tasks.clone());
    let limits = Limits { connections_max: CONNECTIONS_MAX, idle: IDLE };
    let answering = door.clone();
    tasks.spawn_vital(
        "front_door.listen",
        listener.serve("front_door.client", limits, tasks.clone(), move |request, peer| answering.clone().answer(request, peer)),
    );

    println!("praetor dev: {} in {}", plan.summary(), plan.directory.display());
    for node in &plan.nodes {
        println!("  node {}  http://{}  peers {}  pid {}", node.id, node.http, node.peer, supervisor.pid(node.id).unwrap_or_default());
    }
    let begun = tokio::time::Instant::now();
    let ready = async {
        door.ready().await;
        println!("ready after {:.1} s", begun.elapsed().as_secs_f64());
        println!("  status  http://{door_address}/api/cluster/status");
        println!("  health  http://{door_address}/api/health");
        println!("  export PREFECT_API_URL=http://{door_address}/api");
    };
    let interrupted = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = supervisor.all_dead() => println!("no node is left"),
        }
    };
    tokio::pin!(interrupted);
    let up = tokio::select! {
        () = ready => true,
        () = &mut interrupted => false,
    };
    if up {
        interrupted.await;
    }

    println!("stopping {} nodes", plan.nodes.len());
    supervisor.stop().await;
    tasks.shutdown(Duration::from_secs(2)).await;
    println!("stopped");
    Ok(())
}
