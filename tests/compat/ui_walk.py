"""Walks through the Prefect UI, as Praetor serves it, with a headless Chromium.

    python tests/compat/ui_walk.py --url http://127.0.0.1:4200 --shots DIR [--generation v1] [--actions]

Fills the server with the published client, then loads every page of both generations of the UI, runs a deployment,
pauses a schedule, creates a block and a variable. A request to the server that fails (status of 400 or more, or no
answer), an error on a page's console, a page without what it must show: each is a finding, and any finding makes the
exit code 1. Other hosts are not reached and are listed apart. Screenshots go to DIR, which is no part of the
repository. Needs `prefect` and `playwright` in its Python and an installed `chromium`; nothing is downloaded.

The last line of the output is one JSON object: how many pages and requests, and the findings.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What the published UI asks for in vain of the reference's server too: page, method, path, status. Reported apart.
KNOWN = [
    # The icon of a run's state, by a name that is not there yet, and by a path without the base path.
    (r"v1 .*", r"GET /ico/undefined\.svg", 404),
    (r"v2 .*", r"GET /(completed|failed|running|pending|scheduled|cancelled|crashed)\.svg", 404),
    # The task run of an artifact that belongs to a flow run: an empty id.
    (r"v2 artifact.*", r"POST /api/task_runs/filter", 422),
    # Whether the name of a new block is taken: it is not.
    (r"v2 create-block", r"GET /api/block_types/slug/secret/block_documents/name/walked-.*", 404),
]
# How long the programs of a page may take to load: millions of bytes, packed by an unoptimized build.
LOADED_WITHIN_MS = 90_000
# How long a page may take to show what it must, on a busy machine.
SHOWN_WITHIN_MS = 30_000
# How long a change made in the browser may take to be seen by the API.
DONE_WITHIN_SECONDS = 20.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the server, without /api")
    parser.add_argument("--shots", type=Path, help="directory for screenshots; none are kept without it")
    parser.add_argument("--generation", choices=["v1", "v2"], help="one generation only")
    parser.add_argument("--actions", action="store_true", help="do what can be done, without looking at every page first")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    return parser.parse_args()


@dataclass
class Seeded:
    """What the pages must show."""

    flow_id: str
    run_id: str
    run_name: str
    task_run_id: str
    failed_run_id: str
    deployment_id: str
    pool: str
    block_id: str
    variable: str
    artifact_id: str
    automation_id: str | None
    limit_id: str
    event_ids: list[str] = field(default_factory=list)


def seed() -> Seeded:
    """Fills the server with a little of everything, through the published client."""
    from prefect import flow, get_run_logger, runtime, task
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact, create_table_artifact
    from prefect.blocks.system import Secret
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.events import emit_event
    from prefect.variables import Variable

    seen: dict[str, str] = {}

    @task
    def double(number: int) -> int:
        get_run_logger().info("doubling %s", number)
        seen["task_run"] = str(runtime.task_run.id)
        return 2 * number

    @flow(name="walk-subflow")
    def inner(numbers: list[int]) -> int:
        return sum(numbers)

    @flow(name="walk-flow")
    def walk(count: int = 3, word: str = "praetor") -> int:
        seen["flow_run"] = str(runtime.flow_run.id)
        seen["flow_run_name"] = runtime.flow_run.name
        get_run_logger().warning("the walk begins with %s", word)
        create_markdown_artifact("# Walk\n\nA *little* text.", key="walk-markdown")
        create_table_artifact([{"number": 1, "word": word}], key="walk-table")
        create_link_artifact("https://example.test/", key="walk-link")
        create_progress_artifact(40.0, key="walk-progress")
        return inner([future.result() for future in double.map(range(count))])

    @flow(name="walk-failing")
    def failing() -> None:
        seen["failed_run"] = str(runtime.flow_run.id)
        raise RuntimeError("fails on purpose")

    walk()
    try:
        failing()
    except RuntimeError:
        pass
    emit_event("walk.happened", resource={"prefect.resource.id": "walk.1", "prefect.resource.name": "walk"})
    Variable.set("walk_variable", {"nested": [1, 2]}, tags=["walk"], overwrite=True)
    block_id = str(Secret(value="hidden").save("walk-secret", overwrite=True))
    pool = "walk-pool"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
        flow_id = client.create_flow_from_name("walk-flow")
        deployment_id = client.create_deployment(
            flow_id=flow_id,
            name="walk-deployment",
            schedules=[{"schedule": IntervalSchedule(interval=timedelta(hours=1)), "active": True}],
            parameters={"count": 2},
            parameter_openapi_schema={
                "type": "object",
                "title": "Parameters",
                "properties": {
                    "count": {"type": "integer", "title": "count", "default": 3, "position": 0},
                    "word": {"type": "string", "title": "word", "default": "praetor", "position": 1},
                },
            },
            work_pool_name=pool,
            tags=["walk"],
            entrypoint="walk.py:walk",
        )
        limit_id = str(client.create_concurrency_limit(tag="walk", concurrency_limit=3))
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=f"walk-limit-{time.time_ns()}", limit=5))
    return Seeded(
        flow_id=str(flow_id),
        run_id=seen["flow_run"],
        run_name=seen["flow_run_name"],
        task_run_id=seen["task_run"],
        failed_run_id=seen["failed_run"],
        deployment_id=str(deployment_id),
        pool=pool,
        block_id=block_id,
        variable="walk_variable",
        artifact_id="",
        automation_id=None,
        limit_id=limit_id,
    )


class Api:
    """The server's API, for looking what the browser did and for what the client does not offer."""

    def __init__(self, url: str):
        import httpx

        self.client = httpx.Client(base_url=f"{url}/api", timeout=30)

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()


