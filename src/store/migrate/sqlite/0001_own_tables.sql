-- Step 1: what Praetor keeps beside Prefect's tables. Python never looks here. Times are texts of Prefect's form, ids lower-case
-- with hyphens, JSON is text; see the Postgres step for the promises.

-- Events and actions made by a transaction and not yet known to be published. A row is deleted after its publication.
CREATE TABLE praetor_outbox (
    id CHAR(36) NOT NULL,                   -- id of the message; the bus drops a second one with it
    stream VARCHAR DEFAULT 'events' NOT NULL, -- 'events' or 'actions'
    event JSON NOT NULL,                    -- the event, as clients see it, or the action
    created DATETIME NOT NULL,              -- when the transaction made it; the sweeper leaves young rows to their node
    attempts INTEGER DEFAULT 0 NOT NULL,    -- publications tried by the sweeper
    CONSTRAINT pk_praetor_outbox PRIMARY KEY (id)
);
CREATE INDEX ix_praetor_outbox__created ON praetor_outbox (created, id);

-- How far a consumer group has come. Moved in the transaction of the effect, so an entry takes effect once.
CREATE TABLE praetor_cursor (
    consumer_group TEXT NOT NULL,
    stream TEXT NOT NULL,
    position INTEGER NOT NULL,              -- position of the last entry whose effect is in the database
    updated DATETIME NOT NULL,
    CONSTRAINT pk_praetor_cursor PRIMARY KEY (consumer_group, stream)
);

-- Who may write as a leader. Its transactions read the row and abort when the epoch has moved.
CREATE TABLE praetor_fence (
    name TEXT NOT NULL,                     -- 'services'
    cluster TEXT NOT NULL,                  -- id of the group whose election it was
    epoch INTEGER NOT NULL,                 -- log index of the election; within a group it only ever rises
    holder INTEGER,                         -- node id of the leader of this epoch
    updated DATETIME NOT NULL,
    CONSTRAINT pk_praetor_fence PRIMARY KEY (name)
);

-- A taken concurrency slot is a live row here; concurrency_limit_v2.active_slots follows in the same transaction.
CREATE TABLE praetor_lease (
    id CHAR(36) NOT NULL,                   -- the lease id that clients renew
    limit_ids JSON NOT NULL,                -- ids of the rows of concurrency_limit_v2: ["...", "..."]
    slots INTEGER NOT NULL,                 -- slots taken of each of them
    holder JSON,                            -- {"type": "flow_run" | "task_run" | "deployment", "id": "..."} or NULL
    created DATETIME NOT NULL,
    expires DATETIME NOT NULL,              -- past it the repossessor may give the slots back
    CONSTRAINT pk_praetor_lease PRIMARY KEY (id)
);
CREATE INDEX ix_praetor_lease__expires ON praetor_lease (expires, id);

-- Calls to the world outside that automations caused: made after the commit that wrote them here, deleted with their outcome.
CREATE TABLE praetor_action_call (
    id CHAR(36) NOT NULL,                   -- the invocation; the world knows the call by it
    block_document_id CHAR(36) NOT NULL,    -- what is called
    action JSON NOT NULL,                   -- the triggered action
    created DATETIME NOT NULL,
    CONSTRAINT pk_praetor_action_call PRIMARY KEY (id)
);
CREATE INDEX ix_praetor_action_call__created ON praetor_action_call (created, id);

-- Entries that a consumer group gave up on, kept until someone replays or deletes them.
CREATE TABLE praetor_dead_letter (
    id CHAR(36) NOT NULL,                   -- id of the message
    stream TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    position INTEGER NOT NULL,              -- where it stood in the stream
    payload BLOB NOT NULL,
    error TEXT NOT NULL,                    -- the last failure, with its causes
    attempts INTEGER NOT NULL,
    created DATETIME NOT NULL,              -- when it was given up
    replay DATETIME,                        -- when someone asked for it to be tried again; NULL: nobody
    CONSTRAINT pk_praetor_dead_letter PRIMARY KEY (id, consumer_group)
);
CREATE INDEX ix_praetor_dead_letter__created ON praetor_dead_letter (created, id);
CREATE INDEX ix_praetor_dead_letter__consumer_group ON praetor_dead_letter (consumer_group, replay);

-- Background task runs to be handed to a task worker, written with the state that makes them ready. A row whose run has
-- left SCHEDULED is history and swept.
CREATE TABLE praetor_task_delivery (
    task_run_id CHAR(36) NOT NULL,
    task_key TEXT NOT NULL,
    rank integer NOT NULL,                  -- 0: handed out before, or a retry; 1: new. Lower goes first
    queued DATETIME NOT NULL,            -- when it became ready
    owner CHAR(36),                             -- the process that holds it for one of its task workers
    claimed_until DATETIME,              -- past it any process may take it
    acked DATETIME,                      -- a task worker has it
    CONSTRAINT pk_praetor_task_delivery PRIMARY KEY (task_run_id)
);
CREATE INDEX ix_praetor_task_delivery__waiting ON praetor_task_delivery (task_key, rank, queued, task_run_id) WHERE acked IS NULL;
CREATE INDEX ix_praetor_task_delivery__owner ON praetor_task_delivery (owner) WHERE owner IS NOT NULL;

-- Infrastructure that a worker has to tear down; one worker at a time holds a message, under a token and until a time.
CREATE TABLE praetor_cleanup_message (
    id CHAR(36) NOT NULL,
    idempotency_key TEXT NOT NULL,
    work_pool_id CHAR(36) NOT NULL,
    work_queue_id CHAR(36),                     -- workers of this queue are asked first
    kind TEXT NOT NULL,
    target JSON NOT NULL,
    data JSON NOT NULL,
    status TEXT NOT NULL,                   -- 'open', 'acked' or 'dead'
    reason TEXT,                            -- why it is dead
    delivery_count integer NOT NULL,
    consumer CHAR(36),                          -- the worker that holds it
    token TEXT,                             -- what the holder has to show
    lease_expires DATETIME,
    created DATETIME NOT NULL,
    updated DATETIME NOT NULL,
    CONSTRAINT pk_praetor_cleanup_message PRIMARY KEY (id),
    CONSTRAINT uq_praetor_cleanup_message__key UNIQUE (work_pool_id, idempotency_key)
);
CREATE INDEX ix_praetor_cleanup_message__open ON praetor_cleanup_message (work_pool_id, created, id) WHERE status = 'open';
CREATE INDEX ix_praetor_cleanup_message__lease ON praetor_cleanup_message (lease_expires) WHERE lease_expires IS NOT NULL;
CREATE INDEX ix_praetor_cleanup_message__updated ON praetor_cleanup_message (updated) WHERE status <> 'open';

-- Runs that were deleted and whose log lines are still to be deleted.
CREATE TABLE praetor_deleted_run (
    id CHAR(36) NOT NULL,
    is_task BOOLEAN NOT NULL,             -- a task run, or else a flow run
    created DATETIME NOT NULL,            -- when it was deleted
    CONSTRAINT pk_praetor_deleted_run PRIMARY KEY (id)
);
CREATE INDEX ix_praetor_deleted_run__created ON praetor_deleted_run (created, id);
