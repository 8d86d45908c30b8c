-- Limits that decay are rate limits: their slots free themselves, and nobody leases them.
UPDATE concurrency_limit_v2 AS target
SET active_slots = leased.slots, updated = now()
FROM (
    SELECT l.id, coalesce(sum(held.slots), 0)::integer AS slots
    FROM concurrency_limit_v2 l
    LEFT JOIN praetor.lease held ON held.limit_ids ? l.id::text
    GROUP BY l.id
) AS leased
WHERE leased.id = target.id AND target.slot_decay_per_second = 0 AND target.active_slots <> leased.slots;