def until(what: str, predicate: Callable[[], Any], pause: Callable[[float], None] = lambda ms: time.sleep(ms / 1000)) -> Any:
    """Waits until the predicate gives something. A browser works only while its page is waited on, by `pause`."""
    deadline = time.monotonic() + DONE_WITHIN_SECONDS
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in time: {what}")
        pause(100)


def complete(seeded: Seeded, api: Api) -> list[str]:
    """What is found only once the server has taken everything in; gives findings."""
    seeded.artifact_id = until(
        "the artifacts are there",
        lambda: next((one["id"] for one in api.post("/artifacts/filter", {}) if one["key"] == "walk-markdown"), None),
    )
    until("the task runs are there", lambda: api.post("/task_runs/count", {"flow_runs": {"id": {"any_": [seeded.run_id]}}}) >= 4)
    events = until(
        "the event is there",
        lambda: api.post("/events/filter", {"filter": {"event": {"name": ["walk.happened"]}}})["events"],
    )
    seeded.event_ids = [f"{event['occurred'][:10]}/{event['id']}" for event in events[:1]]
    automation = {
        "name": "walk-automation",
        "description": "Made for the walk.",
        "trigger": {
            "type": "event",
            "expect": ["prefect.flow-run.Failed"],
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "posture": "Reactive",
            "threshold": 1,
            "within": 0,
        },
        "actions": [{"type": "do-nothing"}],
    }
    answer = api.client.post("/automations/", json=automation)
    if answer.status_code != 201:
        return [f"seed: {answer.status_code} POST /automations/ {answer.text}"]
    seeded.automation_id = answer.json()["id"]
    return []


