"""Streams events through the published Prefect client and keeps book of what was confirmed.

Usage: publish.py COUNT PER_SECOND LEDGER [END]     ends before COUNT when there is a file END

A checkpoint of the client is confirmed when the pong for its ping is there; the client then forgets the events sent before
that ping, and resends all others after a reconnect. LEDGER gets one line per event id: `sent` when the client was first
given it, `confirmed` when the client forgot it, `closed` when the server answered the close frame after it. Prints a line
of JSON with every 500 events and one in the end.
"""

import asyncio
import json
import os
import sys
import time

from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from websockets.exceptions import ConcurrencyError


class Ledger:
    def __init__(self, path: str) -> None:
        self.file = open(path, "w", buffering=1 << 16)
        self.confirmed = 0

    def write(self, word: str, ids) -> None:
        self.file.writelines(f"{word} {id}\n" for id in ids)


class Client(PrefectEventsClient):
    """The client as published; only looks at what it forgets after a pong, and what it sends again."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.checkpoints = 0
        self.connections = 0
        self.resent = 0

    async def _reconnect(self) -> None:
        self.connections += 1
        if self.connections > 1:
            self.resent += len(self._unconfirmed_events)
        await super()._reconnect()

    async def _checkpoint(self) -> None:
        due = len(self._unconfirmed_events) >= self._checkpoint_every
        sent = [event.id for event in self._unconfirmed_events] if due else []
        await super()._checkpoint()
        self.confirm(sent)

    async def _force_checkpoint(self) -> None:
        sent = [event.id for event in self._unconfirmed_events]
        await super()._force_checkpoint()
        self.confirm(sent)

    def confirm(self, ids) -> None:
        if ids:
            self.checkpoints += 1
            self.ledger.confirmed += len(ids)
            self.ledger.write("confirmed", ids)


def event(number: int) -> Event:
    return Event(
        event="praetor.show.published",
        resource={"prefect.resource.id": f"praetor.show.{number}"},
        payload={"number": number, "filler": "x" * 700},
    )


def say(**what) -> None:
    print(json.dumps(what), flush=True)


async def main(count: int, per_second: float, path: str, end: str | None = None) -> None:
    ledger = Ledger(path)
    client = Client(ledger)
    begun = time.monotonic()
    slowest = 0.0
    sent = 0
    async with client:
        for number in range(count):
            if end is not None and os.path.exists(end):
                break
            ahead = number / per_second - (time.monotonic() - begun)
            if ahead > 0.01:
                await asyncio.sleep(ahead)
            one = event(number)
            ledger.write("sent", [one.id])
            before = time.monotonic()
            try:
                await client.emit(one)
            except ConcurrencyError:
                # The client's own checkpoint every 30 s was just reconnecting too, and one of the two gave up before it sent.
                await client.emit(one)
            slowest = max(slowest, time.monotonic() - before)
            sent = number + 1
            if sent % 500 == 0:
                say(sent=sent, confirmed=ledger.confirmed, seconds=round(time.monotonic() - begun, 2))
        last, socket = list(client._unconfirmed_events), client._websocket
    closed = socket is not None and socket.protocol.close_rcvd is not None and socket.protocol.close_rcvd.code == 1000
    if closed:
        ledger.write("closed", [one.id for one in last])
    ledger.file.close()
    say(
        done=True,
        sent=sent,
        confirmed=ledger.confirmed,
        closed=len(last) if closed else 0,
        unconfirmed=0 if closed else len(last),
        checkpoints=client.checkpoints,
        connections=client.connections,
        resent=client.resent,
        slowest_emit_seconds=round(slowest, 2),
        seconds=round(time.monotonic() - begun, 2),
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:5]))
