-- As the Postgres file of this name. ?: rows at most.
SELECT target.id
FROM concurrency_limit_v2 target
LEFT JOIN (
    SELECT item.value AS id, sum(held.slots) AS slots
    FROM praetor_lease held, json_each(held.limit_ids) AS item
    GROUP BY item.value
) AS leased ON leased.id = target.id
WHERE target.slot_decay_per_second = 0 AND target.active_slots <> coalesce(leased.slots, 0)
ORDER BY target.id
LIMIT ?