class Walker:
    """One browser page that notes what goes wrong."""

    def __init__(self, page: Any, url: str, base: str, shots: Path | None, name: str):
        self.page, self.url, self.base, self.shots, self.name = page, url, base, shots, name
        self.findings: list[str] = []
        self.known: list[str] = []
        self.external: set[str] = set()
        self.requests = 0
        self.pages = 0
        self.where = "start"
        host = urlsplit(url).netloc

        def ours(address: str) -> bool:
            parts = urlsplit(address)
            return parts.netloc == host or parts.scheme in ("data", "blob", "about")

        def answered(response: Any) -> None:
            self.requests += 1
            if response.status < 400:
                return
            what = f"{response.request.method} {urlsplit(response.url).path}"
            if self.is_known(what, response.status):
                self.known.append(f"{self.name} {self.where}: {response.status} {what}")
            else:
                self.find(f"{response.status} {what} {self.body_of(response)}")

        def failed(request: Any) -> None:
            # A page that is left gives up what it was still loading.
            if ours(request.url) and "ERR_ABORTED" not in (request.failure or ""):
                self.find(f"{request.failure} {request.method} {request.url}")

        def said(message: Any) -> None:
            source = (message.location or {}).get("url", "")
            if message.type != "error" or (source and not ours(source)):
                return
            refused = re.search(r"responded with a status of (\d+)", message.text)
            methods = ("GET", "POST")
            if refused and any(self.is_known(f"{method} {urlsplit(source).path}", int(refused[1])) for method in methods):
                return
            # The UI's analytics, which report to another host, after some retries that are aborted here.
            if message.text.startswith("Amplitude Logger"):
                return
            self.find(f"console: {message.text} {source}")

        def route(route: Any) -> None:
            if ours(route.request.url):
                route.continue_()
            else:
                self.external.add(urlsplit(route.request.url).netloc)
                route.abort("blockedbyclient")

        page.route("**/*", route)
        page.on("response", answered)
        page.on("requestfailed", failed)
        page.on("console", said)
        page.on("pageerror", lambda error: self.find(f"exception: {error}"))

    def is_known(self, what: str, status: int) -> bool:
        page = f"{self.name} {self.where}"
        return any(re.fullmatch(on, page) and re.fullmatch(known, what) and status == code for on, known, code in KNOWN)

    def find(self, what: str) -> None:
        self.findings.append(f"{self.name} {self.where}: {what[:600]}")

    @staticmethod
    def body_of(response: Any) -> str:
        try:
            return f"{response.request.post_data or ''} -> {response.text()}"
        except Exception:
            return ""

    def settle(self) -> None:
        """Waits until the page has asked for what it wants."""
        try:
            self.page.wait_for_load_state("networkidle", timeout=SHOWN_WITHIN_MS)
        except Exception as error:
            self.find(f"never idle: {type(error).__name__}")

    def shoot(self, name: str) -> None:
        if self.shots:
            self.page.screenshot(path=str(self.shots / f"{self.name}-{name}.png"))

    def see(self, *texts: str) -> None:
        """Each of the texts stands on the page."""
        for text in texts:
            try:
                self.page.get_by_text(text).first.wait_for(timeout=SHOWN_WITHIN_MS)
            except Exception as error:
                self.find(f"does not show {text!r}: {type(error).__name__}")

    def load(self, name: str, path: str, *texts: str) -> None:
        self.where = name
        self.pages += 1
        print(f"{self.name} {name}", flush=True)
        try:
            self.page.goto(f"{self.url}{self.base}{path}", wait_until="domcontentloaded", timeout=LOADED_WITHIN_MS)
        except Exception as error:
            self.find(f"does not load: {str(error).splitlines()[0]}")
        self.see(*texts)
        self.settle()
        self.shoot(name)

    def act(self, name: str, action: Callable[[], None]) -> None:
        """Does something on the page; that it cannot be done is a finding."""
        self.where = name
        try:
            action()
        except Exception as error:
            self.find(f"cannot be done: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        self.settle()
        self.shoot(name)


def walk(walker: Walker, seeded: Seeded, api: Api, actions_only: bool) -> None:
    page = walker.page
    pages: list[tuple[str, str, list[str]]] = [
        ("dashboard", "/dashboard", ["Flow Runs", "walk-failing"]),
        ("runs", "/runs", ["walk-flow", seeded.run_name]),
        ("flow-run", f"/runs/flow-run/{seeded.run_id}", [seeded.run_name, "the walk begins"]),
        ("task-run", f"/runs/task-run/{seeded.task_run_id}", ["doubling"]),
        ("failed-run", f"/runs/flow-run/{seeded.failed_run_id}", ["fails on purpose"]),
        ("flows", "/flows", ["walk-flow", "walk-subflow"]),
        ("flow", f"/flows/flow/{seeded.flow_id}", ["walk-flow"]),
        ("deployments", "/deployments", ["walk-deployment"]),
        ("deployment", f"/deployments/deployment/{seeded.deployment_id}", ["walk-deployment"]),
        ("deployment-run", f"/deployments/deployment/{seeded.deployment_id}/run", ["word"]),
        ("deployment-edit", f"/deployments/deployment/{seeded.deployment_id}/edit", ["walk-deployment"]),
        ("work-pools", "/work-pools", [seeded.pool]),
        ("work-pool", f"/work-pools/work-pool/{seeded.pool}", [seeded.pool]),
        ("work-pool-edit", f"/work-pools/work-pool/{seeded.pool}/edit", ["Concurrency"]),
        ("work-pool-create", "/work-pools/create", ["Process"]),
        ("work-queue", f"/work-pools/work-pool/{seeded.pool}/queue/default", ["default"]),
        ("blocks", "/blocks", ["walk-secret"]),
        ("block", f"/blocks/block/{seeded.block_id}", ["walk-secret"]),
        ("blocks-catalog", "/blocks/catalog", ["Webhook"]),
        ("blocks-catalog-type", "/blocks/catalog/secret", ["Secret"]),
        ("variables", "/variables", [seeded.variable]),
        ("automations", "/automations", ["walk-automation"]),
        ("automation", f"/automations/automation/{seeded.automation_id}", ["walk-automation"]),
        ("automation-create", "/automations/create", ["Trigger"]),
        ("concurrency-limits", "/concurrency-limits", ["walk-limit"]),
        ("concurrency-limit", f"/concurrency-limits/concurrency-limit/{seeded.limit_id}", ["walk"]),
        ("events", "/events", ["walk"]),
        ("event", f"/events/event/{seeded.event_ids[0]}", ["walk"]),
        ("artifacts", "/artifacts", ["walk-markdown", "walk-table"]),
        ("artifact", f"/artifacts/artifact/{seeded.artifact_id}", ["Walk"]),
        ("artifact-key", "/artifacts/key/walk-table", ["walk-table"]),
        ("settings", "/settings", ["Version"]),
    ]
    for name, path, texts in [one for one in pages if not actions_only]:
        walker.load(name, path, *texts)

    deployment = f"/deployments/deployment/{seeded.deployment_id}"
    runs = {"deployments": {"id": {"any_": [seeded.deployment_id]}}, "flow_runs": {"tags": {"all_": ["walk"]}}}

    def run_it() -> None:
        before = api.post("/flow_runs/count", runs)
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Quick run").first.click()
        until("the run is there", lambda: api.post("/flow_runs/count", runs) > before, page.wait_for_timeout)

    def pause_it() -> None:
        switch = page.get_by_role("switch").or_(page.locator(".p-toggle input, .p-toggle__control")).first
        switch.click()
        schedules = f"/deployments/{seeded.deployment_id}"
        until("the schedule is paused", lambda: not any(one["active"] for one in api.get(schedules)["schedules"]), page.wait_for_timeout)
        switch.click()
        until("the schedule is active", lambda: all(one["active"] for one in api.get(schedules)["schedules"]), page.wait_for_timeout)

    def make_block() -> None:
        name = f"walked-{walker.name}-{time.time_ns()}"
        page.locator("input[type=text], input[name=blockName], form input").first.fill(name)
        fields = page.locator("form textarea, form input[type=password], form .cm-content").all()
        fields[-1].fill("hidden too")
        page.get_by_role("button", name="Create").or_(page.get_by_role("button", name="Save")).last.click()
        until("the block is there", lambda: api.client.get(f"/block_types/slug/secret/block_documents/name/{name}").is_success, page.wait_for_timeout)

    walker.load("deployment", deployment, "walk-deployment")
    walker.act("run-deployment", run_it)
    walker.load("deployment", deployment, "walk-deployment")
    walker.act("pause-schedule", pause_it)
    walker.load("blocks-catalog-create", "/blocks/catalog/secret/create", "Secret")
    walker.act("create-block", make_block)


def main() -> int:
    options = arguments()
    url = options.url.rstrip("/")
    os.environ["PREFECT_API_URL"] = f"{url}/api"
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    if not options.chromium:
        sys.exit("chromium is not installed")
    seeded = seed()
    api = Api(url)
    findings = complete(seeded, api)

    from playwright.sync_api import sync_playwright

    settings = api.client.get(f"{url}/ui-settings").json()
    totals = {"pages": 0, "requests": 0}
    external: set[str] = set()
    known: list[str] = []
    with sync_playwright() as playwright:
        # Containers lack what Chromium's sandbox needs.
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for generation in settings["available_uis"]:
            if options.generation in (None, generation):
                page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
                base = settings[f"{generation}_base_url"].rstrip("/")
                walker = Walker(page, url, base, options.shots, generation)
                walk(walker, seeded, api, options.actions)
                findings += walker.findings
                external |= walker.external
                known += walker.known
                totals["pages"] += walker.pages
                totals["requests"] += walker.requests
        browser.close()
    for finding in findings:
        print(f"finding: {finding}")
    for line in sorted(set(known)):
        print(f"as on the reference: {line}")
    if external:
        print(f"not reached: {', '.join(sorted(external))}")
    print(json.dumps(totals | {"findings": findings, "known": len(known), "uis": settings["available_uis"]}))
    return 1 if findings or not totals["pages"] else 0


if __name__ == "__main__":
    sys.exit(main())
