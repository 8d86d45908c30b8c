//! Commands that ask a running node over HTTP and print what it says.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::cli::{AddArgs, AskArgs, DeadLettersArgs, RemoveArgs, ReplayArgs, TransferArgs};

/// Bytes of an answer: a status with thousands of streams stays far below.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a change of the group may take: a node that is taken in catches up first.
const CHANGED_WITHIN: Duration = Duration::from_mins(2);

/// What to print of the status.
#[derive(Clone, Copy, Debug)]
pub enum View {
    /// Members and services.
    Cluster,
    /// Members.
    Members,
    /// One line per stream.
    Streams,
    /// One line per consumer group.
    Groups,
}

/// Asks for the status and prints it, again and again with `--watch`.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub async fn status(args: &AskArgs, view: View) -> anyhow::Result<()> {
    loop {
        let url = format!("{}/cluster/status", args.api_url.trim_end_matches('/'));
        let answer = get(&url, args.auth_string.as_deref(), ANSWER_WITHIN).await;
        let text = match answer {
            Ok(status) if args.json => format!("{status}\n"),
            Ok(status) => render(&status, view),
            Err(error) if args.watch => format!("{error:#}\n"),
            Err(error) => return Err(error),
        };
        let mut out = std::io::stdout().lock();
        if args.watch && !args.json {
            // Home, then clear to the end: no flicker.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        write!(out, "{text}")?;
        out.flush()?;
        drop(out);
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Prints what consumers gave up on: a page of it, or one message with all there is.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub async fn dead_letters(args: &DeadLettersArgs) -> anyhow::Result<()> {
    loop {
        let group = args.group.as_ref().map(|group| format!("group={}", form_urlencoded(group)));
        let path = match args.id {
            Some(id) => format!("/{id}{}", group.map(|group| format!("?{group}")).unwrap_or_default()),
            None => format!("?limit={}&offset={}{}", args.limit, args.offset, group.map(|group| format!("&{group}")).unwrap_or_default()),
        };
        let url = format!("{}/cluster/dead-letters{path}", args.ask.api_url.trim_end_matches('/'));
        let method = if args.delete { Method::DELETE } else { Method::GET };
        let answer = call(method, &url, args.ask.auth_string.as_deref(), None, ANSWER_WITHIN).await?;
        let text = match args.id {
            _ if args.ask.json => format!("{answer}\n"),
            Some(_) => format!("{answer:#}\n"),
            None => render_letters(&answer)?,
        };
        print!("{text}");
        if !args.ask.watch || args.delete {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks for dead letters to be replayed, and prints how many will be.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub async fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let url = format!("{}/cluster/dead-letters/replay", args.ask.api_url.trim_end_matches('/'));
    let ids = (!args.ids.is_empty()).then_some(&args.ids);
    let body = serde_json::json!({"ids": ids, "group": args.group, "all": args.all});
    let answer = call(Method::POST, &url, args.ask.auth_string.as_deref(), Some(&body), ANSWER_WITHIN).await?;
    if args.ask.json {
        println!("{answer}");
    } else {
        println!("{} to be replayed by the services' leader within about a second", shown(&answer["asked"]));
    }
    Ok(())
}

/// Has a node taken into the group.
///
/// # Errors
/// The node that was asked cannot be reached, or the group refuses.
pub async fn add_member(args: &AddArgs) -> anyhow::Result<()> {
    let (id, address) = &args.member;
    let body = serde_json::json!({"id": id, "address": address});
    change(&args.ask, Method::POST, "members", Some(&body), &format!("node {id} belongs to the group and votes")).await
}

/// Has a node struck off.
///
/// # Errors
/// As [`add_member`].
pub async fn remove_member(args: &RemoveArgs) -> anyhow::Result<()> {
    let said = format!("node {} belongs to the group no more; its id must not be used again", args.id);
    change(&args.ask, Method::DELETE, &format!("members/{}", args.id), None, &said).await
}

/// Has another node lead the Raft group.
///
/// # Errors
/// As [`add_member`].
pub async fn transfer_leader(args: &TransferArgs) -> anyhow::Result<()> {
    let body = serde_json::json!({"to": args.to});
    change(&args.ask, Method::POST, "transfer-leader", Some(&body), "another node leads").await
}

async fn change(ask: &AskArgs, method: Method, path: &str, body: Option<&Value>, said: &str) -> anyhow::Result<()> {
    let url = format!("{}/cluster/{path}", ask.api_url.trim_end_matches('/'));
    let answer = call(method, &url, ask.auth_string.as_deref(), body, CHANGED_WITHIN).await?;
    println!("{}", if ask.json { answer.to_string() } else { said.to_owned() });
    Ok(())
}

fn form_urlencoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn render_letters(answer: &Value) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let letters = answer["dead_letters"].as_array().cloned().unwrap_or_default();
    writeln!(out, "{} of {} dead letters", letters.len(), shown(&answer["total"]))?;
    writeln!(out, "{:36} {:20} {:>10} {:>8} {:27} {:6} error", "message", "group", "position", "attempts", "given up", "replay")?;
    for letter in letters {
        writeln!(
            out,
            "{:36} {:20} {:>10} {:>8} {:27} {:6} {}",
            shown(&letter["id"]),
            shown(&letter["group"]),
            shown(&letter["position"]),
            shown(&letter["attempts"]),
            shown(&letter["created"]),
            shown(&(!letter["replay_asked"].is_null()).into()),
            shown(&letter["error"])
        )?;
    }
    Ok(out)
}

/// The JSON that a node answers at `url`.
///
/// # Errors
/// It cannot be reached within `within`, or does not answer 2xx in JSON.
pub(crate) async fn get(url: &str, auth: Option<&str>, within: Duration) -> anyhow::Result<Value> {
    call(Method::GET, url, auth, None, within).await
}

async fn call(method: Method, url: &str, auth: Option<&str>, body: Option<&Value>, within: Duration) -> anyhow::Result<Value> {
    if url.starts_with("https://") {
        bail!("{url}: only plain HTTP is spoken here; name a node itself, such as http://127.0.0.1:4200/api");
    }
    let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
    if let Some(auth) = auth {
        let encoded = base64::engine::general_purpose::STANDARD.encode(auth);
        request = request.header(header::AUTHORIZATION, format!("Basic {encoded}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Full::new(Bytes::from(body.to_string()))
        }
        None => Full::default(),
    };
    let request = request.body(body).with_context(|| format!("{url} is no address"))?;
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let response = client.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok::<_, hyper_util::client::legacy::Error>((status, body))
    };
    let (status, body) = tokio::time::timeout(within, asked)
        .await
        .with_context(|| format!("{url} did not answer within {} s", within.as_secs_f64()))?
        .with_context(|| format!("{url} cannot be reached; is a node running there?"))?;
    let body = body.map_err(|error| anyhow::anyhow!("the answer of {url} broke off: {error}"))?.to_bytes();
    if status == StatusCode::UNAUTHORIZED {
        bail!("{url} asks for credentials; give --auth-string or PREFECT_API_AUTH_STRING");
    }
    if !status.is_success() {
        bail!("{url} answered {status}: {}", String::from_utf8_lossy(&body));
    }
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} did not answer in JSON"))
}

/// The status as text. What a node leaves out is shown as a dash: nodes of other versions may say less or more.
fn render(status: &Value, view: View) -> String {
    let mut out = String::new();
    let rows = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let written = match view {
        View::Cluster => cluster(&mut out, status, &rows("nodes"), &rows("services")),
        View::Members => members(&mut out, &rows("nodes")),
        View::Streams => streams(&mut out, &rows("streams")),
        View::Groups => groups(&mut out, &rows("streams")),
    };
    written.expect("writing to a string cannot fail");
    out
}

fn cluster(out: &mut String, status: &Value, nodes: &[Value], services: &[Value]) -> std::fmt::Result {
    writeln!(
        out,
        "cluster {}  leader {}  services leader {}  epoch {}",
        shown(&status["cluster_id"]),
        shown(&status["leader"]),
        shown(&status["services_leader"]),
        shown(&status["epoch"])
    )?;
    members(out, nodes)?;
    if !services.is_empty() {
        writeln!(out, "{:24} {:>5} {:>8} {:32} error", "service", "node", "lag", "last success")?;
    }
    for service in services {
        writeln!(
            out,
            "{:24} {:>5} {:>8} {:32} {}",
            shown(&service["name"]),
            shown(&service["node"]),
            shown(&service["lag"]),
            shown(&service["last_success"]),
            shown(&service["error"])
        )?;
    }
    Ok(())
}

fn members(out: &mut String, nodes: &[Value]) -> std::fmt::Result {
    writeln!(
        out,
        "{:>5} {:>8} {:10} {:5} {:>12} {:>12}  {:22} {:22} version",
        "node", "pid", "role", "up", "log", "applied", "http", "peer"
    )?;
    for node in nodes {
        writeln!(
            out,
            "{:>5} {:>8} {:10} {:5} {:>12} {:>12}  {:22} {:22} {}",
            shown(&node["id"]),
            shown(&node["pid"]),
            shown(&node["role"]),
            shown(&node["up"]),
            shown(&node["log_index"]),
            shown(&node["applied_index"]),
            shown(&node["http"]),
            shown(&node["peer"]),
            shown(&node["version"])
        )?;
    }
    Ok(())
}

fn streams(out: &mut String, streams: &[Value]) -> std::fmt::Result {
    writeln!(out, "{:28} {:>12} {:>16} {:>7}", "stream", "entries", "bytes", "groups")?;
    for stream in streams {
        let groups = stream["groups"].as_array().map_or(0, Vec::len);
        writeln!(out, "{:28} {:>12} {:>16} {groups:>7}", shown(&stream["name"]), shown(&stream["entries"]), shown(&stream["bytes"]))?;
    }
    Ok(())
}

fn groups(out: &mut String, streams: &[Value]) -> std::fmt::Result {
    writeln!(out, "{:28} {:28} {:>12} {:>12}", "stream", "group", "position", "behind")?;
    for stream in streams {
        for group in stream["groups"].as_array().into_iter().flatten() {
            writeln!(
                out,
                "{:28} {:28} {:>12} {:>12}",
                shown(&stream["name"]),
                shown(&group["name"]),
                shown(&group["position"]),
                shown(&group["behind"])
            )?;
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_shown_with_dashes_for_what_is_missing() {
        let status = json!({
            "cluster_id": "c", "leader": 2, "epoch": 42,
            "nodes": [{"id": 2, "pid": 4711, "role": "leader", "up": true, "http": "127.0.0.1:4202"}],
            "streams": [{"name": "events", "entries": 3, "bytes": 99, "groups": [{"name": "persister", "behind": 1}]}],
        });
        let text = render(&status, View::Cluster);
        assert!(text.starts_with("cluster c  leader 2  services leader -  epoch 42\n"), "{text}");
        assert!(text.contains("4711 leader     yes"), "{text}");
        assert!(render(&status, View::Streams).contains("events"), "{text}");
        let groups = render(&status, View::Groups);
        assert!(groups.lines().any(|line| line.split_whitespace().eq(["events", "persister", "-", "1"])), "{groups}");
    }
}
