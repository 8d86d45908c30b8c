#!/usr/bin/env python3
"""Sends the same random requests, valid and invalid, to two servers and compares the answers.

    requests.py [--seed N] [--count N] [--only GROUP,...] [--show N] REFERENCE_API CANDIDATE_API

The requests are made from the OpenAPI document of the reference, over all its operations: bodies by their schemas with
names and ids of objects made before, about every third one broken at one or two places. Status, the headers that
clients look at and the body must be equal, after ids, moments and generated names are replaced. Words of the validator
(`msg`, `ctx`) are counted apart. A read that differs is repeated for two seconds: both servers finish some work after
they answered.

What only one of the servers did would show in all that follows. So where the answers to a write differ, that is told once,
and what it was about is deleted on both.

Needs two servers without background services on two empty databases. Exit status 1 where a difference is left that
EXPLAINED does not name.
"""

import argparse
import collections
import copy
import http.client
import json
import random
import re
import sys
import time
import urllib.parse
import uuid
from datetime import datetime, timedelta, timezone

HEADERS = ["content-type", "location", "retry-after", "content-disposition", "allow"]

# (operation, where in the answer, why): regular expressions; README.md has them for people.
EXPLAINED = [
    (r"GET /admin/settings", r".*", "the settings are the server's own"),
    (
        r"(POST|PATCH) /(flow_runs|task_runs|deployments)/.*",
        r"^\.body\.(exception_detail\[\]\.input|request_body)(\[\])?(\.empirical_policy)?(\.(retries|retry_delay|parameters))?=",
        "its validators write into the body that it shows",
    ),
    (
        r"POST /block_types/",
        r"^\.body\.",
        "the reference answers with another block type that has the same name",
    ),
    (r"POST /work_pools/|PATCH /work_pools/\{name\}", r"^\.body\.detail=Invalid schema: ", "the words of its JSON Schema library"),
    (
        r"GET /collections/views/\{view\}",
        r"^\.body\.[^=]+\.description=",
        "the texts of the worker metadata are our own words",
    ),
    (
        r"POST /flow_runs/bulk_set_state",
        r"^\.body\.results\[\]\.",
        "the order of the runs is not defined, and what the rules write into the state of one run is in that of the next",
    ),
]

# Where the answers are equal but for the order of what is in them.
BARS = "the order of bars of the same rank, which they do not show"

WINDOW = "a part of a list in which some have the same rank"


def items_of(body):
    return body.get("results") if isinstance(body, dict) else body


def same_but_for_order(label, sort, text, answers, bodies):
    """The reason, where two lists have other orders, or are parts of lists that have."""
    one, other = (answer["body"] for answer in answers)
    if label == "POST /ui/flow_runs/history" and unordered(one) == unordered(other):
        return BARS
    if sort is None or not all(isinstance(items_of(body), list) for body in (one, other)):
        return None
    sent = json.loads(text or "null")
    sent = sent if isinstance(sent, dict) else {}
    size = len(items_of(one))
    # A list that is as long as it may be is a part of a longer one. (Numbers are also taken as text.)
    window = sent.get("offset") or sent.get("page", 1) != 1 or size >= int(sent.get("limit") or 200)
    around = [{**body, "results": None} if isinstance(body, dict) else None for body in (one, other)]
    return WINDOW if window and size == len(items_of(other)) and around[0] == around[1] and in_order(sort, bodies) else None


# What its answer says, and why ours may differ where both refuse.
NO_OBJECT = "a body that is no object, of an operation whose body parameters stand side by side"
NO_VERSION = "a refused X-PREFECT-API-VERSION together with something else that is wrong"


def refused_otherwise(text, headers, answers):
    """The reason, where both refuse a request that is wrong in more ways than one."""
    if not all(300 <= answer["status"] < 500 for answer in answers):
        return None
    if headers["x-prefect-api-version"] not in ("0.8.4", "0.8.0"):
        return NO_VERSION
    details = [(answer["body"] or {}).get("exception_detail") or [{}] for answer in answers]
    if text is not None and not text.startswith("{") and {issue.get("type") for issue in details[0]} == {"missing"}:
        return NO_OBJECT if details[1][0].get("type") == "model_attributes_type" else None
    return None

