"""Runs the published command line against two servers and compares what it says.

    python tests/compat/cli.py --api http://127.0.0.1:4200/api --reference http://127.0.0.1:4300/api

Every command group with its commands, on objects that are made the same way on both. Exit codes must be those of the
table, outputs equal once ids, times and names of runs are replaced. Prints each difference, and at last one JSON object
with the number of commands and the differences; the exit code is 1 where there are any.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

# A command may wait for an import on a busy machine.
COMMAND_WITHIN_SECONDS = 120

AUTOMATION = {
    "name": "cli-automation",
    "trigger": {
        "type": "event",
        "expect": ["cli.happened"],
        "match": {"prefect.resource.id": "cli.*"},
        "posture": "Reactive",
        "threshold": 1,
        "within": 0,
    },
    "actions": [{"type": "do-nothing"}],
}

# Exit code and command; names in braces stand for the server's ids.
COMMANDS: list[tuple[int, str]] = [
    (0, "version"),
    (0, "server status"),
    (0, "server status --output json"),
    (0, "api GET /health"),
    (0, "api POST /flows/filter --data {{}}"),
    (0, "api GET /flows/{flow}"),
    (4, "api GET /flows/{absent}"),
    (0, "flow ls"),
    (0, "deployment ls"),
    (0, "deployment ls --flow-name cli-flow"),
    (0, "deployment inspect cli-flow/cli-deployment"),
    (0, "deployment inspect cli-flow/cli-deployment --output json"),
    (1, "deployment inspect cli-flow/absent"),
    (0, "deployment schedule ls cli-flow/cli-deployment"),
    (0, "deployment schedule create cli-flow/cli-deployment --interval 3600 --anchor-date 2026-01-01T00:00:00+00:00"),
    (0, "deployment schedule create cli-flow/cli-deployment --cron 5_4_*_*_* --timezone Europe/Berlin"),
    (0, "deployment schedule create cli-flow/cli-deployment --rrule FREQ=DAILY;COUNT=3"),
    (0, "deployment schedule ls cli-flow/cli-deployment"),
    (0, "deployment schedule pause --all"),
    (0, "deployment schedule ls cli-flow/cli-deployment"),
    (0, "deployment schedule resume --all"),
    (0, "deployment schedule pause cli-flow/cli-deployment {schedule}"),
    (0, "deployment schedule resume cli-flow/cli-deployment {schedule}"),
    (0, "deployment schedule delete cli-flow/cli-deployment {schedule} -y"),
    (0, "deployment schedule clear cli-flow/cli-deployment -y"),
    (0, "deployment run cli-flow/cli-deployment --flow-run-name cli-run-of-deployment"),
    (0, "deployment run cli-flow/cli-deployment --param word=other --tag extra --flow-run-name cli-run-with-parameters"),
    (1, "deployment run cli-flow/absent"),
    (0, "flow-run ls"),
    (0, "flow-run ls --flow-name cli-flow --state COMPLETED"),
    (0, "flow-run inspect {flow_run}"),
    (0, "flow-run inspect {flow_run} --output json"),
    (1, "flow-run inspect {absent}"),
    (0, "flow-run logs {flow_run}"),
    (0, "flow-run logs {flow_run} --head -n 1"),
    (0, "flow-run watch {flow_run}"),
    (0, "flow-run cancel {to_cancel}"),
    (1, "flow-run cancel {flow_run}"),
    (0, "flow-run delete {to_cancel}"),
    (1, "flow-run delete {absent}"),
    (0, "task-run ls"),
    (0, "task-run ls --task-run-name cli-task"),
    (0, "task-run inspect {task_run}"),
    (0, "task-run logs {task_run}"),
    (1, "task-run inspect {absent}"),
    (0, "work-pool create cli-pool --type process"),
    (1, "work-pool create cli-pool --type process"),
    (0, "work-pool ls"),
    (0, "work-pool inspect cli-pool"),
    (0, "work-pool set-concurrency-limit cli-pool 5"),
    (0, "work-pool slots cli-pool"),
    (0, "work-pool clear-concurrency-limit cli-pool"),
    (0, "work-pool pause cli-pool"),
    (0, "work-pool resume cli-pool"),
    (0, "work-pool preview cli-pool"),
    (0, "work-pool update cli-pool --description told"),
    (0, "work-pool get-default-base-job-template --type process"),
    (0, "work-pool inspect cli-pool --output json"),
    (1, "work-pool inspect absent"),
    (0, "work-queue create cli-queue --pool cli-pool --limit 3 --priority 4"),
    (0, "work-queue ls --pool cli-pool"),
    (0, "work-queue inspect cli-queue --pool cli-pool"),
    (0, "work-queue set-concurrency-limit cli-queue 2 --pool cli-pool"),
    (0, "work-queue slots cli-queue --pool cli-pool"),
    (0, "work-queue clear-concurrency-limit cli-queue --pool cli-pool"),
    (0, "work-queue pause cli-queue --pool cli-pool"),
    (0, "work-queue resume cli-queue --pool cli-pool"),
    (0, "work-queue preview cli-queue --pool cli-pool"),
    (0, "work-queue read-runs cli-queue --pool cli-pool"),
    (0, "work-queue delete cli-queue --pool cli-pool"),
    (1, "work-queue inspect cli-queue --pool cli-pool"),
    (0, "work-pool delete cli-pool"),
    (0, "block register --module prefect.blocks.system"),
    (0, "block type ls"),
    (0, "block type inspect secret"),
    (0, "block ls"),
    (0, "block inspect secret/cli-secret"),
    (0, "block create secret"),
    (0, "block delete secret/cli-secret"),
    (1, "block inspect secret/cli-secret"),
    (1, "block type delete secret"),
    (0, "variable set cli_variable 1"),
    (1, "variable set cli_variable 2"),
    (0, "variable set cli_variable 2 --overwrite --tag one"),
    (0, "variable get cli_variable"),
    (0, "variable inspect cli_variable"),
    (0, "variable ls"),
    (0, "variable unset cli_variable"),
    (1, "variable get cli_variable"),
    (0, "concurrency-limit create cli-tag 3"),
    (0, "concurrency-limit ls"),
    (0, "concurrency-limit inspect cli-tag"),
    (0, "concurrency-limit reset cli-tag"),
    (0, "concurrency-limit delete cli-tag"),
    (1, "concurrency-limit inspect cli-tag"),
    (0, "global-concurrency-limit create cli-limit --limit 3 --slot-decay-per-second 0.5"),
    (1, "global-concurrency-limit create cli-limit --limit 3"),
    (0, "global-concurrency-limit ls"),
    (0, "global-concurrency-limit inspect cli-limit"),
    (0, "global-concurrency-limit disable cli-limit"),
    (1, "global-concurrency-limit disable cli-limit"),
    (0, "global-concurrency-limit enable cli-limit"),
    (0, "global-concurrency-limit update cli-limit --limit 9"),
    (0, "global-concurrency-limit delete cli-limit"),
    (1, "global-concurrency-limit inspect cli-limit"),
    (0, "automation create --from-file {automation_file}"),
    (0, "automation ls"),
    (0, "automation inspect cli-automation"),
    (0, "automation inspect cli-automation --json"),
    (0, "automation pause cli-automation"),
    (0, "automation resume cli-automation"),
    (0, "automation delete cli-automation"),
    (1, "automation inspect cli-automation"),
    (0, "artifact ls"),
    (0, "artifact ls --all"),
    (0, "artifact inspect cli-artifact"),
    (0, "artifact delete cli-artifact"),
    (1, "artifact inspect cli-artifact"),
    (0, "events emit cli.happened --resource-id cli.1"),
    (0, "deployment delete cli-flow/cli-deployment"),
    (1, "deployment delete cli-flow/cli-deployment"),
]

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
REPLACED = [
    (UUID, "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([.,]\d+)?(Z|[+-]\d\d:?\d\d)?( (UTC|AM|PM))?"), "<time>"),
    (re.compile(r"datetime\.datetime\([^)]*\)+|DateTime\([^)]*\)+"), "<time>"),
    (re.compile(r"\d\d:\d\d:\d\d\.\d+"), "<clock>"),
    (re.compile(r"\b(\d+|an?) (second|minute|hour)s? (ago|from now)|\bin (\d+|an?) (second|minute|hour)s?|\b(just )?now\b"), "<ago>"),
    (re.compile(r"http://[\w.]+:\d+"), "<server>"),
    # How long something has taken, in seconds.
    (re.compile(r"(estimated_run_time|estimated_start_time_delta|total_run_time)\D+[\d.e-]+"), r"\1 <seconds>"),
]


class Side:
    """One server, and what was made on it."""

    def __init__(self, api: str, home: Path):
        self.api, self.home = api, home
        self.client = httpx.Client(base_url=api, timeout=60)
        automation = home / "automation.json"
        automation.write_text(json.dumps(AUTOMATION))
        self.names = {"absent": "00000000-0000-4000-8000-000000000000", "automation_file": str(automation)}

    def post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        # A busy SQLite, as the client itself sees it.
        for _ in range(20):
            if answer.status_code != 503:
                break
            time.sleep(0.5)
            answer = self.client.post(path, json=body)
        assert answer.status_code < 300, f"{self.api} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def make(self) -> None:
        names = self.names
        names["flow"] = self.post("/flows/", {"name": "cli-flow", "tags": ["cli"]})["id"]
        for key, name, state in [("flow_run", "cli-run", "COMPLETED"), ("to_cancel", "cli-cancelled", "SCHEDULED")]:
            body = {"flow_id": names["flow"], "name": name, "state": {"type": state}, "parameters": {"word": "praetor"}}
            names[key] = self.post("/flow_runs/", body)["id"]
        task_run = {
            "flow_run_id": names["flow_run"],
            "task_key": "cli-task-key",
            "dynamic_key": "0",
            "name": "cli-task",
            "state": {"type": "COMPLETED"},
        }
        names["task_run"] = self.post("/task_runs/", task_run)["id"]
        logs = [
            {
                "name": "cli",
                "level": 20 + 10 * number,
                "message": f"line {number}",
                "timestamp": f"2026-01-01T00:00:0{number}Z",
                "flow_run_id": names["flow_run"],
                "task_run_id": names["task_run"],
            }
            for number in range(3)
        ]
        self.post("/logs/", logs)
        deployment = {
            "name": "cli-deployment",
            "flow_id": names["flow"],
            "parameters": {"word": "praetor"},
            "entrypoint": "flow.py:flow",
            "tags": ["cli"],
            "schedules": [{"schedule": {"interval": 3600, "anchor_date": "2026-01-01T00:00:00Z"}, "active": False}],
        }
        made = self.post("/deployments/", deployment)
        names["deployment"], names["schedule"] = made["id"], made["schedules"][0]["id"]
        self.post("/artifacts/", {"key": "cli-artifact", "type": "markdown", "data": "# text", "description": "told"})
        secret = self.client.get("/block_types/slug/secret").json()
        schema = self.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [secret["id"]]}}})[0]
        block = {"name": "cli-secret", "block_type_id": secret["id"], "block_schema_id": schema["id"], "data": {"value": "hidden"}}
        # It is there already where the script runs again on the same server.
        assert self.client.post("/block_documents/", json=block).status_code in (201, 409)

    def run(self, command: str) -> tuple[int, str]:
        # An underscore stands for a space inside of an argument of cron.
        words = [word.replace("_", " ") if "*" in word else word for word in command.format(**self.names).split(" ")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PRAETOR_"))}
        environment |= {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "TZ": "UTC",
        }
        prefect = Path(sys.executable).with_name("prefect")
        ended = subprocess.run(
            [prefect, *words], env=environment, capture_output=True, text=True, timeout=COMMAND_WITHIN_SECONDS, stdin=subprocess.DEVNULL
        )
        return ended.returncode, shown(ended.stdout + ended.stderr)


def shown(text: str) -> str:
    """An output without what differs from server to server."""
    for pattern, stands in REPLACED:
        text = pattern.sub(stands, text)
    # Columns of tables are as wide as their widest entry.
    lines = [re.sub(r"[─━═]+", "─", re.sub(r" +", " ", line)).strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--only", help="commands that begin so")
    parser.add_argument("--show", action="store_true", help="print every output of the reference")
    options = parser.parse_args()
    differences = []
    commands = [one for one in COMMANDS if one[1].startswith(options.only or "")]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        sides = []
        for name, api in [("ours", options.api), ("reference", options.reference)]:
            home = Path(scratch) / name
            home.mkdir()
            sides.append(Side(api, home))
        list(pool.map(Side.make, sides))
        for wanted, command in commands:
            (code, output), (reference_code, reference_output) = pool.map(lambda side: side.run(command), sides)
            print(f"{reference_code} prefect {command}", flush=True)
            if options.show:
                print(reference_output)
            before = len(differences)
            if reference_code != wanted:
                differences.append(f"{command}: the reference ends with {reference_code}, not {wanted}: {reference_output[-300:]}")
            if code != reference_code:
                differences.append(f"{command}: exit code {code}, the reference's {reference_code}: {output[-300:]}")
            elif output != reference_output:
                lines = difflib.unified_diff(reference_output.splitlines(), output.splitlines(), "reference", "ours", lineterm="", n=0)
                differences.append(f"{command}:\n" + "\n".join(lines))
            for difference in differences[before:]:
                print(difference, flush=True)
    print(json.dumps({"commands": len(commands), "differences": differences}))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
