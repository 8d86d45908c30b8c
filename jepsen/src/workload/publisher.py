"""Streams events through the published Prefect client until its standard input ends, and says what was confirmed.

Usage: publisher.py NAME PER_SECOND

The client keeps an event until a pong tells that it was committed, and resends it after a reconnect. Prints lines of JSON:
`{"sent": [ids]}` before the client is given events, `{"confirmed": [ids]}` when it has let go of them, or when the server
has answered the close frame that came after them.
"""

import asyncio
import json
import sys

from prefect.events import Event
from prefect.events.clients import PrefectEventsClient

# Events that the client is given at a time, and between two of its checkpoints.
BATCH = 50


def say(word: str, ids) -> None:
    if ids:
        print(json.dumps({word: [str(id) for id in ids]}), flush=True)


async def stopped() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main(name: str, per_second: float) -> None:
    stop = asyncio.create_task(stopped())
    client = PrefectEventsClient(checkpoint_every=BATCH, checkpoint_interval=1.0)
    pending = []
    try:
        async with client:
            while not stop.done():
                batch = [Event(event=name, resource={"prefect.resource.id": "jepsen.published-client"}) for _ in range(BATCH)]
                say("sent", [event.id for event in batch])
                for event in batch:
                    await client.emit(event)
                pending += [event.id for event in batch]
                held = {event.id for event in client._unconfirmed_events}
                say("confirmed", [id for id in pending if id not in held])
                pending = [id for id in pending if id in held]
                await asyncio.wait([stop], timeout=BATCH / per_second)
            socket = client._websocket
    finally:
        stop.cancel()
    received = socket.protocol.close_rcvd if socket is not None else None
    if received is not None and received.code == 1000:
        say("confirmed", pending)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