FAILS = "the reference fails (500, or 503 where its database refuses the query)"

# Answers with what depends on the moment or on chance.
SECONDS = {
    "lateness", "duration", "estimated_start_time_delta", "estimated_run_time", "total_run_time", "average_lateness", "sum_estimated_run_time",
    "sum_estimated_lateness", "delay_seconds", "late_runs_count", "health_check_policy", "time_in_current_state",
}  # fmt: skip

# Sets of the reference, whose order is by chance.
SETS = {"after", "expect", "for_each"}

# Which objects a property of this name refers to.
REFERS = {
    "flow_id": "flow", "flow_run_id": "flow_run", "task_run_id": "task_run", "deployment_id": "deployment",
    "parent_task_run_id": "task_run", "parent_flow_run_id": "flow_run", "block_type_id": "block_type",
    "block_schema_id": "block_schema", "block_document_id": "block_document", "work_queue_id": "work_queue",
    "infrastructure_document_id": "block_document", "storage_document_id": "block_document",
    "global_concurrency_limit_id": "limit", "default_queue_id": "work_queue", "lease_id": "lease",
    "schedule_id": "schedule", "work_pool_id": "work_pool",
}  # fmt: skip

# Which objects the `{id}` of a path is of, and what answers of these operations make.
OWNERS = [
    ("/flows/", "flow"), ("/flow_runs/", "flow_run"), ("/task_runs/", "task_run"), ("/ui/task_runs/", "task_run"),
    ("/deployments/", "deployment"), ("/saved_searches/", "saved_search"), ("/v2/concurrency_limits/", "limit"),
    ("/concurrency_limits/", "limit_v1"), ("/block_types/", "block_type"), ("/block_documents/", "block_document"),
    ("/block_schemas/", "block_schema"), ("/work_queues/", "work_queue"), ("/artifacts/", "artifact"),
    ("/variables/", "variable"), ("/automations/", "automation"), ("/flow_run_states/", "state"),
    ("/task_run_states/", "state"), ("/work_pools/", "work_pool"),
]  # fmt: skip

KINDS = sorted(set(REFERS.values()) | {kind for _, kind in OWNERS})
MOMENTS = ["2030-01-01T00:00:00Z", "2030-01-02T03:04:05.678900Z", "2020-02-29T12:00:00+02:00", "2026-06-01T00:00:00Z"]
JUNK = [None, True, False, 0, 1, -1, 1.5, "", "x", "1", "yes", "a/b", [], {}, ["x"], {"a": 1}, [None], "2030-01-01", "PT1H", 201]


class Server:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.base = parts.path.rstrip("/")
        self.host = parts.netloc
        self.connection = None
        # From a token such as `<flow 3>` to this server's id.
        self.ids = {}

    def send(self, method, path, body, headers):
        for again in (False, True):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.host, timeout=60)
            try:
                self.connection.request(method, self.base + path, body, headers)
                response = self.connection.getresponse()
                return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            except (http.client.HTTPException, OSError):
                self.connection.close()
                self.connection = None
                if again:
                    raise

    def resolve(self, text):
        return re.sub(r"<(\w+(?: |%20)\d+)>", lambda found: self.ids.get(found[0].replace("%20", " "), found[0]), text)


