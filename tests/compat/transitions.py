#!/usr/bin/env python3
"""Compares what two servers make of every transition of a flow run.

    transitions.py [--shared] REFERENCE_API CANDIDATE_API     (such as http://127.0.0.1:4200/api)

With --shared both servers have one database: all objects are made and read through the reference, and only states are
set through the candidate.

For a run without a deployment, with one, and with one whose concurrency limit is full, from every state (and from
none) to every state, and for the cases in which rules look at more than the types, both servers get the same requests.
Status code, status, details, the state and the columns of the run must be equal, apart from ids and moments.
Needs servers without background services. Exit status 1 where something differs.
"""

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timedelta, timezone

TYPES = ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"]
AGENT = "prefect/3.8.4 (API 0.8.4)"
RESULT = {"type": "reference", "storage_key": "a", "storage_block_id": None}


class Server:
    def __init__(self, url, others=None):
        self.url = url.rstrip("/")
        self.others = others

    def call(self, method, path, body=None, agent=AGENT, api="0.8.4"):
        if self.others and not path.endswith("/set_state"):
            return self.others.call(method, path, body, agent, api)
        headers = {"content-type": "application/json", "user-agent": agent}
        if api:
            headers["x-prefect-api-version"] = api
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
                return response.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, text.decode(errors="replace")

    def must(self, method, path, body=None, **more):
        code, answer = self.call(method, path, body, **more)
        if code >= 400:
            raise SystemExit(f"{self.url}: {method} {path}: {code} {answer}")
        return answer


def state(kind, name=None, **more):
    details = {key: more.pop(key) for key in list(more) if key not in ("message", "data")}
    body = {"type": kind, "state_details": details, **more}
    if name:
        body["name"] = name
    return body


def moment(**delta):
    return (datetime.now(timezone.utc) + timedelta(**delta)).isoformat()


def plain(value, known):
    """Ids and moments by what they are, not by their value."""
    if isinstance(value, dict):
        # The two servers are asked one after the other.
        return {key: round(inner, -2) if key == "delay_seconds" else plain(inner, known) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, known) for inner in value]
    if isinstance(value, str):
        for name, this in known.items():
            value = value.replace(this, f"<{name}>")
        try:
            uuid.UUID(value)
            return "<id>"
        except ValueError:
            pass
        if len(value) > 18 and value[4:5] == "-" and value[10:11] == "T":
            return "<moment>"
    return value


COLUMNS = [
    "state_type", "state_name", "run_count", "start_time", "end_time", "expected_start_time",
    "next_scheduled_start_time", "empirical_policy",
]  # fmt: skip


def columns(server, run):
    read = server.must("GET", f"/flow_runs/{run}")
    policy = read["empirical_policy"]
    # A generated pause key is random.
    keys = [key if len(key) < 30 else "<generated>" for key in policy.get("pause_keys") or []]
    policy["pause_keys"] = sorted(keys)
    return {key: read[key] for key in COLUMNS} | {"takes_time": read["total_run_time"] > 0}


def run_case(server, flow, deployment, case):
    run = server.must("POST", "/flow_runs/", {"flow_id": flow, **case.get("run", {})} | ({"deployment_id": deployment} if deployment else {}))
    run = run["id"]
    if case.get("pid"):
        server.must("PATCH", f"/flow_runs/{run}", {"infrastructure_pid": "1"})
    for before in case["before"]:
        server.must("POST", f"/flow_runs/{run}/set_state", {"state": before, "force": True})
    answers = []
    for proposed in case["propose"]:
        more = case.get("caller", {})
        code, answer = server.call("POST", f"/flow_runs/{run}/set_state", {"state": proposed, "force": case.get("force", False)}, **more)
        answers.append([code, answer])
    history = server.must("GET", f"/flow_run_states/?flow_run_id={run}")
    return plain(
        {
            "answers": answers,
            "run": columns(server, run),
            "history": [[one["type"], one["name"], one["data"] is not None] for one in history],
        },
        {"run": run, "flow": flow, "deployment": deployment or "\0"},
    )


