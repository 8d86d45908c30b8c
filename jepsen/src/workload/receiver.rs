//! A receiver of webhooks inside of the harness, at an address of this machine that the nodes can reach.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Outcome;
use crate::history::History;

/// A caller that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bodies are a line of text.
const BODY_BYTES: usize = 64 * 1024;

/// Writes down what it is called with, and answers a little later, so that callers are interrupted meanwhile. Dropped, it
/// ends.
pub(super) struct Receiver {
    /// What to call.
    pub url: String,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Listens on the address by which this machine reaches the node at `api`.
    pub async fn start(api: &str, history: History) -> anyhow::Result<Self> {
        let address = api.trim_start_matches("http://").split('/').next().context("an address")?;
        let here: IpAddr = TcpStream::connect(address).await?.local_addr()?.ip();
        let listener = TcpListener::bind((here, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, history));
        Ok(Self { url, _tasks: tasks })
    }
}

async fn accept(listener: TcpListener, history: History) {
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                number += 1;
                connections.spawn(serve(stream, history.clone(), number));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, history: History, number: u64) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some((headers, body))) = tokio::time::timeout(PATIENCE, request(&mut stream)).await.unwrap_or(Ok(None)) {
        let key = headers.get("idempotency-key").cloned().unwrap_or_default();
        let (automation, event) = body.split_once(' ').unwrap_or((&body, ""));
        let called = json!({"automation": automation, "event": event, "key": key});
        history.add(&format!("receiver/{number}"), "called", called, Some(Outcome::Ok));
        let pause = Duration::from_millis(rand::rng().random_range(0..100));
        tokio::time::sleep(pause).await;
        if stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntaken").await.is_err() {
            return;
        }
    }
}

/// The headers, by their names in small letters, and the body of the next request; `None` at the end.
async fn request(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<(BTreeMap<String, String>, String)>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").context("a body")?.parse()?;
    anyhow::ensure!(length <= BODY_BYTES, "a body of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((headers, String::from_utf8(body)?)))
}
