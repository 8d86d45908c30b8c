//! Every bound of the program, with its unit and the reason for its size. A bound that an operator may change is a
//! setting in `config` whose default is here.

use std::time::Duration;

/// Items of a list answer, at most and by default (`PREFECT_SERVER_API_DEFAULT_LIMIT`), as the reference.
pub const PAGE_ITEMS: u64 = 200;

/// Bytes of one request body. The reference has no bound; its largest legal body is a batch of logs below 1 MB, or
/// parameters of 512 KiB; ten times that leaves room for bulk operations and keeps memory bounded.
pub const REQUEST_BODY_BYTES: usize = 10 * 1024 * 1024;

/// Connections to the database per node: the reference's pool of 5 + 10 overflow.
pub const DATABASE_CONNECTIONS: u32 = 15;

/// Wait for a pooled database connection before the request is answered 503.
pub const DATABASE_ACQUIRE: Duration = Duration::from_secs(5);

/// A connection of the pool that was used within this time is taken without asking the database whether it still lives.
pub const DATABASE_IDLE_UNASKED: Duration = Duration::from_secs(1);

/// One statement's time on Postgres, as the reference's `command_timeout`.
pub const DATABASE_STATEMENT: Duration = Duration::from_secs(10);

/// Time beyond [`DATABASE_STATEMENT`] after which a database that says nothing is taken for gone.
pub const DATABASE_GRACE: Duration = Duration::from_secs(2);

/// Time in which a connection of the pool has to say that it lives.
pub const DATABASE_PING: Duration = Duration::from_secs(2);

/// Of several database servers, how often the one that accepts writes is asked whether it still does.
pub const DATABASE_PRIMARY_WATCH: Duration = Duration::from_millis(250);

/// How long each connection of the pool is asked whether its server accepts writes, once another one has taken over.
pub const DATABASE_PRIMARY_SUSPECT: Duration = Duration::from_secs(10);

/// How long connections that come back to the pool are asked whether they live, once one was left without an answer.
pub const DATABASE_SUSPECT: Duration = Duration::from_mins(1);

/// Wait for one database server to accept a connection before a migration tries the next one.
pub const DATABASE_CONNECT: Duration = Duration::from_secs(10);

/// Wait for another node's migration of the same database; a first one takes a second or two.
pub const MIGRATION_WAIT: Duration = Duration::from_mins(2);

/// SQLite's wait for the write lock of another process (`busy_timeout`), as the reference.
pub const SQLITE_BUSY: Duration = Duration::from_mins(1);

/// Attempts of one database transaction that ends in a retryable error (deadlock, serialization, busy) before the
/// error is reported.
pub const TRANSACTION_ATTEMPTS: u32 = 5;

/// Rows of one multi-row INSERT are cut so that its bound values stay below this (SQLite 32,766; Postgres 65,535).
pub const STATEMENT_VALUES: usize = 30_000;

/// Committed transactions whose events wait in memory to be published. Beyond it the sweeper publishes them from the
/// outbox, a little later.
pub const OUTBOX_QUEUE_TRANSACTIONS: usize = 4096;

/// Transactions whose events are published to the bus in one go.
pub const OUTBOX_BATCH_TRANSACTIONS: usize = 256;

/// Time that a node which stops gives the bus to take its last messages; it is well below the grace of all its tasks.
pub const OUTBOX_LEAVING: Duration = Duration::from_secs(1);

/// Bytes of one WebSocket message: above the largest event (1.5 MB), so that an event which is too large is seen and
/// reported rather than breaking the connection.
pub const SOCKET_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Time for a client to send its first messages after the upgrade.
pub const SOCKET_HANDSHAKE: Duration = Duration::from_secs(30);

/// Wait for a client's answer to a close frame.
pub const SOCKET_CLOSE: Duration = Duration::from_secs(2);

/// Events of one socket that are published together.
pub const SOCKET_BATCH_EVENTS: usize = 256;

/// Bytes of events of one socket that are published together.
pub const SOCKET_BATCH_BYTES: usize = 192 * 1024;

/// Batches of one socket on their way to the bus at a time; beyond it the socket is not read.
pub const SOCKET_BATCHES: usize = 4;

/// How long rows of published messages stay in the outbox, so that many are deleted at once. Far below [`OUTBOX_GRACE`].
pub const OUTBOX_FORGET: Duration = Duration::from_millis(50);

/// Rows of published messages after which they are deleted at once.
pub const OUTBOX_FORGET_ROWS: usize = 1000;

/// Rows that the sweeper of the outbox publishes in one tick.
pub const OUTBOX_SWEEP: u64 = 1000;

/// Time that a node has to publish its own events before the sweeper does.
pub const OUTBOX_GRACE: Duration = Duration::from_secs(2);

/// Time of one tick of a service; one that takes longer is dropped with its transaction and tried again.
pub const SERVICE_TICK: Duration = Duration::from_mins(1);

/// Pause after a failed tick, at most.
pub const SERVICE_RETRY: Duration = Duration::from_millis(250);

/// Time without success after which a service counts as unable to work (or two periods, where that is longer).
pub const SERVICE_PATIENCE: Duration = Duration::from_secs(15);

