-- Runs that a worker of a pool may start: by priority of their queue, then by time, as far as pool and queues have slots.
-- $1 pool, $2 queues, empty for all, $3 not after or NULL, $4 not before or NULL, $5 at most
WITH held AS (
    SELECT run.work_queue_id, count(*) AS slots
    FROM flow_run AS run
    JOIN work_queue AS queue ON queue.id = run.work_queue_id
    WHERE queue.work_pool_id = $1 AND run.state_type IN ('PENDING', 'RUNNING')
    GROUP BY run.work_queue_id
)
SELECT picked.id, picked.work_queue_id
FROM work_pool AS pool
CROSS JOIN LATERAL (
    SELECT due.id, queue.id AS work_queue_id, queue.priority, due.next_scheduled_start_time
    FROM work_queue AS queue
    LEFT JOIN held ON held.work_queue_id = queue.id
    CROSS JOIN LATERAL (
        SELECT run.id, run.next_scheduled_start_time
        FROM flow_run AS run
        WHERE run.work_queue_id = queue.id
          AND run.state_type = 'SCHEDULED'
          AND run.empirical_policy ->> 'retry_type' IS DISTINCT FROM 'in_process'
          AND ($3 IS NULL OR run.next_scheduled_start_time <= $3)
          AND ($4 IS NULL OR run.next_scheduled_start_time >= $4)
        ORDER BY run.next_scheduled_start_time, run.id
        LIMIT CASE
            WHEN queue.concurrency_limit IS NULL THEN $5
            ELSE least($5, greatest(0, queue.concurrency_limit - coalesce(held.slots, 0)))
        END
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE queue.work_pool_id = pool.id
      AND NOT queue.is_paused
      AND (cardinality($2) = 0 OR queue.id = ANY ($2))
    ORDER BY queue.priority, due.next_scheduled_start_time, due.id
    LIMIT CASE
        WHEN pool.concurrency_limit IS NULL THEN $5
        ELSE least($5, greatest(0, pool.concurrency_limit - coalesce((SELECT sum(slots) FROM held), 0)))
    END
) AS picked
WHERE pool.id = $1 AND NOT pool.is_paused
ORDER BY picked.priority, picked.next_scheduled_start_time, picked.id
