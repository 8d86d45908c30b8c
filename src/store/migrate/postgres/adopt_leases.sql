-- Slots that a Python server took have leases in its memory, which went with it. Give them rows of ours, so that every slot ends:
-- renewed by its client, released by its run, or expired. 300 s is the reference's first lease of a deployment slot.

-- Deployment limits: one slot per run under way, under the id that its client will renew.
INSERT INTO praetor.lease (id, limit_ids, slots, holder, created, expires)
SELECT
    CASE
        WHEN s.state_details ->> 'deployment_concurrency_lease_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        THEN (s.state_details ->> 'deployment_concurrency_lease_id')::uuid
        ELSE gen_random_uuid()
    END,
    jsonb_build_array(l.id), 1, jsonb_build_object('type', 'flow_run', 'id', r.id), now(), now() + interval '300 seconds'
FROM flow_run r
JOIN deployment d ON d.id = r.deployment_id
JOIN concurrency_limit_v2 l ON l.id = d.concurrency_limit_id AND l.active
LEFT JOIN flow_run_state s ON s.id = r.state_id
WHERE r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
ON CONFLICT (id) DO NOTHING;

-- Task tag limits: one lease per run under way, over all its limited tags.
INSERT INTO praetor.lease (id, limit_ids, slots, holder, created, expires)
SELECT gen_random_uuid(), jsonb_agg(l.id ORDER BY l.id), 1, jsonb_build_object('type', 'task_run', 'id', r.id), now(),
    now() + interval '300 seconds'
FROM task_run r
JOIN concurrency_limit_v2 l ON l.active AND l.name LIKE 'tag:%' AND r.tags ? substr(l.name, 5)
WHERE r.state_type IN ('RUNNING', 'CANCELLING')
GROUP BY r.id;

-- Other limits: the database does not know who holds the slots. They keep what is taken for the length of one lease.
INSERT INTO praetor.lease (id, limit_ids, slots, holder, created, expires)
SELECT gen_random_uuid(), jsonb_build_array(l.id), l.active_slots, NULL, now(), now() + interval '300 seconds'
FROM concurrency_limit_v2 l
WHERE l.active AND l.active_slots > 0 AND l.slot_decay_per_second = 0 AND l.name NOT LIKE 'tag:%'
    AND NOT EXISTS (SELECT 1 FROM deployment d WHERE d.concurrency_limit_id = l.id);
