-- Limits that are no rate limits and whose active_slots is not the sum of the slots that leases hold of them. $1: rows at most.
SELECT target.id
FROM concurrency_limit_v2 target
LEFT JOIN (
    SELECT item.id, sum(held.slots) AS slots
    FROM praetor.lease held, jsonb_array_elements_text(held.limit_ids) AS item (id)
    GROUP BY item.id
) AS leased ON leased.id = target.id::text
WHERE target.slot_decay_per_second = 0 AND target.active_slots <> coalesce(leased.slots, 0)
ORDER BY target.id
LIMIT $1
