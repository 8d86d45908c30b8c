"""Runs the published command line against a server and looks at what it says.

    python tests/compat/cli.py --api http://127.0.0.1:4200/api
    python tests/compat/cli.py --api http://127.0.0.1:4200/api --reference http://127.0.0.1:4300/api

Every command group with its commands, on objects that are made for it. A command must end with the exit code of the
table and show the texts of the table. With `--reference` the same is done on a server of the published Prefect, and
the outputs must be equal too, once ids, times and the names of runs are replaced; `EXPLAINED` has the exceptions.

Starting the program takes seconds, most of which are imports: so each side runs all its commands in one process, which
calls what the program calls. `--programs` starts the program for each command instead.

Prints each finding, and at last one JSON object with the number of commands and the findings; the exit code is 1 where
there are any.
"""

import argparse
import difflib
import json
import os
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

# A command may wait for an import on a busy machine.
COMMAND_WITHIN_SECONDS = 120


class Command(NamedTuple):
    """A command, how it ends, and what it shows; a text that begins with `!` must not be shown."""

    code: int
    line: str
    shows: tuple[str, ...]


def command(code: int, line: str, *shows: str) -> Command:
    return Command(code, line, shows)


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

FLOW = "from prefect import flow\n\n\n@flow\ndef cli_deployed(word: str = 'nothing'):\n    return word\n"

