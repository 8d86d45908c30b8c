//! Notices in bounded time that a client is gone without a word: it is sent a ping now and then, and has to say anything
//! at all, a pong if nothing else, within a time.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use tokio::time::Instant;

use crate::app::App;
use crate::limits;

/// The pulse of one socket.
pub struct Pulse {
    interval: Duration,
    timeout: Duration,
    heard: Instant,
    ping_at: Instant,
}

impl Pulse {
    /// As the settings have it (`PREFECT_SERVER_API_WEBSOCKET_PING_*`).
    pub fn new(app: &App) -> Self {
        let server = &app.settings().server;
        let (interval, timeout) = (server.websocket_ping_interval, server.websocket_ping_timeout);
        Self { interval, timeout, heard: Instant::now(), ping_at: Instant::now() + interval }
    }

    /// The client said something.
    pub fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Resolves when [`Pulse::beat`] is due. Cancellation safe.
    pub async fn due(&self) {
        tokio::time::sleep_until(self.ping_at).await;
    }

    /// Sends a ping; false where the client has been silent for too long or cannot be sent to.
    pub async fn beat(&mut self, socket: &mut WebSocket) -> bool {
        if self.heard.elapsed() > self.interval + self.timeout {
            return false;
        }
        self.ping_at = Instant::now() + self.interval;
        let ping = socket.send(Message::Ping(Vec::new().into()));
        matches!(tokio::time::timeout(limits::SOCKET_SEND, ping).await, Ok(Ok(())))
    }
}

/// The next text of a client; pings and pongs are dealt with on the way. `None` where it is gone. Cancellation safe: what
/// was received is either given or was no text.
pub async fn next_text(socket: &mut WebSocket, pulse: &mut Pulse) -> Option<String> {
    loop {
        tokio::select! {
            frame = socket.recv() => match frame {
                None | Some(Err(_) | Ok(Message::Close(_))) => return None,
                Some(Ok(Message::Text(text))) => {
                    pulse.heard();
                    return Some(text.to_string());
                }
                Some(Ok(_)) => pulse.heard(),
            },
            () = pulse.due() => if !pulse.beat(socket).await {
                return None;
            },
        }
    }
}
