//! Clients which know what they know: an operation is *ok*, *failed* (it certainly had no effect) or *unknown*.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use uuid::Uuid;

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(15);

/// What a client knows of an operation it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not happen.
    Failed,
    /// Either.
    Unknown,
}

/// A client of the HTTP API.
#[derive(Clone, Debug)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

impl Http {
    /// A client of the API at `base`, such as `http://127.0.0.1:4200/api`.
    ///
    /// # Panics
    /// The system has no source of randomness.
    pub fn new(base: impl Into<String>) -> Self {
        let client = reqwest::Client::builder().timeout(CALL_WITHIN).no_proxy().build().expect("a plain client can be built");
        Self { base: base.into(), client }
    }

    /// GET: status and body (a string where it is no JSON).
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.get(format!("{}{path}", self.base))).await
    }

    /// POST of a JSON body.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// PATCH with a JSON body.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.patch(format!("{}{path}", self.base)).json(body)).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn delete(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.delete(format!("{}{path}", self.base))).await
    }

    /// POST, judged: 2xx is ok; a refused connection or 4xx is failed; all else is unknown.
    pub async fn judged_post(&self, path: &str, body: &Value) -> (Outcome, Option<Value>) {
        match self.client.post(format!("{}{path}", self.base)).json(body).send().await {
            Err(error) if error.is_connect() => (Outcome::Failed, None),
            Err(_) => (Outcome::Unknown, None),
            Ok(response) => {
                let outcome = match response.status().as_u16() {
                    200..=299 => Outcome::Ok,
                    400..=499 => Outcome::Failed,
                    _ => Outcome::Unknown,
                };
                (outcome, response.json().await.ok())
            }
        }
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A socket on which events are sent in. A pong confirms everything sent before its ping.
pub struct EventsIn {
    stream: Stream,
}

impl EventsIn {
    /// Connects to the API at `base` and shakes hands as the Prefect client does.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn connect(base: &str) -> anyhow::Result<Self> {
        Ok(Self { stream: socket(base, "/events/in").await? })
    }

    /// Sends one event; nothing is known of it before [`EventsIn::confirm`].
    ///
    /// # Errors
    /// The socket broke.
    pub async fn send(&mut self, event: &Value) -> anyhow::Result<()> {
        Ok(self.stream.send(Message::text(event.to_string())).await?)
    }

    /// Sends a ping and waits for its pong: everything sent before is committed.
    ///
    /// # Errors
    /// It did not come within `within`, so the outcome of what was sent is unknown.
    pub async fn confirm(&mut self, within: Duration) -> anyhow::Result<()> {
        let token = Bytes::copy_from_slice(Uuid::from_u128(rand::random()).as_bytes());
        self.stream.send(Message::Ping(token.clone())).await?;
        tokio::time::timeout(within, async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Pong(answer))) if answer == token => return Ok(()),
                    Some(Ok(Message::Close(frame))) => anyhow::bail!("closed: {frame:?}"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => anyhow::bail!("the socket ended"),
                }
            }
        })
        .await?
    }

    /// Closes and waits for the answer, which confirms like a pong.
    ///
    /// # Errors
    /// No answer came within `within`.
    pub async fn close(mut self, within: Duration) -> anyhow::Result<()> {
        self.stream.close(None).await?;
        tokio::time::timeout(within, async {
            while let Some(message) = self.stream.next().await {
                if let Message::Close(_) = message? {
                    return Ok(());
                }
            }
            Ok(())
        })
        .await?
    }
}

/// A socket from which events come out.
pub struct EventsOut {
    stream: Stream,
}

impl EventsOut {
    /// Subscribes to what `filter` lets through.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn connect(base: &str, filter: &Value) -> anyhow::Result<Self> {
        let mut stream = socket(base, "/events/out").await?;
        stream.send(Message::text(json!({"type": "filter", "filter": filter}).to_string())).await?;
        Ok(Self { stream })
    }

    /// The next event.
    ///
    /// # Errors
    /// None came within `within`, or the socket ended.
    pub async fn next(&mut self, within: Duration) -> anyhow::Result<Value> {
        Ok(next_text(&mut self.stream, within).await?["event"].take())
    }
}

/// A socket from which log lines come out.
pub struct LogsOut {
    stream: Stream,
}

impl LogsOut {
    /// Subscribes to what `filter` lets through.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn connect(base: &str, filter: &Value) -> anyhow::Result<Self> {
        let mut stream = socket(base, "/logs/out").await?;
        stream.send(Message::text(json!({"type": "filter", "filter": filter}).to_string())).await?;
        Ok(Self { stream })
    }

    /// The next frame, as it came.
    ///
    /// # Errors
    /// None came within `within`, or the socket ended: the message holds code and reason.
    pub async fn next(&mut self, within: Duration) -> anyhow::Result<Value> {
        next_text(&mut self.stream, within).await
    }
}

/// The next text message of a socket, as JSON.
async fn next_text(stream: &mut Stream, within: Duration) -> anyhow::Result<Value> {
    tokio::time::timeout(within, async {
        loop {
            match stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Close(frame))) => anyhow::bail!("closed: {frame:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => anyhow::bail!("the socket ended"),
            }
        }
    })
    .await?
}

/// A socket of the API on which any JSON goes either way.
pub struct Socket {
    stream: Stream,
}

impl Socket {
    /// Connects to `path` of the API at `base` and shakes hands as the Prefect client does.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn connect(base: &str, path: &str) -> anyhow::Result<Self> {
        Ok(Self { stream: socket(base, path).await? })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The socket broke.
    pub async fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        Ok(self.stream.send(Message::text(message.to_string())).await?)
    }

    /// The next message; pings are answered while this waits.
    ///
    /// # Errors
    /// None came within `within`, or the socket was closed.
    pub async fn next(&mut self, within: Duration) -> anyhow::Result<Value> {
        loop {
            match tokio::time::timeout(within, self.stream.next()).await? {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Close(frame))) => anyhow::bail!("closed: {frame:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => anyhow::bail!("the socket ended"),
            }
        }
    }

    /// Waits for the server's close frame: its code and reason.
    ///
    /// # Errors
    /// None came within `within`, or something else did.
    pub async fn closed(mut self, within: Duration) -> anyhow::Result<(u16, String)> {
        loop {
            match tokio::time::timeout(within, self.stream.next()).await? {
                Some(Ok(Message::Close(Some(frame)))) => return Ok((frame.code.into(), frame.reason.to_string())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => return Err(error.into()),
                other => anyhow::bail!("not closed, but {other:?}"),
            }
        }
    }
}

async fn socket(base: &str, path: &str) -> anyhow::Result<Stream> {
    let url = format!("{}{path}", base.replacen("http://", "ws://", 1));
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "prefect".parse()?);
    let (mut stream, _) = tokio::time::timeout(CALL_WITHIN, connect_async(request)).await??;
    stream.send(Message::text(json!({"type": "auth", "token": null}).to_string())).await?;
    match tokio::time::timeout(CALL_WITHIN, stream.next()).await? {
        Some(Ok(Message::Text(text))) if text.contains("auth_success") => Ok(stream),
        other => anyhow::bail!("the handshake of {path} was answered by {other:?}"),
    }
}