# Names in braces stand for the server's ids and for files of this script.
COMMANDS = [
    command(0, "version", "0.8.4"),
    command(0, "server status", "{api}"),
    command(0, "server status --output json", '"status"', "{api}"),
    command(0, "server status --wait --timeout 10", "{api}"),
    command(0, "api GET /health", "true"),
    command(0, "api GET /health --verbose", "200", "application/json"),
    command(0, "api POST /flows/filter", "cli-flow"),
    command(0, "api POST /flows/filter --data '{{\"limit\": 1}}'", "cli-flow"),
    command(0, "api GET /flows/{flow}", "cli-flow", "{flow}"),
    command(0, "api PATCH /flows/{flow} --data '{{\"tags\": [\"cli\", \"patched\"]}}'"),
    command(0, "api GET /flows/{flow}", "patched"),
    command(4, "api GET /flows/{absent}", "404"),
    command(4, "api POST /flows/ --data '{{\"nme\": 1}}'", "422"),
    command(0, "flow ls", "cli-flow", "{flow}"),
    command(0, "flow ls --limit 1 --output json", '"name": "cli-flow"'),
    command(0, "deployment ls", "cli-flow/cli-deployment"),
    command(0, "deployment ls --flow-name cli-flow", "cli-deployment"),
    command(0, "deployment ls --flow-name cli-absent", "!cli-deployment"),
    command(0, "deployment ls --output json", '"name": "cli-deployment"'),
    command(0, "deployment inspect cli-flow/cli-deployment", "cli-deployment", "flow.py:flow"),
    command(0, "deployment inspect cli-flow/cli-deployment --output json", '"entrypoint": "flow.py:flow"'),
    command(1, "deployment inspect cli-flow/absent", "cli-flow/absent"),
    command(0, "deployment schedule ls cli-flow/cli-deployment", "{schedule}"),
    command(0, "deployment schedule create cli-flow/cli-deployment --interval 1800 --anchor-date 2026-01-01T00:00:00+00:00"),
    command(0, "deployment schedule create cli-flow/cli-deployment --cron '5 4 * * *' --timezone Europe/Berlin"),
    command(0, "deployment schedule create cli-flow/cli-deployment --rrule 'FREQ=DAILY;COUNT=3' --no-active"),
    command(0, "deployment schedule ls cli-flow/cli-deployment", "0:30:00", "5 4 * * *", "FREQ=DAILY"),
    command(0, "deployment schedule ls cli-flow/cli-deployment --output json", "cron: 5 4 * * *", "FREQ=DAILY"),
    command(1, "deployment schedule create cli-flow/cli-deployment --cron 'every day'"),
    command(1, "deployment schedule create cli-flow/cli-deployment --cron '5 4 * * *' --interval 60"),
    command(0, "deployment schedule pause --all", "2"),
    command(0, "deployment schedule ls cli-flow/cli-deployment --output json", '"active": false', '!"active": true'),
    command(0, "deployment schedule resume --all", "4"),
    command(0, "deployment schedule ls cli-flow/cli-deployment --output json", '"active": true', '!"active": false'),
    command(0, "deployment schedule pause cli-flow/cli-deployment {schedule}"),
    command(0, "deployment schedule ls cli-flow/cli-deployment --output json", '"active": false', '"active": true'),
    command(0, "deployment schedule resume cli-flow/cli-deployment {schedule}"),
    command(1, "deployment schedule pause cli-flow/cli-deployment {absent}"),
    command(0, "deployment schedule delete cli-flow/cli-deployment {schedule} -y"),
    command(1, "deployment schedule delete cli-flow/cli-deployment {schedule} -y"),
    command(0, "deployment schedule create cli-flow/cli-deployment --interval 7200 --replace -y"),
    command(0, "deployment schedule ls cli-flow/cli-deployment", "2:00:00", "!0:30:00"),
    command(0, "deployment schedule clear cli-flow/cli-deployment -y"),
    command(0, "deployment schedule ls cli-flow/cli-deployment", "!2:00:00"),
    command(0, "deployment run cli-flow/cli-deployment --flow-run-name cli-run-of-deployment", "cli-run-of-deployment"),
    command(0, "deployment run cli-flow/cli-deployment --param word=other --tag extra --flow-run-name cli-run-with-parameters", "other"),
    command(0, "deployment run --id {deployment} --flow-run-name cli-run-by-id --start-in '2 hours'", "cli-run-by-id"),
    command(1, "deployment run cli-flow/cli-deployment --param nothing=1", "nothing"),
    command(1, "deployment run cli-flow/absent", "absent"),
    command(0, "flow-run ls", "cli-run-of-deployment", "cli-run-with-parameters", "COMPLETED", "SCHEDULED"),
    command(0, "flow-run ls --flow-name cli-flow --state COMPLETED", "{flow_run}", "!cli-run-of-deployment"),
    command(0, "flow-run ls --state-type SCHEDULED --limit 10 --output json", '"name": "cli-run-by-id"', '!"name": "cli-run"'),
    command(1, "flow-run ls --state-type NOTHING"),
    command(0, "flow-run inspect {flow_run}", "cli-run", "praetor"),
    command(0, "flow-run inspect {flow_run} --output json", '"name": "cli-run"', '"word": "praetor"'),
    command(1, "flow-run inspect {absent}", "{absent}"),
    command(0, "flow-run logs {flow_run}", "line 0", "line 1", "line 2"),
    command(0, "flow-run logs {flow_run} --head -n 1", "line 0", "!line 1"),
    command(0, "flow-run logs {flow_run} --tail -n 1", "line 2", "!line 1"),
    command(0, "flow-run logs {flow_run} --reverse", "line 0", "line 2"),
    command(1, "flow-run logs {absent}", "{absent}"),
    command(0, "flow-run watch {flow_run}"),
    command(0, "flow-run cancel {to_cancel}", "{to_cancel}"),
    command(0, "flow-run inspect {to_cancel} --output json", '"type": "CANCEL'),
    command(1, "flow-run cancel {flow_run}", "{flow_run}"),
    command(1, "flow-run retry {flow_run}", "{flow_run}"),
    command(1, "flow-run retry cli-absent", "cli-absent"),
    command(0, "flow-run delete {to_cancel}", "{to_cancel}"),
    command(1, "flow-run inspect {to_cancel}", "{to_cancel}"),
    command(1, "flow-run delete {absent}", "{absent}"),
    command(0, "task-run ls", "cli-task", "{task_run}"),
    command(0, "task-run ls --task-run-name cli-task --state COMPLETED", "cli-task"),
    command(0, "task-run ls --state-type FAILED", "!cli-task"),
    command(0, "task-run ls --output json", '"name": "cli-task"'),
    command(0, "task-run inspect {task_run}", "cli-task", "cli-task-key"),
    command(0, "task-run inspect {task_run} --output json", '"task_key": "cli-task-key"'),
    command(0, "task-run logs {task_run}", "line 0", "line 2"),
    command(0, "task-run logs {task_run} --tail -n 2", "line 2", "!line 0"),
    command(1, "task-run inspect {absent}", "{absent}"),
    command(0, "work-pool create cli-pool --type process", "cli-pool"),
    command(1, "work-pool create cli-pool --type process", "cli-pool"),
    command(0, "work-pool create cli-pool --type process --overwrite", "cli-pool"),
    command(1, "work-pool create prefect-pool --type process"),
    command(1, "work-pool create cli-nothing --type nothing"),
    command(0, "work-pool ls", "cli-pool", "process"),
    command(0, "work-pool ls --verbose", "Base Job Template"),
    command(0, "work-pool ls --output json", '"name": "cli-pool"'),
    command(0, "work-pool inspect cli-pool", "cli-pool", "process"),
    command(0, "work-pool set-concurrency-limit cli-pool 5", "5"),
    command(0, "work-pool slots cli-pool", "5"),
    command(0, "work-pool slots cli-pool --output json", "5"),
    command(0, "work-pool clear-concurrency-limit cli-pool", "cli-pool"),
    command(0, "work-pool inspect cli-pool --output json", '"concurrency_limit": null'),
    command(0, "work-pool pause cli-pool", "cli-pool"),
    command(0, "work-pool inspect cli-pool --output json", '"is_paused": true'),
    command(0, "work-pool resume cli-pool", "cli-pool"),
    command(0, "work-pool preview cli-pool"),
    command(0, "work-pool preview cli-pool --hours 3 --output json"),
    command(0, "work-pool update cli-pool --description told --concurrency-limit 7", "cli-pool"),
    command(0, "work-pool inspect cli-pool --output json", '"description": "told"', '"concurrency_limit": 7', '"is_paused": false'),
    command(0, "work-pool storage inspect cli-pool", "cli-pool"),
    command(0, "work-pool get-default-base-job-template --type process", "job_configuration"),
    command(1, "work-pool inspect absent", "absent"),
    command(1, "work-pool pause absent"),
    command(0, "work-queue create cli-queue --pool cli-pool --limit 3 --priority 4", "cli-queue"),
    command(1, "work-queue create cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-queue ls --pool cli-pool", "cli-queue", "default"),
    command(0, "work-queue ls --pool cli-pool --output json", '"name": "cli-queue"'),
    command(0, "work-queue ls --verbose", "cli-queue"),
    command(0, "work-queue inspect cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-queue inspect cli-queue --pool cli-pool --output json", '"concurrency_limit": 3', '"priority": 4'),
    command(0, "work-queue set-concurrency-limit cli-queue 2 --pool cli-pool", "2"),
    command(0, "work-queue slots cli-queue --pool cli-pool", "2"),
    command(0, "work-queue clear-concurrency-limit cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-queue pause cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-queue inspect cli-queue --pool cli-pool --output json", '"is_paused": true', '"concurrency_limit": null'),
    command(0, "work-queue resume cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-queue preview cli-queue --pool cli-pool"),
    command(0, "work-queue read-runs cli-queue --pool cli-pool"),
    command(0, "--no-prompt deploy {flow_file}:cli_deployed --name cli-deployed --pool cli-pool --work-queue cli-queue --tag cli", "cli-deployed"),
    command(0, "deployment inspect cli-deployed/cli-deployed --output json", '"work_queue_name": "cli-queue"', '"work_pool_name": "cli-pool"'),
    command(0, "deployment run cli-deployed/cli-deployed --flow-run-name cli-run-in-queue", "cli-run-in-queue"),
    command(0, "work-queue read-runs cli-queue --pool cli-pool", "1"),
    command(0, "work-pool preview cli-pool", "cli-run-in-queue"),
    command(0, "work-queue preview cli-queue --pool cli-pool", "cli-run-in-queue"),
    command(0, "deployment delete cli-deployed/cli-deployed", "cli-deployed"),
    command(0, "work-queue delete cli-queue --pool cli-pool", "cli-queue"),
    command(1, "work-queue inspect cli-queue --pool cli-pool", "cli-queue"),
    command(0, "work-pool delete cli-pool", "cli-pool"),
    command(1, "work-pool delete cli-pool", "cli-pool"),
    command(0, "block register --module prefect.blocks.system", "Secret"),
    command(0, "block type ls", "secret"),
    command(0, "block type ls --output json", '"slug": "secret"'),
    command(0, "block type inspect secret", "secret"),
    command(1, "block type inspect cli-absent", "cli-absent"),
    command(0, "block ls", "cli-secret"),
    command(0, "block ls --output json", '"name": "cli-secret"', '"value": "cli-hidden-value"'),
    command(0, "block inspect secret/cli-secret", "cli-secret", "!cli-hidden-value"),
    command(0, "block inspect --id {secret}", "cli-secret", "!cli-hidden-value"),
    command(0, "block create secret"),
    command(0, "api PUT /admin/storage --data '{{\"default_result_storage_block_id\": \"{results}\"}}'", "{results}"),
    command(0, "api GET /admin/storage", "{results}"),
    command(0, "api DELETE /admin/storage"),
    command(0, "api GET /admin/storage", "!{results}"),
    command(0, "block delete local-file-system/cli-results"),
    command(0, "block delete secret/cli-secret", "cli-secret"),
    command(1, "block delete secret/cli-secret", "cli-secret"),
    command(1, "block inspect secret/cli-secret", "cli-secret"),
    command(1, "block type delete secret", "secret"),
    command(0, "variable set cli_variable 1", "cli_variable"),
    command(1, "variable set cli_variable 2", "cli_variable"),
    command(0, "variable set cli_variable '{{\"n\": 2}}' --overwrite --tag one", "cli_variable"),
    command(0, "variable get cli_variable", "2"),
    command(0, "variable inspect cli_variable", "cli_variable", "one"),
    command(0, "variable ls", "cli_variable"),
    command(0, "variable ls --limit 1 --output json", '"name": "cli_variable"'),
    command(0, "variable unset cli_variable", "cli_variable"),
    command(1, "variable get cli_variable", "cli_variable"),
    command(1, "variable unset cli_variable", "cli_variable"),
    command(0, "concurrency-limit create cli-tag 3", "cli-tag", "3"),
    command(0, "concurrency-limit ls", "cli-tag"),
    command(0, "concurrency-limit ls --output json", '"tag": "cli-tag"'),
    command(0, "concurrency-limit inspect cli-tag", "cli-tag", "3"),
    command(0, "concurrency-limit reset cli-tag", "cli-tag"),
    command(0, "concurrency-limit delete cli-tag", "cli-tag"),
    command(1, "concurrency-limit inspect cli-tag", "cli-tag"),
    command(1, "concurrency-limit delete cli-tag", "cli-tag"),
    command(0, "global-concurrency-limit create cli-limit --limit 3 --slot-decay-per-second 0.5", "cli-limit"),
    command(1, "global-concurrency-limit create cli-limit --limit 3", "cli-limit"),
    command(0, "global-concurrency-limit ls", "cli-limit"),
    command(0, "global-concurrency-limit inspect cli-limit", "cli-limit", "0.5"),
    command(0, "global-concurrency-limit disable cli-limit", "cli-limit"),
    command(1, "global-concurrency-limit disable cli-limit", "cli-limit"),
    command(0, "global-concurrency-limit enable cli-limit", "cli-limit"),
    command(0, "global-concurrency-limit update cli-limit --limit 9 --active-slots 4", "cli-limit"),
    command(0, "global-concurrency-limit inspect cli-limit --output json", '"limit": 9', '"active_slots": 4'),
    command(1, "global-concurrency-limit update cli-absent --limit 9", "cli-absent"),
    command(0, "global-concurrency-limit delete cli-limit", "cli-limit"),
    command(1, "global-concurrency-limit inspect cli-limit", "cli-limit"),
    command(0, "automation create --from-file {automation_file}", "cli-automation"),
    command(0, "automation ls", "cli-automation"),
    command(0, "automation inspect cli-automation", "cli-automation", "cli.happened"),
    command(0, "automation inspect cli-automation --json", '"name": "cli-automation"', "do-nothing"),
    command(0, "automation inspect cli-automation --yaml", "name: cli-automation"),
    command(0, "automation pause cli-automation", "cli-automation"),
    command(0, "automation inspect cli-automation --json", '"enabled": false'),
    command(0, "automation resume cli-automation", "cli-automation"),
    command(0, "automation delete cli-automation", "cli-automation"),
    command(1, "automation inspect cli-automation", "cli-automation"),
    command(1, "automation create --from-json '{{\"name\": 1}}'"),
    command(0, "artifact ls", "cli-artifact"),
    command(0, "artifact ls --all --output json", '"key": "cli-artifact"'),
    command(0, "artifact inspect cli-artifact", "cli-artifact", "told"),
    command(0, "artifact delete cli-artifact", "cli-artifact"),
    command(1, "artifact inspect cli-artifact", "cli-artifact"),
    command(1, "artifact delete cli-artifact", "cli-artifact"),
    command(0, "events emit cli.happened --resource-id cli.1 --payload '{{\"n\": 1}}'", "cli.happened"),
    command(1, "events emit cli.happened", "prefect.resource.id"),
    command(0, "deployment delete cli-flow/cli-deployment", "cli-flow/cli-deployment"),
    command(1, "deployment delete cli-flow/cli-deployment", "cli-flow/cli-deployment"),
]

