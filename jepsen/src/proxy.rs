//! A way to a server that may break: not by refusing connections, but by silence, as a cable that is cut.

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ports::Port;

/// Passes connections on to a port of this machine. Dropped, it ends them all.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    /// How often it fell silent, and whether it is.
    silences: watch::Sender<(u64, bool)>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens, on a port of its own.
    ///
    /// # Errors
    /// No port.
    pub async fn start(to: u16) -> anyhow::Result<Self> {
        let port = Port::take()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await.context("the proxy cannot listen")?;
        let (silences, seen) = watch::channel((0, false));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, to, seen));
        Ok(Self { port, silences, _tasks: tasks })
    }

    /// Where it listens.
    pub fn number(&self) -> u16 {
        self.port.number()
    }

    /// From now on nothing is passed on or answered. The server sees its connections end; whoever came through here sees
    /// nothing at all, for ever: such a connection never comes back to life.
    pub fn fall_silent(&self) {
        self.silences.send_modify(|(times, silent)| {
            *times += 1;
            *silent = true;
        });
    }

    /// New connections are passed on again.
    pub fn heal(&self) {
        self.silences.send_modify(|(_, silent)| *silent = false);
    }
}

async fn accept(listener: TcpListener, to: u16, mut silences: watch::Receiver<(u64, bool)>) {
    let mut connections = JoinSet::new();
    loop {
        // What comes meanwhile is connected by the system, and waits there.
        if silences.wait_for(|(_, silent)| !silent).await.is_err() {
            return;
        }
        if let Ok((client, _)) = listener.accept().await {
            connections.spawn(pass_on(client, to, silences.clone()));
        }
    }
}

async fn pass_on(mut client: TcpStream, to: u16, mut silences: watch::Receiver<(u64, bool)>) {
    let times = silences.borrow().0;
    let passed = async {
        if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
            // Either end closes as it likes.
            let _ended = copy_bidirectional(&mut client, &mut server).await;
        }
    };
    tokio::select! {
        () = passed => return,
        _ = silences.wait_for(|(now, _)| *now != times) => {}
    }
    // The server's side is closed; the client's stays open, and silent.
    std::future::pending::<()>().await;
}
