"""Sends whatever the OpenAPI document of the published Prefect allows, and much that it does not, to a node.

    python tests/compat/fuzz.py --api http://127.0.0.1:4200/api --schemathesis st/bin/schemathesis --requests 20000

Run it with the `python` of the published Prefect, which makes the document. `schemathesis` lies in an environment of its
own: it wants other versions of some packages. It is run with one seed after the other until the node has answered as
many requests; what was answered is read from the node's metrics. No answer may be 500. (503 is a database that does not
answer in time.) Prints one JSON object; the exit code is 1 where an answer was 500.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

REQUESTS = re.compile(r'praetor_http_requests_total\{method="(\w+)",route="([^"]*)",status="(\d+)"\} (\d+)')

# How often an operation is tried with values of one kind in one run.
EXAMPLES = 60


def answered(api: str) -> collections.Counter[tuple[str, str, int]]:
    """How often each operation has been answered with each status so far."""
    root = api.removesuffix("/").removesuffix("/api")
    with urllib.request.urlopen(f"{root}/metrics", timeout=60) as answer:
        found = REQUESTS.findall(answer.read().decode())
    return collections.Counter({(method, route, int(status)): int(count) for method, route, status, count in found})


def document() -> dict:
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True).openapi()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", required=True)
    parser.add_argument("--schemathesis", default="schemathesis", help="its program")
    parser.add_argument("--requests", type=int, default=20_000, help="answers at least")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--only", default=".*", help="regular expression for paths")
    options = parser.parse_args()

    before = answered(options.api)
    seed = options.seed
    with tempfile.TemporaryDirectory() as scratch:
        described = Path(scratch) / "openapi.json"
        described.write_text(json.dumps(document()))
        while True:
            arguments = [options.schemathesis, "run", str(described), "--url", options.api]
            arguments += ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--mode", "all"]
            arguments += ["--max-examples", str(EXAMPLES), "--seed", str(seed), "--continue-on-failure", "--no-color"]
            arguments += ["--include-path-regex", options.only, "--suppress-health-check", "all", "--generation-database", "none"]
            # It ends with 1 where it has found something; what counts is what the node says.
            ended = subprocess.run(arguments, stdin=subprocess.DEVNULL, cwd=scratch)
            if ended.returncode > 1:
                return ended.returncode
            now = answered(options.api)
            now.subtract(before)
            statuses: collections.Counter[int] = collections.Counter()
            for (_, _, status), count in now.items():
                statuses[status] += count
            print(f"seed {seed}: {statuses.total()} requests so far, {statuses[500]} answered 500", flush=True)
            if statuses.total() >= options.requests:
                break
            seed += 1
    failed = {f"{method} {route}": count for (method, route, status), count in now.items() if status == 500 and count}
    told = {
        "requests": statuses.total(),
        "seeds": [options.seed, seed],
        "statuses": dict(sorted((status, count) for status, count in statuses.items() if count)),
        "failed": failed,
    }
    print(json.dumps(told))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
