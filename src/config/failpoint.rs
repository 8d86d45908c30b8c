//! Places at which a test can have this node killed or stopped, where timing alone would hardly ever hit. Unset, as always outside
//! of tests, a place costs one comparison.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::planted::Planted;
use super::reader::FromText;

/// A place, written `NAME=kill` or `NAME=stop` in the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// `outbox.after_commit`: a transaction with events is committed, and none of them published.
    OutboxAfterCommit,
    /// `outbox.after_publish`: events of the outbox are on the bus, and not yet deleted from the outbox.
    OutboxAfterPublish,
    /// `services.before_fence`: a service of the leader has begun a transaction and not yet looked whether it still leads.
    ServicesBeforeFence,
    /// `services.tick=hang`: every tick of the late runs service of this node stands still.
    ServiceHangs,
    /// `cluster.raft=stop`: Raft stops once this node is ready, for no reason of the disk.
    RaftStops,
    /// A bug of its own, in builds that have it.
    Planted(Planted),
}

impl Failpoint {
    /// Where `self` is the place that was set: ends the process by SIGKILL, with nothing cleaned up, or stops it by
    /// SIGSTOP, once, until somebody has it go on.
    pub fn reached(self, set: Option<Self>) {
        static STOPPED: AtomicBool = AtomicBool::new(false);
        if set != Some(self) {
            return;
        }
        if self == Self::ServicesBeforeFence {
            if !STOPPED.swap(true, Ordering::Relaxed) {
                tracing::warn!(failpoint = ?self, "the failpoint is reached; this node stops itself");
                // Whoever set it sees whether the node stands still.
                let _ = kill(Pid::this(), Signal::SIGSTOP);
            }
        } else {
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
            "services.before_fence=stop" => Ok(Self::ServicesBeforeFence),
            "services.tick=hang" => Ok(Self::ServiceHangs),
            "cluster.raft=stop" => Ok(Self::RaftStops),
            _ => Planted::of(text).map(Self::Planted).ok_or_else(|| {
                "outbox.after_commit=kill, outbox.after_publish=kill, services.before_fence=stop, services.tick=hang or \
                 cluster.raft=stop, and is for tests only"
                    .to_owned()
            }),
        }
    }
}