class Maker:
    """Makes requests from the schemas."""

    def __init__(self, document, chance):
        self.document = document
        self.chance = chance
        self.known = collections.defaultdict(list)

    def pick(self, *choices):
        return self.chance.choice(choices)

    def token(self, kind):
        known = self.known[kind]
        if known and self.chance.random() < 0.9:
            return self.chance.choice(known[-12:])
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def name(self, stem):
        return f"{stem}-{self.chance.randrange(8)}"

    def schema(self, schema):
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def value(self, schema, prop="", owner="", depth=0):
        schema = self.schema(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.chance.choice(schema["enum"])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                options = schema[key]
                if key == "anyOf" and len(options) > 1 and depth > 5:
                    options = [option for option in options if option.get("type") == "null"] or options
                return self.value(self.chance.choice(options), prop, owner, depth)
        kind = schema.get("type")
        if hinted := self.hint(prop, owner, kind, schema):
            return hinted[0]
        if kind == "object" or "properties" in schema:
            return self.object(schema, prop, owner, depth)
        if kind == "array":
            if depth > 6:
                return []
            return [self.value(schema.get("items", {}), prop, owner, depth + 1) for _ in range(self.pick(0, 1, 1, 2))]
        if kind == "string":
            return self.string(schema, prop, owner)
        if kind == "integer":
            low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1 if "exclusiveMinimum" in schema else 0)
            return self.chance.randint(low, min(schema.get("maximum", low + 20), low + 20))
        if kind == "number":
            return self.pick(0.5, 1, 2.25, 60)
        if kind == "boolean":
            return self.pick(True, False)
        if kind == "null":
            return None
        return self.pick(None, 1, "text", {"a": [1, 2.5, None]}, ["b"])

    def object(self, schema, prop, owner, depth):
        made = {}
        required = schema.get("required", [])
        likely = 0.5 if depth == 0 else 0.3 if depth < 4 else 0.12
        for key, inner in schema.get("properties", {}).items():
            if key in required or self.chance.random() < likely:
                inside = prop if key in ("id", "name", "any_", "all_", "not_any_") or key.endswith("_") else key
                made[key] = self.value(inner, key, inside or owner, depth + 1)
        if "properties" not in schema and self.chance.random() < 0.6:
            extra = schema.get("additionalProperties")
            for _ in range(self.pick(1, 2)):
                inner = extra if isinstance(extra, dict) else {}
                made[self.pick("k", "key-1", "x.y")] = self.value(inner, "", owner, depth + 1)
        return made

    def hint(self, prop, owner, kind, schema):
        """A value that means something, in a tuple; none where the schema says enough."""
        if kind == "string" and schema.get("format") == "uuid":
            return (self.token(REFERS.get(prop) or self.of_filter(owner) or self.pick(*KINDS)),)
        if prop in ("parameter_openapi_schema",):
            return (self.pick({}, {"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"]}, None),)
        if prop == "parameters" and kind == "object":
            return (self.pick({}, {"k": 1}, {"k": "x"}, {"k": {"__prefect_kind": "json", "value": "[1]"}}),)
        if prop == "base_job_template":
            template = {"job_configuration": {"command": "{{ command }}"}, "variables": {"type": "object", "properties": {"command": {"type": "string"}}}}
            return (self.pick({}, template, template, {"job_configuration": {"a": "{{ b }}"}, "variables": {}}),)
        if prop == "job_variables" and kind == "object":
            return (self.pick({}, {"command": "ls"}, {"command": 1}),)
        if prop == "interval":
            return (self.pick(60, 3600.0, 86400, 0.5),)
        if prop == "cron":
            return (self.pick("0 0 * * *", "*/5 * * * *", "@daily", "0 0 31 2 *", "nonsense"),)
        if prop == "rrule":
            return (self.pick("FREQ=DAILY", "FREQ=HOURLY;INTERVAL=2", "DTSTART:20200101T000000\nRRULE:FREQ=DAILY", "nonsense"),)
        if prop == "timezone":
            return (self.pick("UTC", "Europe/Paris", "America/New_York", "Mars/Base", None),)
        if prop == "history_interval_seconds" or prop == "history_interval":
            return (self.pick(86400, 86400 * 30, 0.5, 1),)
        if prop == "history_start":
            return ("2026-01-01T00:00:00Z",)
        if prop == "history_end":
            return (self.pick("2026-12-31T00:00:00Z", "2026-06-01T00:00:00Z", "2025-01-01T00:00:00Z"),)
        # Most lists are sorted by ids, which chance makes: only whole ones are comparable.
        if prop == "limit" and kind == "integer":
            return (self.pick(50, 200) if owner == "events" else 200,)
        if prop in ("offset", "page") and kind == "integer":
            return (0 if prop == "offset" else 1,)
        if prop in ("slots", "active_slots", "denied_slots"):
            return (self.pick(0, 1, 1, 2),)
        return None

    def of_filter(self, owner):
        for suffix in ("s_filter", "s"):
            if owner.endswith(suffix) and owner.removesuffix(suffix) in KINDS:
                return owner.removesuffix(suffix)
        return REFERS.get(owner)

    def string(self, schema, prop, owner):
        form = schema.get("format")
        if form == "date-time":
            return self.chance.choice(MOMENTS)
        if form == "uuid":
            return self.token(REFERS.get(prop, "flow"))
        if prop in ("name", "slug", "key", "tag", "work_pool_name", "work_queue_name", "flow_name", "deployment_name"):
            stem = {"work_pool_name": "work_pools", "work_queue_name": "queues"}.get(prop) or (owner if owner else prop)
            return self.name(stem.replace("_", "-"))
        if prop in ("any_", "all_", "not_any_", "like_", "startswith_", "names", "tags", "concurrency_limit_names"):
            return self.pick(self.name((owner or prop).replace("_", "-")), "a", "b", "tag-1")
        return self.pick("a", "b", "text-1", "tag-1", self.name("name"))

    def path(self, template):
        """The path, and the kind of object that its id is of."""
        kind = next((kind for start, kind in OWNERS if template.startswith(start)), "flow")

        def fill(found):
            name = found[1]
            if self.chance.random() < 0.05:
                return self.pick("not-an-id", "%20", "00000000-0000-0000-0000-000000000000", "a%2Fb", "x")
            if name == "id" or name.endswith("_id"):
                return self.token(REFERS.get(name) or kind)
            if name == "id_or_name" and self.chance.random() < 0.5:
                return self.token(kind)
            if name == "view":
                return self.pick("aggregate-worker-metadata", "nothing")
            stem = {"work_pool_name": "work_pools", "flow_name": "flows", "deployment_name": "deployments"}.get(name)
            stem = stem or ("queues" if "/queues/" in template else "workers" if "/workers/" in template else template.split("/")[1 if template[1:3] != "v2" else 2])
            return self.name(stem.replace("_", "-"))

        return re.sub(r"\{(\w+)\}", fill, template), kind

    def request(self, method, template, operation):
        path, kind = self.path(template)
        headers = {"content-type": "application/json", "user-agent": "prefect/3.8.4 (API 0.8.4)", "x-prefect-api-version": "0.8.4"}
        query = {}
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query" and (parameter.get("required") or self.chance.random() < 0.5):
                value = self.value(parameter["schema"], parameter["name"])
                if self.chance.random() < 0.15:
                    value = self.chance.choice(JUNK)
                query[parameter["name"]] = value if isinstance(value, str) else json.dumps(value)
        if query:
            path += "?" + urllib.parse.urlencode(query, safe="<>", quote_via=urllib.parse.quote)
        body = None
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content:
            owner = template.split("/")[1 if template[1:3] != "v2" else 2]
            owner = "queues" if "/queues" in template else owner
            body = self.value(content["schema"], owner=owner)
            if "/bulk_" in template and isinstance(body, dict):
                body.pop("limit", None)
                body[owner] = {"id": {"any_": [self.token(kind), self.token(kind)]}}
            if self.chance.random() < 0.35:
                for _ in range(self.pick(1, 1, 2)):
                    body = self.broken(body)
        if self.chance.random() < 0.01:
            headers["x-prefect-api-version"] = self.pick("0.7.0", "1", "x.y.z", "0.8.0")
        if self.chance.random() < 0.01:
            method = self.pick("GET", "POST", "PUT", "DELETE", "PATCH")
        if self.chance.random() < 0.01:
            path = path.rstrip("/") if path.endswith("/") else path + "/"
        text = None if content is None else json.dumps(body)
        if content and self.chance.random() < 0.02:
            text = self.pick("", "{", "null", "[]", '"x"', "3", '{"a": 1,}', "nope")
        return method, path, text, headers, kind

    def usual_sort(self, operation):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        return self.schema(content["schema"]).get("properties", {}).get("sort", {}).get("default") if content else None

    def broken(self, body):
        places = []

        def walk(value, depth):
            if isinstance(value, dict):
                places.append((value, None))
                for key in value:
                    places.append((value, key))
                    walk(value[key], depth + 1)
            elif isinstance(value, list):
                for index in range(len(value)):
                    places.append((value, index))
                    walk(value[index], depth + 1)

        walk(body, 0)
        if not places:
            return self.junk()
        where, key = self.chance.choice(places)
        if key is None:
            where[self.pick("unknown", "id", "created", "extra_1")] = self.junk()
        elif isinstance(where, dict) and self.chance.random() < 0.3:
            del where[key]
        else:
            where[key] = self.junk()
        return body

    def junk(self):
        # A copy: a body that is broken twice would otherwise end up inside of itself.
        return copy.deepcopy(self.chance.choice(JUNK))