def cases():
    matrix = []
    for force in (False, True):
        for kind in [None, *TYPES]:
            for to in TYPES:
                before = [] if kind is None else [state(kind)]
                matrix.append({"name": f"{kind} -> {to}{' (forced)' if force else ''}", "before": before, "propose": [state(to)], "force": force})
    yield from matrix
    one = str(uuid.uuid4())
    special = {
        "same transition": ([state("PENDING", transition_id=one)], [state("RUNNING", transition_id=one)]),
        "pending by names": ([state("PENDING")], [state("PENDING", "Submitting"), state("PENDING", "InfrastructurePending"), state("PENDING")]),
        "scheduled ahead": ([state("SCHEDULED", scheduled_time=moment(hours=1))], [state("PENDING"), state("RUNNING")]),
        "late": ([state("SCHEDULED")], [state("SCHEDULED", "Late"), state("SCHEDULED", "Late"), state("PENDING")]),
        "late while running": ([state("RUNNING")], [state("SCHEDULED", "Late")]),
        "completed with a result": ([state("COMPLETED", data=RESULT)], [state("COMPLETED"), state("RUNNING"), state("FAILED")]),
        "completed without keeping it": ([state("COMPLETED", data={"type": "unpersisted"})], [state("COMPLETED"), state("RUNNING")]),
        "result kept over result": ([state("COMPLETED", data=RESULT)], [state("COMPLETED", data=RESULT)]),
        "pause with a key": ([state("RUNNING")], [state("PAUSED", pause_key="k"), state("RUNNING"), state("PAUSED", pause_key="k")]),
        "pause without a key": ([state("RUNNING")], [state("PAUSED"), state("RUNNING"), state("PAUSED")]),
        "suspend": ([state("RUNNING")], [state("PAUSED", "Suspended", pause_reschedule=True), state("SCHEDULED", "Resuming"), state("PENDING"), state("RUNNING")]),
        "suspended, cancelled": ([state("PAUSED", "Suspended", pause_reschedule=True)], [state("CANCELLING")]),
        "resuming, cancelled": ([state("SCHEDULED", "Resuming")], [state("CANCELLING")]),
        "paused too long": ([state("PAUSED", pause_timeout=moment(hours=-1))], [state("RUNNING")]),
        "paused, then pending": ([state("PAUSED")], [state("PENDING"), state("RUNNING")]),
        "after an end": ([state("FAILED")], [state("SCHEDULED"), state("PENDING"), state("RUNNING"), state("COMPLETED")]),
        "a name of its own": ([state("RUNNING")], [state("COMPLETED", "Cached", message="m", data={"a": [1, 1.0]})]),
        "a whole life": ([], [state("SCHEDULED"), state("PENDING"), state("RUNNING"), state("COMPLETED"), state("RUNNING"), state("FAILED")]),
    }
    for name, (before, propose) in special.items():
        for force in (False, True):
            yield {"name": name + (" (forced)" if force else ""), "before": before, "propose": propose, "force": force}
    retries = {"empirical_policy": {"retries": 1, "retry_delay": 0}}
    failing = [state("RUNNING"), state("FAILED", message="no", data=RESULT), state("RUNNING"), state("FAILED")]
    yield {"name": "retries", "run": retries, "before": [], "propose": failing}
    yield {"name": "retries of old clients", "run": retries, "before": [], "propose": failing, "caller": {"api": "0.8.2"}}
    yield {"name": "old policy", "run": {"empirical_policy": {"max_retries": 1, "retry_delay_seconds": 60}}, "before": [], "propose": failing}
    yield {"name": "with a process, cancelled", "pid": True, "before": [state("SCHEDULED")], "propose": [state("CANCELLING"), state("CANCELLED")]}
    resume = [state("RUNNING"), state("PAUSED", pause_key="k"), state("RUNNING"), state("COMPLETED")]
    yield {"name": "resume of old clients", "before": [], "propose": resume, "caller": {"api": "0.8.3"}}
    for agent in ("prefect/3.4.10 (API 0.8.4)", "prefect/3.4.11 (API 0.8.4)", "prefect/3.0.1 (API 0.8.4)", "other"):
        life = [state("PENDING"), state("PENDING", "Submitting"), state("RUNNING"), state("COMPLETED")]
        yield {"name": f"a life under {agent}", "before": [state("SCHEDULED")], "propose": life, "caller": {"agent": agent}}


def deploy(server, flow, name, limit=None, strategy=None):
    body = {"name": name, "flow_id": flow}
    if limit is not None:
        body["concurrency_limit"] = limit
        body["concurrency_options"] = {"collision_strategy": strategy}
    return server.must("POST", "/deployments/", body)["id"]


def slots(server, deployment):
    limit = server.must("GET", f"/deployments/{deployment}").get("global_concurrency_limit")
    return None if limit is None else limit["active_slots"]


def main(reference, candidate, shared):
    servers = [Server(reference)]
    servers.append(Server(candidate, servers[0] if shared else None))
    setups = []
    for server in servers:
        name = f"transitions-{time.time_ns()}"
        flow = server.must("POST", "/flows/", {"name": name})["id"]
        deployments = {
            "no deployment": None,
            "a deployment": deploy(server, flow, "plain"),
            "one slot, waiting": deploy(server, flow, "enqueue", 1, "ENQUEUE"),
            "one slot, cancelling": deploy(server, flow, "cancel", 1, "CANCEL_NEW"),
            "no slot": deploy(server, flow, "none", 1, "ENQUEUE"),
        }
        blocked = deployments["no slot"]
        limit = server.must("GET", f"/deployments/{blocked}")["global_concurrency_limit"]["id"]
        server.must("PATCH", f"/v2/concurrency_limits/{limit}", {"limit": 0})
        setups.append((flow, deployments))
    compared = differing = 0
    for kind in setups[0][1]:
        for case in cases():
            outcomes = []
            for server, (flow, deployments) in zip(servers, setups):
                deployment = deployments[kind]
                outcome = run_case(server, flow, deployment, case)
                if deployment:
                    outcome["slots"] = slots(server, deployment)
                outcomes.append(outcome)
            compared += 1
            if outcomes[0] != outcomes[1]:
                differing += 1
                print(f"--- {kind}: {case['name']}")
                for key in outcomes[0]:
                    if outcomes[0][key] != outcomes[1][key]:
                        print(f"  {key}\n    reference {json.dumps(outcomes[0][key])}\n    candidate {json.dumps(outcomes[1][key])}")
    print(f"{compared} cases compared, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--shared"]
    sys.exit(main(*arguments, shared="--shared" in sys.argv))