/// How often it is looked whether a service is stuck.
pub const SERVICE_LOOK: Duration = Duration::from_millis(500);

/// How long a node that could not do the services' work leaves their lead to others.
pub const SERVICE_REST: Duration = Duration::from_mins(1);

/// Entries that the event persister writes in one transaction.
pub const EVENT_PERSISTER_BATCH: usize = 4000;

/// Entries from which on a consumer shares a batch between two transactions.
pub const CONSUMER_SPLIT: usize = 200;

/// Entries in the first batch of a consumer that has just begun, or begun again after a failure; each batch may be twice as large
/// as the one before, up to the consumer's own. A new leader's consumers all begin in the middle of a backlog: their first effects
/// come soon, and the services beside them find the database free.
pub const CONSUMER_FIRST_ENTRIES: usize = 125;

/// Bytes of entries that a consumer reads for one transaction.
pub const CONSUMER_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// From the start of one batch of a consumer to the next, unless half a batch waits already: a transaction costs the
/// database the same for one entry and for twenty.
pub const CONSUMER_GATHER: Duration = Duration::from_millis(20);

/// How long a consumer leaves the database to a more urgent one that is behind, before each of its batches.
pub const CONSUMER_YIELD: Duration = Duration::from_secs(1);

/// Entries that a consumer is behind by when a less urgent one leaves the database to it.
pub const CONSUMER_BEHIND: u64 = 2000;

/// Entries after which a consumer tells the bus of its cursor (and whenever it has caught up).
pub const CONSUMER_TELL_ENTRIES: u64 = 5000;

/// Times that a single entry is tried before it becomes a dead letter.
pub const CONSUMER_ATTEMPTS: u32 = 3;

/// First pause of a consumer after a transient failure; doubles up to [`CONSUMER_RETRY_MAX`].
pub const CONSUMER_RETRY: Duration = Duration::from_millis(50);

/// Longest pause of a consumer after transient failures.
pub const CONSUMER_RETRY_MAX: Duration = Duration::from_secs(2);

/// How often a consumer looks whether someone asked for dead letters to be replayed.
pub const REPLAY_LOOK: Duration = Duration::from_secs(1);

/// Dead letters that a consumer replays before it goes on with its stream.
pub const REPLAY_BATCH: u64 = 100;

/// Dead letters that one request names, lists, marks or deletes at most.
pub const DEAD_LETTERS: u64 = 1000;

/// Time after which an idle consumer looks again and tells that it is alive.
pub const CONSUMER_IDLE: Duration = Duration::from_secs(1);

/// Events that a subscriber's socket reads from the bus at a time.
pub const SOCKET_TAIL_EVENTS: usize = 256;

/// Time for a subscriber to take one message; a slower one is disconnected.
pub const SOCKET_SEND: Duration = Duration::from_secs(30);

/// How far the clocks of emitters may be ahead of ours.
pub const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Entries of the event stream that the task-run recorder looks at for one transaction.
pub const TASK_RUN_RECORDER_BATCH: usize = 2000;

/// Time within which a change of a deployment is seen by others, from the moment that it carries: that of a few
/// statements on a database that is slow, and what clocks differ.
pub const CHANGE_SEEN_WITHIN: Duration = Duration::from_mins(1);

/// Batches of deployments that one tick of the scheduler goes through.
pub const SCHEDULER_BATCHES: usize = 100;

/// Runs that one tick marks late, as the reference.
pub const LATE_RUNS: u64 = 400;

/// Runs marked late in one transaction.
pub const LATE_RUNS_TRANSACTION: usize = 20;
/// Variables that input values may refer to, at most: those first by name. The reference reads them all.
pub const HYDRATION_VARIABLES: u64 = 10_000;

/// Automations of one resource that are listed. The reference lists them all.
pub const AUTOMATIONS_OF_RESOURCE: u64 = 10_000;

/// Entries of the event stream that the triggers look at in one transaction.
pub const TRIGGERS_BATCH: usize = 1000;

/// Ids of events that the triggers remember, to know a repetition and a leader that went by; older ones are looked up
/// among the events of the database.
pub const TRIGGERS_SEEN_EVENTS: usize = 200_000;

/// Entries ahead that the triggers look through for the leader of an event, before they let the event wait.
pub const TRIGGERS_LOOK_AHEAD: usize = 5000;

/// Events whose leader never came that are dealt with in one go.
pub const TRIGGERS_LOST_FOLLOWERS: u64 = 500;

/// Buckets of proactive triggers that are evaluated in one transaction.
pub const PROACTIVE_BUCKETS: u64 = 500;

/// Evaluations of a trigger with an event in one transaction; batches that bring more are made smaller.
pub const TRIGGERS_EVALUATIONS: usize = 5000;

/// Between two looks of the triggers at the clock.
pub const TRIGGERS_PACE: Duration = Duration::from_secs(1);

/// Transactions of one such look.
pub const TRIGGERS_LOOKS: usize = 100;
/// Hints of committed transactions that wait to be published; further ones are dropped, and whoever waits for them looks
/// a little later.
pub const HINT_QUEUE: usize = 4096;

