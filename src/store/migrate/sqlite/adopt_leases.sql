-- As the Postgres file of this name, which gives the reasons.

INSERT INTO praetor_lease (id, limit_ids, slots, holder, created, expires)
SELECT
    coalesce(
        CASE
            WHEN length(json_extract(s.state_details, '$.deployment_concurrency_lease_id')) = 36
            THEN lower(json_extract(s.state_details, '$.deployment_concurrency_lease_id'))
        END,
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2) || '-'
        || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6)))
    ),
    json_array(l.id), 1, json_object('type', 'flow_run', 'id', r.id),
    strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300 seconds')
FROM flow_run r
JOIN deployment d ON d.id = r.deployment_id
JOIN concurrency_limit_v2 l ON l.id = d.concurrency_limit_id AND l.active
LEFT JOIN flow_run_state s ON s.id = r.state_id
WHERE r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
ON CONFLICT (id) DO NOTHING;

INSERT INTO praetor_lease (id, limit_ids, slots, holder, created, expires)
SELECT
    lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2) || '-'
        || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6))),
    json_group_array(l.id), 1, json_object('type', 'task_run', 'id', r.id),
    strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300 seconds')
FROM task_run r
JOIN concurrency_limit_v2 l ON l.active AND l.name LIKE 'tag:%'
    AND EXISTS (SELECT 1 FROM json_each(r.tags) AS tag WHERE tag.value = substr(l.name, 5))
WHERE r.state_type IN ('RUNNING', 'CANCELLING')
GROUP BY r.id;

INSERT INTO praetor_lease (id, limit_ids, slots, holder, created, expires)
SELECT
    lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2) || '-'
        || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6))),
    json_array(l.id), l.active_slots, NULL,
    strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300 seconds')
FROM concurrency_limit_v2 l
WHERE l.active AND l.active_slots > 0 AND l.slot_decay_per_second = 0 AND l.name NOT LIKE 'tag:%'
    AND NOT EXISTS (SELECT 1 FROM deployment d WHERE d.concurrency_limit_id = l.id);
