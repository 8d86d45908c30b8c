-- As the Postgres file of this name, which gives the reason.
UPDATE concurrency_limit_v2 AS target
SET active_slots = leased.slots, updated = strftime('%Y-%m-%d %H:%M:%f000', 'now')
FROM (
    SELECT l.id, coalesce(sum(held.slots), 0) AS slots
    FROM concurrency_limit_v2 l
    LEFT JOIN praetor_lease held ON EXISTS (SELECT 1 FROM json_each(held.limit_ids) AS one WHERE one.value = l.id)
    GROUP BY l.id
) AS leased
WHERE leased.id = target.id AND target.slot_decay_per_second = 0 AND target.active_slots <> leased.slots;
