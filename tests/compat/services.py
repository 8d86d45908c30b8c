"""Rows for the background services, the services of the published server run over them once, and what they left.

    services.py fill DATABASE          makes rows in an empty database of SQLite
    services.py run DATABASE EVENTS    runs the published services; the events that they make go to a file
    services.py dump DATABASE [EVENTS] prints what matters of the rows, and the events: of the file, or of the database
"""

import asyncio
import datetime
import json
import os
import sqlite3
import sys
import uuid

NOW = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def before(**delta):
    return (NOW - datetime.timedelta(**delta)).strftime("%Y-%m-%d %H:%M:%S.%f")


def iso(**delta):
    return (NOW - datetime.timedelta(**delta)).isoformat() + "Z"


def fixed(number):
    return str(uuid.UUID(int=number, version=4))


class Rows:
    def __init__(self, path):
        self.database = sqlite3.connect(path)
        self.made = 100

    def insert(self, table, **values):
        self.made += 1
        row = {"id": fixed(self.made), "created": before(), "updated": before(), **values}
        names, holes = ", ".join(f'"{name}"' for name in row), ", ".join("?" for _ in row)
        self.database.execute(f'INSERT INTO "{table}" ({names}) VALUES ({holes})', list(row.values()))
        return row["id"]

    def flow_run(self, name, kind, state=None, ago=60, details=None, **more):
        at, state = before(seconds=ago), state or kind.capitalize()
        run = self.insert(
            "flow_run", name=name, flow_id=fixed(1), state_type=kind, state_name=state, state_timestamp=at, expected_start_time=at,
            next_scheduled_start_time=at if kind == "SCHEDULED" else None, total_run_time="1970-01-01 00:00:00.000000", **more,
        )
        made = self.insert("flow_run_state", type=kind, name=state, timestamp=at, flow_run_id=run, state_details=json.dumps(details or {}))
        self.database.execute("UPDATE flow_run SET state_id = ? WHERE id = ?", (made, run))
        return run

    def task_run(self, flow_run, name, kind):
        at, state = before(seconds=60), kind.capitalize()
        run = self.insert(
            "task_run", name=name, flow_run_id=flow_run, task_key="task", dynamic_key=name, state_type=kind, state_name=state,
            state_timestamp=at, total_run_time="1970-01-01 00:00:00.000000",
        )
        made = self.insert("task_run_state", type=kind, name=state, timestamp=at, task_run_id=run)
        self.database.execute("UPDATE task_run SET state_id = ? WHERE id = ?", (made, run))
        return run