def moments(text):
    """Whether the text is a moment of now: other moments are compared as they are."""
    if len(text) < 19 or text[4:5] != "-" or text[10:11] not in ("T", " "):
        return False
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return abs(moment - datetime.now(timezone.utc)) < timedelta(hours=26)


def in_utc(text):
    """The reference keeps the offset of a moment inside of JSON columns; it is the same moment."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z") if moment.tzinfo else text


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")


class Plain:
    """Replaces what two servers cannot have in common."""

    def __init__(self, server, sent):
        self.tokens = {this: token for token, this in server.ids.items()}
        self.sent = sent
        self.seen = {}

    def text(self, text):
        def identity(found):
            this = found[0]
            if this in self.tokens:
                return self.tokens[this]
            return this if this in self.sent else "<id>"

        text = UUID.sub(identity, text)
        return STAMP.sub(lambda found: "<now>" if moments(found[0]) else in_utc(found[0]), text)

    def value(self, value, key=""):
        if isinstance(value, dict):
            if value.get("is_protected") is True:
                value = {**value, **dict.fromkeys(("documentation_url", "code_example", "description", "logo_url"), "<own words>")}
            if value.get("deployment_id") and isinstance(value.get("tags"), list):
                # Those of a deployment and those of its run, put together in a set.
                value = {**value, "tags": sorted(value["tags"], key=str)}
            return {self.text(name): self.value(inner, name) for name, inner in value.items()}
        if isinstance(value, list) and key in SETS:
            return sorted((self.value(inner, key) for inner in value), key=str)
        if isinstance(value, list):
            return [self.value(inner, key) for inner in value]
        if isinstance(value, str):
            if key in ("name", "task_run_name", "flow_run_name") and re.fullmatch(r"[a-z]+-[a-z]+", value):
                return "<generated>"
            return self.text(value)
        if key in SECONDS and isinstance(value, (int, float)):
            return "<seconds>"
        return value


def differences(one, other, at=""):
    """Where two bodies differ, as (path, reference, candidate)."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from differences(one.get(key, "<absent>"), other.get(key, "<absent>"), f"{at}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other)):
            yield from differences(left, right, f"{at}[]")
    elif type(one) is not type(other) or one != other:
        yield at, one, other


