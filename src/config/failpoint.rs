//! Places at which a test can have this node killed, where timing alone would hardly ever hit. Unset, as always outside
//! of tests, a place costs one comparison.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::reader::FromText;

/// A place, written `NAME=kill` in the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// `outbox.after_commit`: a transaction with events is committed, and none of them published.
    OutboxAfterCommit,
    /// `outbox.after_publish`: events of the outbox are on the bus, and not yet deleted from the outbox.
    OutboxAfterPublish,
}

impl Failpoint {
    /// Ends the process by SIGKILL, with nothing cleaned up, where `self` is the place that was set.
    pub fn reached(self, set: Option<Self>) {
        if set == Some(self) {
            tracing::warn!(failpoint = ?self, "the failpoint is reached; this node kills itself");
            // A process may always signal itself; should it not, the end comes all the same.
            let _ = kill(Pid::this(), Signal::SIGKILL);
            std::process::abort();
        }
    }
}

impl FromText for Failpoint {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "outbox.after_commit=kill" => Ok(Self::OutboxAfterCommit),
            "outbox.after_publish=kill" => Ok(Self::OutboxAfterPublish),
            _ => Err("outbox.after_commit=kill or outbox.after_publish=kill, and is for tests only".to_owned()),
        }
    }
}