def fill(path):
    rows = Rows(path)
    rows.insert("flow", id=fixed(1), name="flow")
    pauses = [("paused-over", None, 5, False), ("paused-on", None, -900, False), ("suspended-over", "Suspended", 5, True)]
    for name, state, ago, reschedule in pauses:
        rows.flow_run(name, "PAUSED", state, details={"pause_timeout": iso(seconds=ago), "pause_reschedule": reschedule})
    rows.flow_run("paused-for-ever", "PAUSED")

    day = before(days=1)
    pool = rows.insert(
        "work_pool", name="pool", type="process", status="READY", last_transitioned_status_at=before(minutes=5),
        last_status_event_id=fixed(7), created=day, updated=day,
    )
    queue = rows.insert("work_queue", name="queue", work_pool_id=pool, status="READY", last_polled=before(seconds=90), is_paused=0, priority=1)
    rows.database.execute("UPDATE work_pool SET default_queue_id = ? WHERE id = ?", (queue, pool))
    rows.insert("work_pool", name="pool-of-nobody", type="process", status="READY", created=day, updated=day)
    deployments = {}
    for name, queue_id, polled in (("by-queue", queue, 90), ("by-itself", None, 90), ("served", None, -600)):
        deployments[name] = rows.insert(
            "deployment", name=name, flow_id=fixed(1), work_queue_id=queue_id, last_polled=before(seconds=polled), status="READY",
            created=day, updated=day,
        )
    for name, interval, ago in (("silent", 10, 40), ("silent-too", None, 100)):
        rows.insert("worker", name=name, work_pool_id=pool, last_heartbeat_time=before(seconds=ago), heartbeat_interval_seconds=interval, status="ONLINE")
    alive = rows.insert("work_pool", name="pool-alive", type="process", status="READY", created=day, updated=day)
    rows.insert("worker", name="alive", work_pool_id=alive, last_heartbeat_time=before(), heartbeat_interval_seconds=1000, status="ONLINE")

    parent = rows.flow_run("parent", "CANCELLED", start_time=before(seconds=90), end_time=before(seconds=30))
    long_ago = rows.flow_run("parent-of-long-ago", "CANCELLED", start_time=before(days=3), end_time=before(days=2))
    going_on = rows.flow_run("parent-going-on", "RUNNING", start_time=before(seconds=90))
    first, paused = rows.task_run(parent, "first", "RUNNING"), rows.task_run(parent, "paused", "PAUSED")
    rows.task_run(parent, "done", "COMPLETED")
    rows.task_run(parent, "pending", "PENDING")
    rows.task_run(long_ago, "of-long-ago", "RUNNING")
    other = rows.task_run(going_on, "going-on", "RUNNING")
    by_queue = deployments["by-queue"]
    rows.flow_run("inner", "RUNNING", parent_task_run_id=first)
    rows.flow_run("inner-deployed", "RUNNING", parent_task_run_id=first, deployment_id=by_queue, infrastructure_pid="host:1")
    rows.flow_run("inner-scheduled", "SCHEDULED", ago=-900, parent_task_run_id=paused)
    rows.flow_run("inner-cancelling", "CANCELLING", ago=10, parent_task_run_id=paused, deployment_id=by_queue)
    rows.flow_run("inner-going-on", "RUNNING", parent_task_run_id=other)
    rows.flow_run("cancelling-over", "CANCELLING", ago=301)
    rows.flow_run("cancelling", "CANCELLING", ago=30)
    rows.flow_run("late", "SCHEDULED", ago=60)
    rows.flow_run("in-time", "SCHEDULED", ago=-900)

    for name in ("plain", "prefect.flow-run.heartbeat"):
        for days in (8, 6):
            at = before(days=days)
            event = rows.insert(
                "events", occurred=at, event=name, resource_id="fixture", resource="{}", related_resource_ids="[]", related="[]",
                payload="{}", received=at, recorded=at, created=at, updated=at,
            )
            rows.insert("event_resources", occurred=at, resource_id="fixture", resource_role="", resource="{}", event_id=event, created=at, updated=at)

    old = rows.flow_run("done-old", "COMPLETED", end_time=before(days=91))
    rows.flow_run("done-old-inner", "COMPLETED", end_time=before(days=91), parent_task_run_id=rows.task_run(old, "old", "COMPLETED"))
    young = rows.flow_run("done-young", "COMPLETED", end_time=before(days=5))
    gone = fixed(99999)
    for number, run in enumerate((old, young, gone, None)):
        rows.insert("log", name="name", level=20, flow_run_id=run, message="message", timestamp=before())
        at, key = before(hours=10 - number), "shared" if run in (young, gone) else None
        rows.insert("artifact", id=fixed(5000 + number), key=key, flow_run_id=run, created=at, updated=at)
    for key, latest in (("shared", 5002), ("lost", 5999)):
        rows.insert("artifact_collection", key=key, latest_id=fixed(latest))
    rows.database.commit()


def shown(name, resource, related, follows):
    resources = sorted((one.get("prefect.resource.role"), one.get("prefect.resource.name")) for one in related)
    return [name, resource.get("prefect.resource.name"), resources, bool(follows)]


