"""Background tasks through the published Prefect client.

Usage: background.py serve LIMIT            serves the task until it is killed
       background.py delay FROM COUNT       delays runs, and prints a line of JSON for each
       background.py key                    prints the key of the task

Each run of the task adds a line to the file that PRAETOR_TEST_RUNS names: its id, its number and when it began. Numbers
below 0 wait until the file named by PRAETOR_TEST_GATE is there.
"""

import json
import os
import sys
import time

from prefect import runtime, task
from prefect.task_worker import serve


@task(name="praetor-background")
def work(number: int) -> int:
    line = json.dumps({"run": runtime.task_run.id, "number": number, "began": time.time(), "pid": os.getpid()})
    with open(os.environ["PRAETOR_TEST_RUNS"], "a") as runs:
        runs.write(line + "\n")
    while number < 0 and not os.path.exists(os.environ["PRAETOR_TEST_GATE"]):
        time.sleep(0.05)
    return number


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(work, limit=int(sys.argv[2]))
    elif sys.argv[1] == "key":
        print(json.dumps({"key": work.task_key}), flush=True)
    else:
        for number in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
            at = time.time()
            future = work.delay(number)
            print(json.dumps({"run": str(future.task_run_id), "number": number, "delayed": at, "made": time.time()}), flush=True)
