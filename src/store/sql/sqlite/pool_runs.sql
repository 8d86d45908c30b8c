-- Runs that a worker of a pool may start: by priority of their queue, then by time, as far as pool and queues have slots.
-- ?1 pool, ?2 queues as a JSON array, empty for all, ?3 not after or NULL, ?4 not before or NULL, ?5 at most
WITH held AS (
    SELECT run.work_queue_id, count(*) AS slots
    FROM flow_run AS run
    JOIN work_queue AS queue ON queue.id = run.work_queue_id
    WHERE queue.work_pool_id = ?1 AND run.state_type IN ('PENDING', 'RUNNING')
    GROUP BY run.work_queue_id
), due AS (
    SELECT run.id, queue.id AS work_queue_id, queue.priority, run.next_scheduled_start_time,
           queue.concurrency_limit - coalesce(held.slots, 0) AS free,
           row_number() OVER (PARTITION BY queue.id ORDER BY run.next_scheduled_start_time, run.id) AS place
    FROM flow_run AS run
    JOIN work_queue AS queue ON queue.id = run.work_queue_id
    LEFT JOIN held ON held.work_queue_id = queue.id
    WHERE queue.work_pool_id = ?1
      AND NOT queue.is_paused
      AND (json_array_length(?2) = 0 OR queue.id IN (SELECT value FROM json_each(?2)))
      AND run.state_type = 'SCHEDULED'
      AND json_extract(run.empirical_policy, '$.retry_type') IS NOT 'in_process'
      AND (?3 IS NULL OR run.next_scheduled_start_time <= ?3)
      AND (?4 IS NULL OR run.next_scheduled_start_time >= ?4)
), allowed AS (
    SELECT id, work_queue_id, priority, next_scheduled_start_time,
           row_number() OVER (ORDER BY priority, next_scheduled_start_time, id) AS place
    FROM due
    WHERE free IS NULL OR place <= free
)
SELECT allowed.id, allowed.work_queue_id
FROM allowed
JOIN work_pool AS pool ON pool.id = ?1
WHERE NOT pool.is_paused
  AND (pool.concurrency_limit IS NULL OR allowed.place <= pool.concurrency_limit - coalesce((SELECT sum(slots) FROM held), 0))
ORDER BY allowed.place
LIMIT ?5