/// How long a request for slots of a full concurrency limit waits for some to come back before it is refused.
pub const SLOT_WAIT: Duration = Duration::from_secs(2);

/// Longest wait of the first in line for slots between two tries, where no hint comes.
pub const SLOT_LOOK: Duration = Duration::from_millis(500);

/// Requests of one node that wait for slots; further ones are refused at once.
pub const SLOT_WAITERS: usize = 1024;

/// How long a node may hold a background task run for a task worker without renewing; beyond it another node hands it
/// out. Renewed every [`TASK_CLAIM_RENEWAL`].
pub const TASK_CLAIM: Duration = Duration::from_secs(20);

/// How often a node renews what it holds for its task workers, and looks for task runs without having been told.
pub const TASK_CLAIM_RENEWAL: Duration = Duration::from_secs(5);

/// Longest wait of idle task workers between two looks, where no hint comes.
pub const TASK_LOOK: Duration = Duration::from_secs(1);

/// Background task runs claimed in one transaction.
pub const TASK_CLAIMS: u64 = 200;

/// Requests of task workers that wait for the queue of this node.
pub const TASK_REQUESTS: usize = 1024;

/// Task keys of one task worker.
pub const TASK_KEYS: usize = 2000;

/// Bytes of the keys and the name of one task worker; they are told to every node.
pub const TASK_WORKER_BYTES: usize = 64 * 1024;

/// How long a task worker counts as connected without its node saying so again.
pub const TASK_WORKER_PRESENCE: Duration = Duration::from_secs(20);

/// How long a task worker is listed after its connection ended without a word.
pub const TASK_WORKER_LINGERS: Duration = Duration::from_secs(1);

/// How often a node says which task workers are connected to it.
pub const TASK_WORKER_TOLD: Duration = Duration::from_secs(5);

/// Task workers of one node that are told of at a time.
pub const TASK_WORKERS_TOLD_AT_ONCE: usize = 64;

/// How long a request may wait for room in the queue of its task key before it is put off (503).
pub const TASK_ROOM: Duration = Duration::from_secs(10);

/// Task runs that one tick brings into the queue, or lets go of.
pub const TASK_SWEEP: u64 = 1000;

/// How long a scheduled background task run may be missing from the queue before it is brought in: long enough for
/// whoever handed it out before (another kind of server) to have it started.
pub const TASK_RECOVERY_AGE: Duration = Duration::from_mins(1);

/// How long changes of a work pool are gathered before its workers are sent a snapshot, as the reference.
pub const SNAPSHOT_GATHERING: Duration = Duration::from_millis(50);

/// How long a worker whose queues do not match leaves a cleanup message to those whose queues do.
pub const CLEANUP_PREFERENCE: Duration = Duration::from_millis(250);

/// Longest wait of a worker's connection between two looks for cleanup messages, where no hint comes.
pub const CLEANUP_LOOK: Duration = Duration::from_secs(10);

/// Cleanups that one worker may have under way, whatever it asks for.
pub const CLEANUP_CONCURRENCY: u64 = 100;

/// How long a cleanup message that is done with, or given up, is remembered, so that it is not made twice.
pub const CLEANUP_MEMORY: Duration = Duration::from_hours(7 * 24);

/// Names of work queues, capabilities, versions or kinds that a worker may list in its first frame.
pub const WORKER_LIST: usize = 1000;

/// Actions of automations that are done in one transaction.
pub const ACTIONS_BATCH: usize = 20;

/// Calls of one block that are made at a time, so that one that hangs does not hold up the others.
pub const ACTION_CALLS_OF_BLOCK: usize = 4;

/// How often the services leader looks for calls to make.
pub const ACTION_CALLS_LOOK: Duration = Duration::from_millis(100);

/// Time of one call with all its requests; the requests have bounds of their own.
pub const ACTION_CALL: Duration = Duration::from_mins(2);

/// Bytes of an answer that are read; only its beginning and its end are told.
pub const ACTION_ANSWER_BYTES: usize = 64 * 1024;

/// Requests of one notification: one for each receiver.
pub const NOTIFICATION_REQUESTS: usize = 100;

/// Runs that one tick of a service ends, as the reference.
pub const SERVICE_RUNS: u64 = 200;

/// Runs that a service ends in one transaction.
pub const SERVICE_RUNS_TRANSACTION: usize = 20;

/// Workers, pools, deployments and queues each that one tick of the foreman marks.
pub const FOREMAN_ROWS: u64 = 500;

/// Expired leases whose slots are taken back in one tick, as the reference.
pub const REPOSSESSOR_LEASES: u64 = 100;

/// Limits whose count is set right in one tick.
pub const REPOSSESSOR_LIMITS: u64 = 50;

/// Transactions of one tick of a vacuum.
pub const VACUUM_BATCHES: u64 = 200;

/// Flow runs named by log lines or artifacts that the vacuum looks up at once.
pub const VACUUM_OWNERS: u64 = 1000;

/// Log lines of a deleted run that are deleted in one transaction.
pub const RUN_LOGS_BATCH: u64 = 5000;