def answer(server, response, path, sent):
    status, headers, text = response
    try:
        body = json.loads(text) if text else None
    except ValueError:
        body = text.decode(errors="replace")
    plain = Plain(server, sent)
    seen = {name: headers[name] for name in HEADERS if name in headers}
    if "location" in seen:
        seen["location"] = re.sub(r"^https?://[^/]+", "", seen["location"])
    if "content-disposition" in seen:
        seen["content-disposition"] = re.sub(r"''[a-z]+-[a-z]+-logs", "''<generated>-logs", seen["content-disposition"])
    if "retry-after" in seen:
        seen["retry-after"] = "<seconds>"
    if path.split("?")[0].endswith("/lateness") and isinstance(body, float):
        body = "<seconds>"
    return {"status": status, "headers": plain.value(seen), "body": plain.value(body)}, body


SORTED_BY = re.compile(r"(\w+)_(ASC|DESC)")


def in_order(sort, bodies):
    """Whether both lists are in the order that was asked for: items of the same rank may come in any."""
    found = SORTED_BY.fullmatch(sort)
    if not found:
        return False
    places = []
    for body in bodies:
        items = items_of(body)
        key = found[1].lower()
        if not isinstance(items, list) or not all(isinstance(item, dict) and key in item for item in items):
            return False
        ranks = [item[key] for item in items]
        some = [rank for rank in ranks if rank is not None]
        if some != sorted(some, reverse=found[2] == "DESC"):
            return False
        # All that have none come first, or last.
        without = [at for at, rank in enumerate(ranks) if rank is None]
        places.append(None if not some or not without else without[0] == 0)
        if without and without[-1] - without[0] + 1 != len(without):
            return False
    return places[0] == places[1]


