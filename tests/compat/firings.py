"""The same automations and events to a Praetor and to a Python server; the same firings?

    firings.py --reference http://127.0.0.1:14200/api --praetor http://127.0.0.1:4200/api \
        [--seed 1] [--automations 200] [--events 20000] [--settle 180]

Everything follows from the seed: automations of every kind, and events that come out of order (a follower before what it
follows), twice, and late. Compared is the number of firings of each automation for each triggering event and labels.
Exit status 0 where there is no difference.

The Python server evaluates two events at a time (the memory broker's consumers), so that the order in which events meet
a trigger is not quite that of the stream. And an event that concerns several triggers of one automation meets them in the
order of a set of their random ids, which decides where it completes a compound or a sequence; Praetor takes them as the
automation lists them. `--one-at-a-time DIR` writes a `sitecustomize.py` there which, put on the server's PYTHONPATH, has
it evaluate one event after another, and the triggers of each in the order of the list. Only then is an exact comparison
meaningful. Give it a PostgreSQL database: with SQLite it drops events while its database is locked.

Both servers also delete buckets whose span ended a minute ago, with what was counted in them, every five seconds of the
clock. Which events come before such a sweep and which after is different in each run, of the same server too. So give
both PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER=P10D, and nothing is swept while they are compared. Both need empty
databases: automations of an earlier run would fire too. And the Python server drops events, silently for who sent them,
once 10,000 of them wait: `--pause` gives it time.
"""

import argparse
import collections
import datetime
import json
import pathlib
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

# Automations come in groups of this size, each with its own events, so that an event concerns but a few of them.
GROUP = 5
KINDS = ["tick", "tock", "lamp.on", "lamp.off", "door.open", "door.close", "job.begin", "job.end", "noise"]
COLORS = ["red", "green", "blue"]
ROOMS = ["kitchen", "hall", "cellar"]

ONE_AT_A_TIME = """
import prefect.server.utilities.messaging.memory as memory
names = memory.Consumer.__init__.__code__.co_varnames[: memory.Consumer.__init__.__code__.co_argcount]
defaults = list(memory.Consumer.__init__.__defaults__)
defaults[names.index("concurrency") - (len(names) - len(defaults))] = 1
memory.Consumer.__init__.__defaults__ = tuple(defaults)

import prefect.server.events.triggers as evaluation
interested = evaluation.find_interested_triggers
def in_order(event):
    place = {trigger: number for number, trigger in enumerate(evaluation.triggers)}
    return sorted(interested(event), key=lambda trigger: place[trigger.id])
evaluation.find_interested_triggers = in_order
"""


def call(base, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method, headers={"content-type": "application/json"})
    for attempt in range(8):
        try:
            with urllib.request.urlopen(request, timeout=900) as response:
                text = response.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or attempt == 7:
                raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()[:500]}")
            time.sleep(0.5 * (attempt + 1))


def event_trigger(rng, group):
    trigger = {"type": "event", "posture": "Reactive"}
    names = rng.sample(KINDS, rng.randint(1, 2))
    if rng.random() < 0.3:
        names[0] = rng.choice(["lamp.*", "door.*", "t?ck", "*"])
    trigger["expect"] = [f"g{group}.{name}" for name in names]
    if rng.random() < 0.2:
        trigger["after"] = [f"g{group}.{rng.choice(KINDS)}"]
    if rng.random() < 0.5:
        color = rng.choice(COLORS)
        trigger["match"] = {"color": rng.choice([color, f"!{color}", [color, rng.choice(COLORS)], f"{color[0]}*"])}
    if rng.random() < 0.3:
        related = {"prefect.resource.role": "room", "room": rng.choice([*ROOMS, f"!{rng.choice(ROOMS)}"])}
        trigger["match_related"] = rng.choice([related, [related], [{"prefect.resource.role": "room"}, related]])
    if rng.random() < 0.4:
        labels = ["prefect.resource.id", "color", "related:room:room", "missing"]
        trigger["for_each"] = rng.sample(labels, rng.randint(1, 2))
    trigger["threshold"] = rng.randint(1, 4)
    trigger["within"] = rng.choice([0, 5, 20, 60]) if "after" not in trigger else rng.choice([20, 60])
    return trigger


