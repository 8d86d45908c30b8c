"""A flow with what real flows have, run by the published Prefect client against PREFECT_API_URL.

Twenty mapped tasks, some of which fail at first and are retried; a flow that fails at first and is retried; a subflow;
logging; an `on_completion` hook. Prints one line of JSON as soon as the flow has returned: the runs' ids, what the flow
returned, and how many task runs must now be in the database.
"""

import json
import sys
import time

from prefect import flow, get_run_logger, runtime, tags, task
from prefect.client.orchestration import get_client

MAPPED = 20
FLAKY = {3, 11, 17}

seen: dict[str, object] = {"attempts": {}, "flow_attempts": 0, "hook": None, "subflow": None}


@task(retries=2, retry_delay_seconds=0.1)
def double(number: int) -> int:
    attempts = seen["attempts"]
    attempts[number] = attempts.get(number, 0) + 1
    get_run_logger().info("doubling %s, attempt %s", number, attempts[number])
    if number in FLAKY and attempts[number] == 1:
        raise RuntimeError(f"{number} fails at first")
    return 2 * number


@task(log_prints=True)
def total(numbers: list[int]) -> int:
    print(f"adding {len(numbers)} numbers")
    return sum(numbers)


@flow(name="praetor-subflow")
def add(numbers: list[int]) -> int:
    seen["subflow"] = runtime.flow_run.id
    get_run_logger().info("the subflow adds")
    return total(numbers)


def completed(flow, flow_run, state):
    seen["hook"] = {"flow_run": str(flow_run.id), "state": state.name}


@flow(name="praetor-flow", retries=1, retry_delay_seconds=0.1, on_completion=[completed])
def work(count: int) -> int:
    seen["flow_attempts"] += 1
    seen["flow"] = runtime.flow_run.id
    logger = get_run_logger()
    logger.warning("flow attempt %s", seen["flow_attempts"])
    if seen["flow_attempts"] == 1:
        raise RuntimeError("the flow fails at first")
    doubled = double.map(range(count))
    result = add([future.result() for future in doubled])
    logger.info("the answer is %s", result)
    return result


def main() -> None:
    with tags("praetor-compat"):
        result = work(MAPPED)
    ended = time.time()
    print(
        json.dumps(
            {
                "ended": ended,
                "flow_run": str(seen["flow"]),
                "subflow_run": str(seen["subflow"]),
                "result": result,
                "hook": seen["hook"],
                "flow_attempts": seen["flow_attempts"],
                "retried": sorted(number for number, count in seen["attempts"].items() if count > 1),
                # The mapped tasks and the one that stands for the subflow; the subflow's own task.
                "task_runs": {"flow": MAPPED + 1, "subflow": 1},
                # Pending, Running, Completed; a retry adds AwaitingRetry and Retrying in place of the second Pending and Running.
                "task_run_states": {"double": 3 * MAPPED + 2 * len(FLAKY), "total": 3},
            }
        ),
        flush=True,
    )
    # Read by the test before this process, and with it the event worker, ends: nothing is flushed by leaving.
    sys.stdin.readline()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(seen["flow"])
    assert run.state is not None and run.state.is_completed(), run.state


if __name__ == "__main__":
    main()