def sort_of(text, usual):
    """The order that is asked for, or else the usual one of the operation, which may have none."""
    try:
        sent = json.loads(text or "null")
    except ValueError:
        return None
    sort = sent.get("sort", usual) if isinstance(sent, dict) else usual
    return sort if isinstance(sort, str) else None


def unordered(value):
    """Lists of objects that are sorted by chance, by their text."""
    if isinstance(value, list):
        return sorted((unordered(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    if isinstance(value, dict):
        return {key: unordered(inner) for key, inner in value.items()}
    return value


def learn(maker, servers, template, kind, bodies):
    """Takes the ids of what was made, or found, under one token."""

    def take(kind, one, other):
        if not (isinstance(one, str) and isinstance(other, str)):
            return
        if one in servers[0].ids.values() or other in servers[1].ids.values():
            return
        token = f"<{kind} {len(servers[0].ids)}>"
        servers[0].ids[token], servers[1].ids[token] = one, other
        maker.known[kind].append(token)

    one, other = bodies
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) == 1:
            learn(maker, servers, template, kind, (one[0], other[0]))
        return
    if template.endswith(("/queues", "/queues/{name}")):
        kind = "work_queue"
    elif template.endswith("/create_flow_run"):
        kind = "flow_run"
    elif template.endswith("/schedules"):
        kind = "schedule"
    if "id" in one and "id" in other:
        take(kind, one["id"], other["id"])
    if "lease_id" in one and "lease_id" in other:
        take("lease", one["lease_id"], other["lease_id"])
    for name, kind in REFERS.items():
        if name in one and name in other:
            take(kind, one[name], other[name])
    for name in ("state", "state_id"):
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            take("state", left.get("id"), right.get("id"))
        elif left and right:
            take("state", left, right)
    for name in ("schedules",):
        for left, right in zip(one.get(name) or [], other.get(name) or []):
            take("schedule", left.get("id"), right.get("id"))


# The objects that paths are about, as they are deleted.
ABOUT = [
    re.compile(r"(/(?:flows|flow_runs|task_runs|deployments|saved_searches|block_types|block_documents|block_schemas|work_queues|artifacts|variables|automations|concurrency_limits)/[0-9a-f-]{36})"),
    re.compile(r"(/(?:variables/name|concurrency_limits/tag|v2/concurrency_limits|work_pools)/[^/?]+)"),
]  # fmt: skip

# Below what else than their own path objects are found by their ids.
MADE_AT = {"/create_flow_run": "/flow_runs/", "/queues": "/work_queues/"}


def part(server, template, path, text, response, body, headers):
    """Deletes on one server what a write was about: what it made, and what its path or its names lead to."""
    gone = []
    try:
        sent = json.loads(text or "null")
    except ValueError:
        sent = None
    if isinstance(body, dict) and isinstance(body.get("id"), str) and response["status"] < 300:
        if template == "/block_types/":
            # The reference answers with another one of the same name. (No path leads to an empty slug.)
            wanted = json.dumps({"block_types": {"slug": {"any_": [sent["slug"]]}}})
            made = json.loads(server.send("POST", "/block_types/filter", wanted, headers)[2])
            body = made[0] if made else body
        made_at = next((place for end, place in MADE_AT.items() if template.endswith(end)), template)
        if made_at.endswith("/"):
            gone.append(made_at + body["id"])
    if isinstance(body, dict) and body.get("lease_id"):
        server.send("POST", "/v2/concurrency_limits/decrement-with-lease", json.dumps({"lease_id": body["lease_id"]}), headers)
    gone += [found[1] for found in (about.match(path) for about in ABOUT) if found]
    if isinstance(sent, dict) and template.endswith("crement"):
        names = [name for name in sent.get("names") or [] if isinstance(name, str)]
        names_at = "/concurrency_limits/tag/" if not template.startswith("/v2") else "/v2/concurrency_limits/"
        gone += [names_at + urllib.parse.quote(name, safe="") for name in names]
    # One server may have failed where the other has made, or changed, what goes by this name.
    for key, at in (("name", "/work_pools/"), ("tag", "/concurrency_limits/tag/")):
        if isinstance(sent, dict) and template in ("/work_pools/", "/concurrency_limits/") and at.startswith(template) and isinstance(sent.get(key), str):
            gone.append(at + urllib.parse.quote(sent[key], safe=""))
    if isinstance(sent, dict) and "/bulk_" in template:
        kind = template.split("/")[1]
        # A filter may match more than it names.
        gone += [f"/{kind}/{this['flow_run_id']}" for this in (body or {}).get("results") or [] if isinstance(this, dict) and this.get("flow_run_id")]
        gone += [f"/{kind}/{this}" for this in re.findall(UUID, json.dumps(sent.get(kind) or {}))]
    for place in gone:
        server.send("DELETE", place, None, headers)
        if owner := re.match(r"/(flow|task)_runs/(.+)", place):
            # The data of its states.
            wanted = json.dumps({"artifacts": {f"{owner[1]}_run_id": {"any_": [owner[2]]}}})
            _, _, found = server.send("POST", "/artifacts/filter", wanted, headers)
            for artifact in json.loads(found):
                server.send("DELETE", f"/artifacts/{artifact['id']}", None, headers)


def group_of(label, what, found):
    """Differences that are likely to have one cause."""
    at, one, other = found[0]
    return label, what, at + (f" {one}/{other}" if at == ".status" else "")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--count", type=int, default=5000)
    arguments.add_argument("--only", default="", help="beginnings of paths, separated by commas")
    arguments.add_argument("--record", help="file to write each request to, with both answers, as lines of JSON")
    arguments.add_argument("--show", type=int, default=40, help="groups of differences that are printed")
    arguments.add_argument("reference")
    arguments.add_argument("candidate")
    given = arguments.parse_args()

    servers = [Server(given.reference), Server(given.candidate)]
    chance = random.Random(given.seed)
    document = json.loads(servers[0].send("GET", "/openapi.json", None, {})[2])
    prefix = servers[0].base
    maker = Maker(document, chance)
    operations = []
    for path, methods in document["paths"].items():
        template = path.removeprefix(prefix)
        if given.only and not template.startswith(tuple(given.only.split(","))):
            continue
        for method, operation in methods.items():
            operations.append((method.upper(), template, operation))
    makers = [one for one in operations if one[0] in ("POST", "PUT") and (one[1].endswith("/") or one[1].endswith(("/create_flow_run", "/queues", "/schedules", "increment-with-lease", "heartbeat")))]
    enders = [one for one in operations if one[0] == "DELETE" or "bulk_delete" in one[1]]
    others = [one for one in operations if one not in makers and one not in enders]

    record = open(given.record, "w") if given.record else None
    counts = collections.Counter()
    statuses = collections.Counter()
    groups = collections.defaultdict(list)
    try:
        for number in range(given.count):
            weighed = chance.random()
            choices = makers if makers and (weighed < 0.3 or number < 150) else enders if enders and weighed < 0.34 else others or operations
            method, template, operation = chance.choice(choices)
            method, path, text, headers, kind = maker.request(method, template, operation)
            read = method == "GET" or template.endswith(("/filter", "/count", "/paginate"))
            sort = sort_of(text, maker.usual_sort(operation))
            deadline = time.monotonic() + 2
            while True:
                answers, bodies = [], []
                for server in servers:
                    sent = None if text is None else server.resolve(text)
                    response = server.send(method, server.resolve(path), sent, headers)
                    one, body = answer(server, response, path, (sent or "") + server.resolve(path))
                    answers.append(one)
                    bodies.append(body)
                if unordered(answers[0]["body"]) == unordered(answers[1]["body"]) and (sort is None or in_order(sort, bodies)):
                    answers[1]["body"] = answers[0]["body"]
                found = list(differences(*answers))
                if not found or not read or time.monotonic() > deadline:
                    break
                # What is a part of a list, or differs again and again, does not wait for anything.
                label = f"{method} {template}"
                if same_but_for_order(label, sort, text, answers, bodies) or len(groups.get(group_of(label, "different", found), ())) > 1:
                    break
                time.sleep(0.2)
            if record:
                print(json.dumps({"number": number, "method": method, "path": path, "sent": text, "answers": answers, "equal": not found}), file=record, flush=True)
            counts["requests"] += 1
            statuses[answers[0]["status"]] += 1
            if answers[1]["status"] == 501:
                counts["not built"] += 1
                continue
            # Of answers that differ, one may be about another object.
            if not found and answers[0]["status"] < 300:
                learn(maker, servers, template, kind, bodies)
            if not found:
                counts["equal"] += 1
                continue
            label = f"{method} {template}"
            if all(re.search(r"exception_detail\[\]\.(msg|ctx)", at) for at, *_ in found):
                counts["equal but for words"] += 1
                groups[group_of(label, "words", found)].append((number, path, text, found, headers))
                continue
            failed = answers[0]["status"] in (500, 503) and answers[1]["status"] < 500
            refused = refused_otherwise(text, headers, answers)
            if not read and any(one["status"] < 300 for one in answers):
                for server, one, body in zip(servers, answers, bodies):
                    part(server, template, server.resolve(path), text and server.resolve(text), one, body, headers)
            reason = FAILS if failed else refused or next((why for what, where, why in EXPLAINED if re.fullmatch(what, label) and all(re.search(where, f"{at}={one}") for at, one, _ in found)), None)
            reason = reason or same_but_for_order(label, sort, text, answers, bodies)
            # What the two lists have, and not what chance has put at the same place.
            found = list(differences(*(unordered(one) for one in answers))) or found
            counts["explained" if reason else "different"] += 1
            if reason:
                counts[f"explained: {reason}"] += 1
            else:
                groups[group_of(label, "different", found)].append((number, path, text, found, headers))
    except KeyboardInterrupt:
        print("interrupted")

    # Those that came first first: what follows may be their trace.
    shown = sorted(groups.items(), key=lambda group: (group[0][1] == "words", group[1][0][0]))
    for (label, what, at), cases in shown[: given.show]:
        number, path, text, found, headers = cases[0]
        print(f"--- {len(cases)} x {label} {what}{at}, first at {number}")
        print(f"  {path} {(text or '')[:600]} {headers['x-prefect-api-version']}")
        for at, one, other in found[:6]:
            print(f"    {at}\n      reference {json.dumps(one)[:500]}\n      candidate {json.dumps(other)[:500]}")
    if len(shown) > given.show:
        print(f"... and {len(shown) - given.show} more groups")
    print(f"seed {given.seed}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    print("answers of the reference: " + ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())))
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
