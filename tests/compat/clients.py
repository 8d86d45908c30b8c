"""Runs other versions of the published client against a server, and prints a table.

    python tests/compat/clients.py --api http://127.0.0.1:4200/api --venvs DIR [VERSION ...]

Each version is installed into an environment of its own below DIR, if it is not there yet, and runs

- the flow of `flow.py`: 20 mapped tasks, retries of tasks and of the flow, a subflow, logs, a hook;
- the worker scenario: a deployment of local code (`../cluster/scheduled.py`) in a process pool, one run of it from the
  command line, taken and completed by a process worker of the same version.

The exit code is 1 where anything went wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

VERSIONS = ["3.4.25", "3.6.29", "3.8.8"]
# What workers of the older versions import and do not ask for; other packages brought it along when they were new.
ALSO = "importlib_metadata"
HERE = Path(__file__).resolve().parent
# Imports take seconds on a busy machine, and so do processes that a worker starts.
SCRIPT_WITHIN_SECONDS = 300
COMPLETED_WITHIN_SECONDS = 240
RECORDED_WITHIN_SECONDS = 10


def environment_of(version: str, venvs: Path) -> Path:
    """The programs of a version, installed if need be."""
    where = venvs / f"client-{version}"
    if not (where / "bin" / "prefect").exists():
        subprocess.run([sys.executable, "-m", "venv", where], check=True)
        pip = [where / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"prefect=={version}", ALSO]
        subprocess.run(pip, check=True)
    return where / "bin"


class Client:
    """One version with a home of its own."""

    def __init__(self, version: str, programs: Path, api: str, home: Path):
        self.version, self.programs, self.home = version, programs, home
        self.http = httpx.Client(base_url=api, timeout=60)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PRAETOR_"))}
        self.environment |= {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PRAETOR_TEST_RUNS": str(home / "runs"),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }

    def run(self, program: str, *arguments: str) -> str:
        """The standard output of a program that must succeed."""
        ended = subprocess.run(
            [self.programs / program, *arguments],
            env=self.environment,
            input="\n",
            capture_output=True,
            text=True,
            timeout=SCRIPT_WITHIN_SECONDS,
        )
        if ended.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)} ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-1500:]}")
        return ended.stdout

    def post(self, path: str, body: object) -> object:
        return self.http.post(path, json=body).raise_for_status().json()

    def flow(self) -> str:
        lines = self.run("python", str(HERE / "flow.py")).splitlines()
        told = next(json.loads(line) for line in lines if line.startswith("{"))
        wanted = {"result": 380, "flow_attempts": 2, "retried": [3, 11, 17]}
        found = {name: told[name] for name in wanted}
        assert found == wanted, found
        assert told["hook"] == {"flow_run": told["flow_run"], "state": "Completed"}, told["hook"]
        for run, count in [("flow_run", told["task_runs"]["flow"]), ("subflow_run", told["task_runs"]["subflow"])]:
            of_run = {"flow_runs": {"id": {"any_": [told[run]]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            self.until(RECORDED_WITHIN_SECONDS, lambda: self.post("/task_runs/count", of_run) == count)
        logs = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [told["flow_run"]]}}})
        messages = [log["message"] for log in logs]
        assert "the answer is 380" in messages, messages
        return f"{sum(told['task_runs'].values())} task runs, {len(messages)} log lines"

    def worker(self) -> str:
        pool = f"clients-{self.version}-{time.time_ns()}"
        told = self.run("python", str(HERE.parent / "cluster" / "scheduled.py"), pool, "86400")
        deployment = next(json.loads(line) for line in told.splitlines() if line.startswith("{"))["deployment"]
        self.run("prefect", "deployment", "run", "praetor-scheduled/every-few-seconds")
        with open(self.home / "worker.log", "w") as log:
            worker = subprocess.Popen(
                [self.programs / "prefect", "worker", "start", "--type", "process", "--pool", pool],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        completed = {
            "deployments": {"id": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        try:
            self.until(COMPLETED_WITHIN_SECONDS, lambda: worker.poll() is not None or self.post("/flow_runs/count", completed) >= 1)
            assert worker.poll() is None, f"the worker ended with {worker.poll()}"
            workers = self.post(f"/work_pools/{pool}/workers/filter", {})
            assert [one["status"] for one in workers] == ["ONLINE"], workers
        except BaseException:
            print((self.home / "worker.log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            worker.terminate()
            worker.wait(timeout=60)
        runs = (self.home / "runs").read_text().splitlines()
        assert len(runs) >= 1, "the flow did not run"
        # Nothing of it is left to be run by the next version's worker.
        self.http.delete(f"/deployments/{deployment}").raise_for_status()
        return f"{len(runs)} run completed"

    def until(self, within: float, predicate) -> None:
        deadline = time.monotonic() + within
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within} s")
            time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", required=True)
    parser.add_argument("--venvs", required=True, type=Path)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    options = parser.parse_args()
    rows = []
    for version in options.versions:
        programs = environment_of(version, options.venvs)
        for scenario in ("flow", "worker"):
            with tempfile.TemporaryDirectory() as home:
                client = Client(version, programs, options.api, Path(home))
                began = time.monotonic()
                try:
                    rows.append((version, scenario, "passed", getattr(client, scenario)(), time.monotonic() - began))
                except Exception as error:
                    rows.append((version, scenario, "FAILED", f"{type(error).__name__}: {error}", time.monotonic() - began))
                print(f"{version} {scenario} {rows[-1][2]}", file=sys.stderr, flush=True)
    print("| client | scenario | outcome | what was seen | seconds |")
    print("|---|---|---|---|---|")
    for version, scenario, outcome, seen, seconds in rows:
        print(f"| {version} | {scenario} | {outcome} | {seen} | {seconds:.0f} |")
    failed = [row for row in rows if row[2] != "passed"]
    print(json.dumps({"rows": len(rows), "failed": len(failed)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
