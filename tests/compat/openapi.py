#!/usr/bin/env python3
"""Compares the OpenAPI document of Praetor with the one of the Python server.

    python tests/compat/openapi.py --api http://127.0.0.1:4200/api        # or --document FILE
    python tests/compat/openapi.py --api ... --reference http://127.0.0.1:4300/api

Without `--reference` the document is made by the `prefect` package of the python that runs this. Compared are: paths and
methods; parameters (place, name, whether required); bodies (media type, whether required, the names of all fields at any
depth, and which of them are required); successful answers (status, media type, the names of all fields at any depth).

A difference is one line. Those that `EXPLAINED` knows are counted by reason; any other one is printed, and so is a reason
that no difference needs any more. Either makes the exit code 1.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections import Counter

# What may differ: the whole line as a regular expression, and why.
EXPLAINED = [
    (r"\w+ /cluster/dead-letters\S*: only ours", "operations of our own, beside the reference's"),
    (
        r"(POST|PUT) \S+: answers 20[01], only ours|POST /artifacts/: answers 200, only theirs",
        "what is there already is answered with 200 and what is new with 201, by the reference too; its document has one of them",
    ),
    (
        r"POST /(automations/)?templates/validate: answers (200, only theirs|204, only ours)",
        "a valid template is answered with 204 by the reference too; its document has its framework's 200",
    ),
    (
        r"GET /flow_runs/\{id\}/(input/\{key\}|logs/download) answer: media type .*",
        "text, of the reference too; its document has its framework's JSON",
    ),
    (
        r"TaskRunCount in an answer: field (\{\}, only theirs|(completed|failed), only ours)",
        "the same two fields; the reference's document has any, with a number",
    ),
    (r"Settings in an answer: field \w+, only theirs", "the settings are the server's own, and described as any object"),
]


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


class Side:
    """One document, with the means to look into its schemas."""

    def __init__(self, document):
        self.document = document
        self.operations = dict(operations(document))

    def leaves(self, schemas, seen=()):
        """The schemas that are meant, without references and alternatives; and the name of a reference, if there is one."""
        found, names = [], []
        for schema in schemas:
            if schema is True:
                schema = {}
            nested = [key for key in ("anyOf", "oneOf", "allOf") if key in schema]
            inner = []
            if "$ref" in schema:
                name = schema["$ref"].rsplit("/", 1)[-1]
                if name not in seen:
                    inner, _ = self.leaves([self.document["components"]["schemas"][name]], (*seen, name))
                    names.append(name)
            for key in nested:
                more, inner_names = self.leaves(schema[key], seen)
                inner += more
                names += inner_names
            found += inner
            # What stands beside a reference or alternatives belongs to each of them.
            if "properties" in schema or not ("$ref" in schema or nested):
                found.append(schema)
        return found, names


def says_nothing(leaf):
    """Whether anything may be below: any value, any object, any list."""
    closed = ("properties", "enum", "const", "prefixItems")
    return leaf.get("type") in (None, "object", "array") and not any(key in leaf for key in closed) and not children([leaf])


def children(leaves):
    """What lies below: fields by name, items and values by a sign."""
    below = {}
    for leaf in leaves:
        for name, schema in leaf.get("properties", {}).items():
            below.setdefault(name, []).append(schema)
        if isinstance(leaf.get("items"), dict) and leaf["items"]:
            below.setdefault("[]", []).append(leaf["items"])
        for place, schema in enumerate(leaf.get("prefixItems", [])):
            below.setdefault(f"[{place}]", []).append(schema)
        if isinstance(leaf.get("additionalProperties"), dict) and leaf["additionalProperties"]:
            below.setdefault("{}", []).append(leaf["additionalProperties"])
    return below


def required(leaves):
    """The fields that are required whichever alternative is chosen."""
    objects = [set(leaf.get("required", ())) for leaf in leaves if "properties" in leaf]
    return set.intersection(*objects) if objects else set()


class Comparison:
    def __init__(self, theirs, ours):
        self.theirs, self.ours = Side(theirs), Side(ours)
        self.seen = set()
        self.compared = Counter()

    def run(self):
        for name in sorted(self.theirs.operations.keys() | self.ours.operations.keys()):
            their, our = self.theirs.operations.get(name), self.ours.operations.get(name)
            if their is None or our is None:
                yield f"{name}: only {'ours' if their is None else 'theirs'}"
                continue
            self.compared["operations"] += 1
            yield from self.parameters(name, their, our)
            yield from self.body(name, their.get("requestBody"), our.get("requestBody"))
            yield from self.answers(name, their["responses"], our["responses"])

    def parameters(self, name, their, our):
        def of(operation):
            return {f"{p['in']} {p['name']}": bool(p.get("required")) for p in operation.get("parameters", [])}

        their, our = of(their), of(our)
        self.compared["parameters"] += len(their)
        yield from only(f"{name}: parameter", their, our)
        for parameter in sorted(their.keys() & our.keys()):
            if their[parameter] != our[parameter]:
                yield f"{name}: parameter {parameter} is required only {'by us' if our[parameter] else 'by them'}"

    def body(self, name, their, our):
        if (their is None) != (our is None):
            yield f"{name}: body, only {'ours' if their is None else 'theirs'}"
        if their is None or our is None:
            return
        if bool(their.get("required")) != bool(our.get("required")):
            yield f"{name}: the body is required only {'by us' if our.get('required') else 'by them'}"
        yield from self.content(f"{name} body", their["content"], our["content"], required)

    def answers(self, name, their, our):
        their, our = ({status: answer for status, answer in side.items() if status.startswith("2")} for side in (their, our))
        yield from only(f"{name}: answers", their, our)
        for status in sorted(their.keys() & our.keys()):
            yield from self.content(f"{name} answer", their[status].get("content", {}), our[status].get("content", {}), None)

    def content(self, where, their, our, required):
        yield from only(f"{where}: media type", their, our)
        for kind in sorted(their.keys() & our.keys()):
            yield from self.fields(where, [their[kind].get("schema", {})], [our[kind].get("schema", {})], required)

    def fields(self, where, their, our, required):
        (their, names), (our, _) = self.theirs.leaves(their), self.ours.leaves(our)
        pair = (required is None, *(tuple(sorted({id(leaf) for leaf in side})) for side in (their, our)))
        if pair in self.seen:
            return
        self.seen.add(pair)
        if names:
            where = f"{'/'.join(names)} in {'a body' if required else 'an answer'}"
        their_below, our_below = children(their), children(our)
        # Where they say nothing, there is nothing to be equal to.
        if not their_below and any(says_nothing(leaf) for leaf in their):
            return
        self.compared["fields"] += len(their_below)
        yield from only(f"{where}: field", their_below, our_below)
        common = sorted(their_below.keys() & our_below.keys())
        if required:
            they, we = required(their), required(our)
            for field in common:
                if (field in they) != (field in we):
                    yield f"{where}: field {field} is required only {'by us' if field in we else 'by them'}"
        for field in common:
            yield from self.fields(f"{where}.{field}", their_below[field], our_below[field], required)


def only(what, their, our):
    for side, mine, other in (("theirs", their, our), ("ours", our, their)):
        for one in sorted(mine.keys() - other.keys()):
            yield f"{what} {one}, only {side}"


def reference_document():
    """Made by the package, in a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFECT_HOME"] = home
        from prefect.server.api.server import create_app

        return create_app().openapi()


