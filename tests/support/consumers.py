"""Somebody else's client of the broker: it subscribes each time its link is made, and makes it again when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiomqtt

from gemel.adapters.bus_settings import BusSettings

AGAIN_S = 0.1
WAIT_S = 20.0


@dataclass(frozen=True)
class Heard:
    """One message, and when it came (monotonic)."""

    at_s: float
    topic: str
    payload: bytes
    retained: bool


@dataclass
class Consumer:
    """What it has heard so far waits in a queue. `links` counts how often the broker took it in."""

    settings: BusSettings
    filters: Sequence[str]
    links: int = 0
    _heard: asyncio.Queue[Heard] = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        """For ever. A subscription that the broker refuses is none: the link stands without it."""
        host, port, _ = self.settings.address
        while True:
            try:
                async with aiomqtt.Client(
                    host,
                    port,
                    identifier=self.settings.client_id,
                    tls_context=self.settings.tls_context(),
                    protocol=aiomqtt.ProtocolVersion.V5,
                ) as client:
                    for topic_filter in self.filters:
                        await client.subscribe(topic_filter, qos=1)
                    self.links += 1
                    async for message in client.messages:
                        said = Heard(time.monotonic(), str(message.topic), bytes(message.payload), message.retain)
                        self._heard.put_nowait(said)
            except aiomqtt.MqttError:
                await asyncio.sleep(AGAIN_S)

    async def next(self) -> Heard:
        """The next message."""
        async with asyncio.timeout(WAIT_S):
            return await self._heard.get()

    async def until(self, payload: bytes) -> set[tuple[str, bytes]]:
        """Everything up to a message that says `payload`, without it."""
        heard: set[tuple[str, bytes]] = set()
        while (said := await self.next()).payload != payload:
            heard.add((said.topic, said.payload))
        return heard

    def drain(self) -> list[Heard]:
        """All that has come and was not asked for."""
        return [self._heard.get_nowait() for _ in range(self._heard.qsize())]


@asynccontextmanager
async def consuming(settings: BusSettings, *filters: str) -> AsyncIterator[Consumer]:
    """A consumer at work, once the broker has taken it in."""
    consumer = Consumer(settings, filters)
    work = asyncio.create_task(consumer.run())
    try:
        async with asyncio.timeout(WAIT_S):
            while not consumer.links:  # noqa: ASYNC110  a client tells it nowhere else
                await asyncio.sleep(0.01)
        yield consumer
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