def any_trigger(rng, group, depth=0):
    kind = rng.random()
    if depth >= 2 or kind < 0.65:
        return event_trigger(rng, group)
    triggers = [any_trigger(rng, group, depth + 1) for _ in range(rng.randint(2, 3))]
    # By the server's clock: either for ever, or longer than any run.
    within = rng.choice([None, 100_000])
    if kind < 0.85:
        require = rng.choice(["any", "all", rng.randint(1, len(triggers))])
        return {"type": "compound", "triggers": triggers, "within": within, "require": require}
    return {"type": "sequence", "triggers": triggers, "within": within}


def proactive_trigger(rng, number):
    return {
        "type": "event", "posture": "Proactive", "after": [f"watch-{number}.begin"], "expect": [f"watch-{number}.end"],
        "for_each": ["prefect.resource.id"], "threshold": 1, "within": rng.choice([10, 15]),
    }


def automations(rng, count):
    proactive = count // 20
    for number in range(count):
        trigger = proactive_trigger(rng, number) if number < proactive else any_trigger(rng, number // GROUP)
        yield {"name": f"auto-{number:04}", "trigger": trigger, "actions": [{"type": "do-nothing"}]}


def events(rng, count, groups, proactive, now):
    """The stream, in the order in which it is sent."""
    start = now - datetime.timedelta(seconds=120)
    stream, recent = [], []
    for number in range(count):
        occurred = start + datetime.timedelta(seconds=120 * number / count)
        if rng.random() < 0.03:
            occurred -= datetime.timedelta(seconds=rng.choice([10, 100, 1000, 5000]))
        event = {
            "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "occurred": occurred.isoformat(),
            "event": f"g{rng.randrange(groups)}.{rng.choice(KINDS)}",
            "resource": {"prefect.resource.id": f"thing.{rng.randint(1, 20)}", "color": rng.choice(COLORS)},
            "related": [{"prefect.resource.id": f"room.{room}", "prefect.resource.role": "room", "room": room} for room in rng.sample(ROOMS, rng.randint(0, 2))],
            "payload": {"number": number},
        }
        if recent and rng.random() < 0.2:
            event["follows"] = rng.choice(recent)
        recent = [*recent[-20:], event["id"]]
        stream.append(event)
    # Out of order: some events are sent later than those which follow them.
    for _ in range(count // 20):
        at = rng.randrange(len(stream))
        moved = stream.pop(at)
        stream.insert(min(len(stream), at + rng.randint(1, 60)), moved)
    # Twice.
    for _ in range(count // 50):
        at = rng.randrange(len(stream))
        stream.insert(min(len(stream), at + rng.randint(1, 200)), stream[at])
    # What is watched begins; half of it ends. All at the end, so that its spans run by the clock.
    for number in range(proactive):
        for resource in range(4):
            for word in ["begin", "end"][: 1 + resource % 2]:
                stream.append({
                    "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                    "occurred": now.isoformat(),
                    "event": f"watch-{number}.{word}",
                    "resource": {"prefect.resource.id": f"watched.{resource}"},
                    "related": [], "payload": {},
                })
    return stream


def firings(base, since):
    """Of each automation: how often it fired for which event and labels."""
    found = collections.Counter()
    body = {"limit": 50, "filter": {"occurred": {"since": since, "until": "2100-01-01T00:00:00Z"}, "event": {"name": ["prefect.automation.triggered"]}, "order": "ASC"}}
    page = call(base, "POST", "/events/filter", body)
    while True:
        for event in page["events"]:
            payload = event["payload"]
            triggering = (payload["triggering_event"] or {}).get("id")
            labels = json.dumps(payload["triggering_labels"], sort_keys=True)
            found[event["resource"]["prefect.resource.name"], triggering, labels] += 1
        if not page["next_page"]:
            return found
        path = "/events/filter/next" + page["next_page"].split("/events/filter/next", 1)[1]
        page = call(base, "GET", path)


def total(base, since, event):
    """How many events of this filter there are."""
    body = {"limit": 1, "filter": {"occurred": {"since": since, "until": "2100-01-01T00:00:00Z"}, **event}}
    return call(base, "POST", "/events/filter", body)["total"]


def settled(base, since, last, within):
    """Waits until the last event is in the database, and then until no more firings come for a minute."""
    end = time.monotonic() + within
    while time.monotonic() < end and not total(base, "2020-01-01T00:00:00Z", {"id": {"id": [last]}}):
        time.sleep(3)
    before, calm = -1, 0
    while time.monotonic() < end and calm < 20:
        time.sleep(3)
        now = total(base, since, {"event": {"name": ["prefect.automation.triggered"]}})
        calm = calm + 1 if now == before else 0
        before = now
    return before


def run(name, base, arguments):
    """Makes the automations, sends the events, and gives what fired."""
    since = datetime.datetime.now(datetime.timezone.utc).isoformat()
    for automation in automations(random.Random(arguments.seed), arguments.automations):
        call(base, "POST", "/automations/", automation)
    time.sleep(10)
    now = datetime.datetime.now(datetime.timezone.utc)
    groups, proactive = arguments.automations // GROUP, arguments.automations // 20
    stream = events(random.Random(arguments.seed + 1), arguments.events, groups, proactive, now)
    began = time.monotonic()
    for at in range(0, len(stream), 100):
        call(base, "POST", "/events", stream[at : at + 100])
        time.sleep(arguments.pause)
    print(f"{name}: {len(stream)} events sent in {time.monotonic() - began:.1f} s", flush=True)
    began = time.monotonic()
    count = settled(base, since, stream[-1]["id"], arguments.settle)
    found = firings(base, since)
    of = len({key[0] for key in found})
    print(f"{name}: {count} firings of {of} automations, settled after {time.monotonic() - began:.0f} s", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference")
    parser.add_argument("--praetor")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--automations", type=int, default=200)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--settle", type=float, default=1800, help="seconds to wait for the firings to end, at most")
    parser.add_argument("--pause", type=float, default=0, help="seconds between two batches of events")
    parser.add_argument("--save", metavar="FILE", help="keep what the reference fired, of a run without --praetor")
    parser.add_argument("--load", metavar="FILE", help="take what the reference fired from there")
    parser.add_argument("--one-at-a-time", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.one_at_a_time:
        pathlib.Path(arguments.one_at_a_time, "sitecustomize.py").write_text(ONE_AT_A_TIME)
        return 0
    found = {}
    if arguments.load:
        rows = json.loads(pathlib.Path(arguments.load).read_text())
        found["reference"] = collections.Counter({tuple(key): count for key, count in rows})
    for name in ("reference", "praetor"):
        if base := getattr(arguments, name):
            found[name] = run(name, base, arguments)
    if arguments.save:
        pathlib.Path(arguments.save).write_text(json.dumps([[list(key), count] for key, count in found["reference"].items()]))
    if len(found) < 2:
        return 0
    missing, extra = found["reference"] - found["praetor"], found["praetor"] - found["reference"]
    same = sum((found["reference"] & found["praetor"]).values())
    print(f"same {same}, only the reference {sum(missing.values())}, only praetor {sum(extra.values())}")
    shown = {automation["name"]: automation["trigger"] for automation in automations(random.Random(arguments.seed), arguments.automations)}
    for word, difference in (("only the reference", missing), ("only praetor", extra)):
        by = collections.Counter()
        for (name, _, _), count in difference.items():
            by[name] += count
        for name, count in by.most_common(10):
            example = next(key for key in difference if key[0] == name)
            print(f"  {word}: {name} {count} times, such as {example[1:]}: {json.dumps(shown[name])[:600]}")
    return 1 if missing or extra else 0


if __name__ == "__main__":
    sys.exit(main())