def fetched(api):
    with urllib.request.urlopen(f"{api.rstrip('/')}/openapi.json") as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = parser.add_mutually_exclusive_group(required=True)
    ours.add_argument("--api", help="address of a Praetor server")
    ours.add_argument("--document", help="file with its document")
    parser.add_argument("--reference", help="address of a Python server")
    parser.add_argument("--explained", action="store_true", help="print the explained differences too")
    arguments = parser.parse_args()

    theirs = fetched(arguments.reference) if arguments.reference else reference_document()
    if arguments.api:
        ours = fetched(arguments.api)
    else:
        with open(arguments.document, encoding="utf-8") as file:
            ours = json.load(file)

    comparison = Comparison(theirs, ours)
    explained, unexplained = Counter(), []
    for difference in dict.fromkeys(comparison.run()):
        reason = next((reason for pattern, reason in EXPLAINED if re.fullmatch(pattern, difference)), None)
        if reason is None:
            unexplained.append(difference)
        else:
            explained[reason] += 1
            if arguments.explained:
                print(f"explained: {difference}")
    stale = [reason for _, reason in EXPLAINED if reason not in explained]

    for difference in unexplained:
        print(f"DIFFERENT: {difference}")
    for reason in stale:
        print(f"NO LONGER NEEDED: {reason}")
    for reason, count in explained.items():
        print(f"{count} explained: {reason}")
    counts = ", ".join(f"{count} {what}" for what, count in comparison.compared.items())
    print(f"compared {counts}: {sum(explained.values())} explained, {len(unexplained)} unexplained")
    sys.exit(1 if unexplained or stale else 0)


if __name__ == "__main__":
    main()