# Where the outputs of the two servers need not agree, and why.
EXPLAINED = {
    "api GET /health --verbose": "names and order of headers",
    "block type ls": "types that only a Python server can make of its classes are registered when a client first uses them",
    "block type ls --output json": "as above",
    "block ls --output json": "the capabilities of a schema come in the order of a set there",
    "deployment schedule ls cli-flow/cli-deployment --output json": "the order is that of changes which `--all` makes at the same time",
    "flow-run ls --state-type SCHEDULED --limit 10 --output json": "tags come in the order of a set there",
}

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
REPLACED = [
    (UUID, "<id>"),
    # Ids that a table cuts off.
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{0,4}){1,3}…"), "<id>"),
    (re.compile(r"/[^ ]+/[01](/cli_deployed\.py|(?=\"))"), r"<home>\1"),
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

    def __init__(self, api: str, home: Path, programs: bool):
        self.api, self.home, self.programs = api, home, programs
        self.client = httpx.Client(base_url=api, timeout=60)
        self.process: subprocess.Popen[str] | None = None
        automation, flow = home / "automation.json", home / "cli_deployed.py"
        automation.write_text(json.dumps(AUTOMATION))
        flow.write_text(FLOW)
        self.names = {
            "absent": "00000000-0000-4000-8000-000000000000",
            "api": api,
            "automation_file": str(automation),
            "flow_file": flow.name,
        }

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
        parameters = {"type": "object", "properties": {"word": {"type": "string", "title": "word"}}}
        deployment = {
            "name": "cli-deployment",
            "flow_id": names["flow"],
            "parameters": {"word": "praetor"},
            "parameter_openapi_schema": parameters,
            "entrypoint": "flow.py:flow",
            "tags": ["cli"],
            "schedules": [{"schedule": {"interval": 3600, "anchor_date": "2026-01-01T00:00:00Z"}, "active": False}],
        }
        made = self.post("/deployments/", deployment)
        names["deployment"], names["schedule"] = made["id"], made["schedules"][0]["id"]
        self.post("/artifacts/", {"key": "cli-artifact", "type": "markdown", "data": "# text", "description": "told"})
        names["secret"] = self.block("secret", "cli-secret", {"value": "cli-hidden-value"})
        names["results"] = self.block("local-file-system", "cli-results", {"basepath": "/tmp/cli-results"})

    def block(self, slug: str, name: str, data: dict[str, Any]) -> str:
        kind = self.client.get(f"/block_types/slug/{slug}").json()
        schema = self.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})[0]
        block = {"name": name, "block_type_id": kind["id"], "block_schema_id": schema["id"], "data": data}
        return self.post("/block_documents/", block)["id"]

    def words(self, line: str) -> list[str]:
        return shlex.split(line.format(**self.names))

    def environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PRAETOR_"))}
        return environment | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "240",
            "NO_COLOR": "1",
            "TZ": "UTC",
        }

    def run(self, line: str) -> tuple[int, str]:
        """Exit code and output."""
        words = self.words(line)
        if self.programs:
            program = [Path(sys.executable).with_name("prefect"), *words]
            ended = subprocess.run(
                program,
                env=self.environment(),
                cwd=self.home,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_WITHIN_SECONDS,
                stdin=subprocess.DEVNULL,
            )
            return ended.returncode, ended.stdout
        process = self.process
        if process is None or process.poll() is not None:
            arguments = [sys.executable, __file__, "--serve"]
            process = subprocess.Popen(
                arguments, env=self.environment(), cwd=self.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.process = process
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], COMMAND_WITHIN_SECONDS)
        answer = process.stdout.readline() if ready else ""
        if not answer:
            process.kill()
            return -1, f"no end within {COMMAND_WITHIN_SECONDS} s" if not ready else "the process ended"
        ended = json.loads(answer)
        return ended["code"], ended["output"]

    def close(self) -> None:
        if self.process is not None and self.process.stdin:
            self.process.stdin.close()
            self.process.wait(timeout=COMMAND_WITHIN_SECONDS)


