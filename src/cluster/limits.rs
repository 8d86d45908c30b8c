//! The bounds of the group, each with its unit and the reason for its size. Measured on two cores and one disk shared by
//! three nodes; see the benchmark `bus`.

use std::time::Duration;

/// How long the log's writer gathers further writes before it flushes. Zero would switch gathering off altogether (a
/// tenth of the throughput at 128 publishers), the library's default of 1 ms is paid by every lonely write.
pub const RAFT_FLUSH_GATHER: Duration = Duration::from_micros(50);

/// Requests of another node that it gave up before this one looked at them, as after a pause; beyond it the connection
/// is closed.
pub const PEER_GIVEN_UP: usize = 4096;

/// Bytes of one file of the log. What is in the open one is held in memory too.
pub const RAFT_LOG_CHUNK_BYTES: usize = 64 << 20;

/// Bytes of log payload held in memory for followers and for applying.
pub const RAFT_LOG_CACHE_BYTES: usize = 64 << 20;

/// Bytes of entries in one append to a follower.
pub const RAFT_APPEND_BYTES: u64 = 4 << 20;

/// Bytes of one message between nodes; four times an append, for one entry which is itself large.
pub const PEER_MESSAGE_BYTES: usize = 16 << 20;

/// HTTP/2 window of one stream between nodes, bytes.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// HTTP/2 window of one connection between nodes, bytes.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Time to connect to a node before it counts as unreachable.
pub const PEER_CONNECT: Duration = Duration::from_millis(250);

/// Pause before a node that could not be reached is asked again: one that comes back is noticed at once.
pub const PEER_RETRY: Duration = Duration::from_millis(50);

/// Silence on a stream of appends which has unanswered ones, or of a connection that was pinged, before it is given up.
/// Ten times the worst flush seen; heartbeats notice a dead node long before.
pub const PEER_STALL: Duration = Duration::from_secs(2);

/// One block of a file of a snapshot, bytes.
pub const SNAPSHOT_BLOCK_BYTES: usize = 512 << 10;

/// Time to send and install a whole snapshot: 4 GiB at 10 MB/s.
pub const SNAPSHOT_TRANSFER: Duration = Duration::from_mins(10);

/// Snapshots kept on disk: the newest, and the one before it for the case that the newest is damaged.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Bytes of log since the last snapshot which make a new one due.
pub const SNAPSHOT_LOG_BYTES: u64 = 256 << 20;

/// Entries since the last snapshot which make a new one due.
pub const SNAPSHOT_LOG_ENTRIES: u64 = 200_000;

/// A node which is little used makes a snapshot when the last is this old ...
pub const SNAPSHOT_AGE: Duration = Duration::from_mins(10);

/// ... and this many entries ago, so that a restart replays little.
pub const SNAPSHOT_AGED_ENTRIES: u64 = 10_000;

/// Bytes of log kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
pub const LOG_KEPT_BYTES: u64 = 256 << 20;

/// Entries of log kept behind a snapshot.
pub const LOG_KEPT_ENTRIES: u64 = 100_000;

/// Entries between two comparisons of the nodes' states by checksum.
pub const CHECKPOINT_ENTRIES: u64 = 10_000;

/// Commands in one proposal: one log entry.
pub const PROPOSAL_COMMANDS: usize = 256;

/// Bytes of one proposal; a single larger command travels alone. Beyond it latency rises and throughput does not.
pub const PROPOSAL_BYTES: usize = 256 << 10;

/// Proposals of one node in flight at a time. While they are, what arrives gathers for the next.
pub const PROPOSALS_IN_FLIGHT: usize = 4;

/// Bytes of commands that wait in one node, in its queue or in flight. When it is full, publishers wait.
pub const QUEUE_BYTES: usize = 16 << 20;

/// Commands that wait in one node's queue.
pub const QUEUE_COMMANDS: usize = 16_384;

/// Bytes forwarded by other nodes which the leader has in flight; beyond it, it stops reading from them.
pub const FORWARDED_BYTES: usize = 32 << 20;

/// Time for a command to be committed and applied, unless its caller says otherwise; then its outcome is unknown.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two attempts of the same proposal while there is no leader to take it.
pub const PROPOSAL_PAUSE: Duration = Duration::from_millis(5);

/// Silence after which a node counts as away, and loses the services' lead.
pub const NODE_AWAY: Duration = Duration::from_secs(1);

/// How long a services leader acts without word from a majority. Shorter than [`NODE_AWAY`], which begins later, at the
/// other end: so that it stops before another is elected.
pub const SERVICES_LEASE: Duration = Duration::from_millis(900);

/// How long a change of members may take before whoever asked for it is told that it is not finished.
pub const MEMBER_CHANGE: Duration = Duration::from_mins(1);

/// Entries of the log that a learner may lack when it becomes a voter: what comes in within a moment.
pub const MEMBER_BEHIND_ENTRIES: u64 = 1_000;

/// How often the Raft leader looks whether the services' leader lives.
pub const ELECTION_LOOK: Duration = Duration::from_millis(100);

/// How often a node asks the others how they are, for status pages.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long a graceful stop waits for what is queued, and again for the hand-over of the lead.
pub const SHUTDOWN_STEP: Duration = Duration::from_secs(3);

/// How long a node waits for what is queued where the whole group stops.
pub const SHUTDOWN_TOGETHER: Duration = Duration::from_secs(1);

/// Bytes of log lines that travel together; a single longer one travels alone.
pub const LOG_FEED_BATCH_BYTES: usize = 256 << 10;

/// Batches of log lines that wait for a subscriber, or for another node: 16 MiB. One that falls behind further is told.
pub const LOG_FEED_BATCHES: usize = 64;
