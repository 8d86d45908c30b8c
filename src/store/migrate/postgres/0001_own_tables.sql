-- Step 1: what Praetor keeps beside Prefect's tables. Python never looks here.

-- Events and actions made by a transaction and not yet known to be published. A row is deleted after its publication.
CREATE TABLE praetor.outbox (
    id uuid NOT NULL,                       -- id of the message; the bus drops a second one with it
    stream text DEFAULT 'events' NOT NULL,  -- 'events' or 'actions'
    event jsonb NOT NULL,                   -- the event, as clients see it, or the action
    created timestamptz NOT NULL,           -- when the transaction made it; the sweeper leaves young rows to their node
    attempts bigint DEFAULT 0 NOT NULL,     -- publications tried by the sweeper
    CONSTRAINT pk_outbox PRIMARY KEY (id)
);
CREATE INDEX ix_outbox__created ON praetor.outbox (created, id);

-- How far a consumer group has come. Moved in the transaction of the effect, so an entry takes effect once.
CREATE TABLE praetor.cursor (
    consumer_group text NOT NULL,
    stream text NOT NULL,
    position bigint NOT NULL,               -- position of the last entry whose effect is in the database
    updated timestamptz NOT NULL,
    CONSTRAINT pk_cursor PRIMARY KEY (consumer_group, stream)
);

-- Who may write as a leader. Its transactions read the row FOR SHARE and abort when the epoch has moved.
CREATE TABLE praetor.fence (
    name text NOT NULL,                     -- 'services'
    cluster text NOT NULL,                  -- id of the group whose election it was
    epoch bigint NOT NULL,                  -- log index of the election; within a group it only ever rises
    holder bigint,                          -- node id of the leader of this epoch
    updated timestamptz NOT NULL,
    CONSTRAINT pk_fence PRIMARY KEY (name)
);

-- A taken concurrency slot is a live row here; concurrency_limit_v2.active_slots follows in the same transaction.
CREATE TABLE praetor.lease (
    id uuid NOT NULL,                       -- the lease id that clients renew
    limit_ids jsonb NOT NULL,               -- ids of the rows of concurrency_limit_v2: ["...", "..."]
    slots integer NOT NULL,                 -- slots taken of each of them
    holder jsonb,                           -- {"type": "flow_run" | "task_run" | "deployment", "id": "..."} or NULL
    created timestamptz NOT NULL,
    expires timestamptz NOT NULL,           -- past it the repossessor may give the slots back
    CONSTRAINT pk_lease PRIMARY KEY (id)
);
CREATE INDEX ix_lease__expires ON praetor.lease (expires, id);
CREATE INDEX ix_lease__limit_ids ON praetor.lease USING gin (limit_ids);

-- Calls to the world outside that automations caused: made after the commit that wrote them here, deleted with their outcome.
CREATE TABLE praetor.action_call (
    id uuid NOT NULL,                       -- the invocation; the world knows the call by it
    block_document_id uuid NOT NULL,        -- what is called
    action jsonb NOT NULL,                  -- the triggered action
    created timestamptz NOT NULL,
    CONSTRAINT pk_action_call PRIMARY KEY (id)
);
CREATE INDEX ix_action_call__created ON praetor.action_call (created, id);

-- Entries that a consumer group gave up on, kept until someone replays or deletes them.
CREATE TABLE praetor.dead_letter (
    id uuid NOT NULL,                       -- id of the message
    stream text NOT NULL,
    consumer_group text NOT NULL,
    position bigint NOT NULL,               -- where it stood in the stream
    payload bytea NOT NULL,
    error text NOT NULL,                    -- the last failure, with its causes
    attempts bigint NOT NULL,
    created timestamptz NOT NULL,           -- when it was given up
    replay timestamptz,                     -- when someone asked for it to be tried again; NULL: nobody
    CONSTRAINT pk_dead_letter PRIMARY KEY (id, consumer_group)
);
CREATE INDEX ix_dead_letter__created ON praetor.dead_letter (created, id);
CREATE INDEX ix_dead_letter__consumer_group ON praetor.dead_letter (consumer_group, replay);

-- Background task runs to be handed to a task worker, written with the state that makes them ready. A row whose run has
-- left SCHEDULED is history and swept.
CREATE TABLE praetor.task_delivery (
    task_run_id uuid NOT NULL,
    task_key text NOT NULL,
    rank integer NOT NULL,                  -- 0: handed out before, or a retry; 1: new. Lower goes first
    queued timestamptz NOT NULL,            -- when it became ready
    owner uuid,                             -- the process that holds it for one of its task workers
    claimed_until timestamptz,              -- past it any process may take it
    acked timestamptz,                      -- a task worker has it
    CONSTRAINT pk_task_delivery PRIMARY KEY (task_run_id)
);
CREATE INDEX ix_task_delivery__waiting ON praetor.task_delivery (task_key, rank, queued, task_run_id) WHERE acked IS NULL;
CREATE INDEX ix_task_delivery__owner ON praetor.task_delivery (owner) WHERE owner IS NOT NULL;

-- Infrastructure that a worker has to tear down; one worker at a time holds a message, under a token and until a time.
CREATE TABLE praetor.cleanup_message (
    id uuid NOT NULL,
    idempotency_key text NOT NULL,
    work_pool_id uuid NOT NULL,
    work_queue_id uuid,                     -- workers of this queue are asked first
    kind text NOT NULL,
    target jsonb NOT NULL,
    data jsonb NOT NULL,
    status text NOT NULL,                   -- 'open', 'acked' or 'dead'
    reason text,                            -- why it is dead
    delivery_count integer NOT NULL,
    consumer uuid,                          -- the worker that holds it
    token text,                             -- what the holder has to show
    lease_expires timestamptz,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    CONSTRAINT pk_cleanup_message PRIMARY KEY (id),
    CONSTRAINT uq_cleanup_message__key UNIQUE (work_pool_id, idempotency_key)
);
CREATE INDEX ix_cleanup_message__open ON praetor.cleanup_message (work_pool_id, created, id) WHERE status = 'open';
CREATE INDEX ix_cleanup_message__lease ON praetor.cleanup_message (lease_expires) WHERE lease_expires IS NOT NULL;
CREATE INDEX ix_cleanup_message__updated ON praetor.cleanup_message (updated) WHERE status <> 'open';

-- Runs that were deleted and whose log lines are still to be deleted.
CREATE TABLE praetor.deleted_run (
    id uuid NOT NULL,
    is_task boolean NOT NULL,             -- a task run, or else a flow run
    created timestamptz NOT NULL,         -- when it was deleted
    CONSTRAINT pk_deleted_run PRIMARY KEY (id)
);
CREATE INDEX ix_deleted_run__created ON praetor.deleted_run (created, id);
