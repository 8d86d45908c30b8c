"""A deployment that is due every few seconds, for a process worker, through the published Prefect client.

Usage: scheduled.py POOL SECONDS     makes pool and deployment, and prints them as a line of JSON

Each run of the flow adds a line to the file that PRAETOR_TEST_RUNS names: its id and its slot.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from prefect import flow, runtime, task


@task
def look() -> str:
    return "seen"


@flow(name="praetor-scheduled")
def tick() -> None:
    look()
    line = json.dumps({"run": runtime.flow_run.id, "slot": runtime.flow_run.scheduled_start_time.isoformat(), "pid": os.getpid()})
    with open(os.environ["PRAETOR_TEST_RUNS"], "a") as runs:
        runs.write(line + "\n")


def deploy(pool: str, seconds: float) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        except ObjectAlreadyExists:
            pass
    here = Path(__file__).resolve()
    source = flow.from_source(source=str(here.parent), entrypoint=f"{here.name}:tick")
    id = source.deploy(name="every-few-seconds", work_pool_name=pool, interval=timedelta(seconds=seconds), print_next_steps=False)
    print(json.dumps({"deployment": str(id), "pool": pool}), flush=True)


if __name__ == "__main__":
    deploy(sys.argv[1], float(sys.argv[2]))