def serve() -> None:
    """Runs commands, one line of JSON each, until there are no more."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        with tempfile.TemporaryFile() as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = call(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            output.seek(0)
            answer = {"code": code, "output": output.read().decode()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def call(words: list[str]) -> int:
    """What the program does."""
    sys.argv = ["prefect", *words]
    try:
        from prefect.cli import app

        app()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def shown(text: str) -> str:
    """An output without what differs from server to server."""
    for pattern, stands in REPLACED:
        text = pattern.sub(stands, text)
    # Columns of tables are as wide as their widest entry.
    lines = [re.sub(r"[─━═]+", "─", re.sub(r" +", " ", line)).strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)


def judged(of: Command, side: Side, code: int, output: str) -> list[str]:
    """What is not as the table has it."""
    found = []
    if code != of.code:
        found.append(f"exit code {code}, not {of.code}:\n{output[-2000:]}")
    for text in of.shows:
        must = not text.startswith("!")
        text = text.removeprefix("!").format_map(side.names) if "{" in text and "}" in text else text.removeprefix("!")
        if (text in output) != must:
            found.append(f"{'does not show' if must else 'shows'} {text!r}:\n{output[-2000:]}")
    return [f"{side.api}: {of.line}: {finding}" for finding in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", help="the server")
    parser.add_argument("--reference", help="a server of the published Prefect to compare with")
    parser.add_argument("--only", default="", help="commands that begin so")
    parser.add_argument("--programs", action="store_true", help="start the program for each command")
    parser.add_argument("--show", action="store_true", help="print every output")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    if not options.api:
        parser.error("--api is missing")
    findings: list[str] = []
    explained: list[str] = []
    commands = [one for one in COMMANDS if one.line.startswith(options.only)]
    apis = [options.api] + ([options.reference] if options.reference else [])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        sides = []
        for number, api in enumerate(apis):
            home = Path(scratch) / str(number)
            home.mkdir()
            sides.append(Side(api, home, options.programs))
        list(pool.map(Side.make, sides))
        for one in commands:
            ends = list(pool.map(lambda side: side.run(one.line), sides))
            print(f"{ends[0][0]} prefect {one.line}", flush=True)
            if options.show:
                print(ends[0][1], flush=True)
            found = [finding for side, end in zip(sides, ends) for finding in judged(one, side, *end)]
            if len(ends) == 2:
                ours, theirs = (shown(output).splitlines() for _, output in ends)
                lines = list(difflib.unified_diff(theirs, ours, "reference", "ours", lineterm="", n=0))
                if lines and one.line in EXPLAINED:
                    explained.append(one.line)
                elif lines:
                    found.append(f"{one.line}: another output:\n" + "\n".join(lines))
            for finding in found:
                print(finding, flush=True)
            findings += found
        for side in sides:
            side.close()
    print(json.dumps({"commands": len(commands), "seconds": round(time.monotonic() - began, 1), "explained": explained, "findings": findings}))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
