-- Up to $2 flow runs after $1, in order of id, that rows of log name, and whether they are gone. Each step is one look into the
-- index of log on flow_run_id.
WITH RECURSIVE owner (id) AS (
    SELECT (SELECT flow_run_id FROM log WHERE flow_run_id > $1 ORDER BY flow_run_id LIMIT 1)
    UNION ALL
    SELECT (SELECT flow_run_id FROM log WHERE flow_run_id > owner.id ORDER BY flow_run_id LIMIT 1)
    FROM owner
    WHERE owner.id IS NOT NULL
), found AS (SELECT id FROM owner LIMIT $2)
SELECT found.id, NOT EXISTS (SELECT 1 FROM flow_run WHERE flow_run.id = found.id) AS is_gone
FROM found
WHERE found.id IS NOT NULL
ORDER BY found.id