async def run(path, events):
    os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{path}"
    import prefect.server.events.clients as clients

    seen = []

    async def emit(_, event):
        seen.append(shown(event.event, event.resource, event.related, event.follows))
        return event

    clients.PrefectServerEventsClient.emit = emit
    from prefect.server.database import provide_database_interface
    from prefect.server.services import cancellation_cleanup, db_vacuum, foreman, late_runs, pause_expirations
    from prefect.types._datetime import now

    class Docket:
        """Keeps what a monitor wants done."""

        def __init__(self):
            self.wanted = []

        def add(self, function, key=None, when=None):
            async def note(*arguments, **named):
                if when is None or when <= now("UTC"):
                    self.wanted.append((function, arguments, named))

            return note

        replace = add

    class Cleanup:
        async def enqueue(self, **message):
            return None

    database = provide_database_interface()
    monitors = (
        pause_expirations.monitor_expired_pauses, cancellation_cleanup.monitor_subflow_runs, cancellation_cleanup.monitor_cancelled_flow_runs,
        cancellation_cleanup.ensure_cancelling_timeout_checks, late_runs.monitor_late_runs,
    )
    for monitor in monitors:
        docket = Docket()
        await monitor(docket=docket, db=database)
        for function, arguments, named in list(docket.wanted):
            more = {"db": database}
            if function is cancellation_cleanup.cancel_subflow_run:
                more["docket"] = docket
            if function is cancellation_cleanup.handle_cancelling_timeout:
                more.update(cleanup_queue=Cleanup(), retry=None)
            await function(*arguments, **named, **more)
    await foreman.monitor_worker_health()
    # Twice, as the first deletion leaves runs that were part of another one.
    for _ in range(2):
        for vacuum in (
            db_vacuum.vacuum_old_flow_runs, db_vacuum.vacuum_orphaned_logs, db_vacuum.vacuum_orphaned_artifacts,
            db_vacuum.vacuum_stale_artifact_collections, db_vacuum.vacuum_events_with_retention_overrides, db_vacuum.vacuum_old_events,
        ):
            await vacuum(db=database)
    with open(events, "w") as file:
        json.dump(seen, file)


LOOKS = {
    "flow runs": """SELECT name, state_type, state_name, end_time IS NOT NULL, run_count, s.message,
        (SELECT count(*) FROM flow_run_state a WHERE a.flow_run_id = r.id), auto_scheduled
        FROM flow_run r JOIN flow_run_state s ON s.id = r.state_id""".replace("name, state_type", "r.name, r.state_type"),
    # How often a task run changed depends on whether it or the run that it contains was looked at first.
    "task runs": """SELECT r.name, r.state_type, r.state_name, r.end_time IS NOT NULL, s.message
        FROM task_run r JOIN task_run_state s ON s.id = r.state_id""",
    "workers": "SELECT name, status FROM worker",
    "pools": "SELECT name, status, last_status_event_id IS NOT NULL, last_transitioned_status_at > created FROM work_pool",
    "queues": "SELECT name, status FROM work_queue",
    "deployments": "SELECT name, status, updated = created FROM deployment",
    "old events": "SELECT event, occurred < datetime('now', '-7 days') FROM events WHERE resource_id = 'fixture'",
    "their resources": "SELECT count(*) FROM event_resources WHERE resource_id = 'fixture'",
    "logs": "SELECT coalesce((SELECT name FROM flow_run r WHERE r.id = flow_run_id), 'none') FROM log",
    "artifacts": "SELECT id FROM artifact",
    "collections": "SELECT key, latest_id FROM artifact_collection",
}


def dump(path, events=None):
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for title, look in LOOKS.items():
        for row in sorted(map(str, database.execute(look))):
            print(f"{title}: {row}")
    if events:
        with open(events) as file:
            made = json.load(file)
    else:
        rows = database.execute("SELECT event, resource, related, follows FROM events WHERE resource_id <> 'fixture'")
        made = [shown(name, json.loads(resource), json.loads(related), follows) for name, resource, related, follows in rows]
    for event in sorted(map(json.dumps, made)):
        print(f"events: {event}")


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "run":
        asyncio.run(run(*arguments))
    else:
        {"fill": fill, "dump": dump}[action](*arguments)
