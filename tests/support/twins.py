"""Another client's look at a plant's twins, and a machine that obeys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.ports import BusMessage
from gemel.twin.state import Twin, from_json
from gemel.wire import topics

SITE, COME_S = "north", 20
START_MS = 1_700_000_000_000


class Ear:
    """Every message that came on one filter, in order."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []
        self._news = asyncio.Event()

    async def hear(self, message: BusMessage) -> None:
        self.messages.append(message)
        self._news.set()

    async def first(self, holds: Callable[[BusMessage], bool] = lambda _: True) -> BusMessage:
        """The first that holds, come or to come."""
        seen = 0
        async with asyncio.timeout(COME_S):
            while True:
                for message in self.messages[seen:]:
                    if holds(message):
                        return message
                seen = len(self.messages)
                self._news.clear()
                await self._news.wait()

    @property
    def documents(self) -> list[Any]:
        return [json.loads(message.payload) for message in self.messages]


class Office:
    """A person at the broker who watches one machine and asks things of it."""

    def __init__(self, bus: MqttBus, asset: str) -> None:
        self.bus, self.asset = bus, asset
        self.states, self.deltas, self.events, self.answers, self.schemas = Ear(), Ear(), Ear(), Ear(), Ear()

    async def listen(self) -> None:
        of = (SITE, self.asset)
        await self.bus.subscribe(topics.twin_state(*of), self.states.hear)
        await self.bus.subscribe(topics.twin_delta(*of), self.deltas.hear, qos=0)
        await self.bus.subscribe(topics.twin_event(*of), self.events.hear)
        await self.bus.subscribe(topics.twin_schema(*of), self.schemas.hear)
        await self.bus.subscribe(topics.desired_answer(*of, "office"), self.answers.hear)

    async def twin(self, holds: Callable[[Twin], bool]) -> Twin:
        """The first published state that holds."""
        return from_json((await self.states.first(lambda m: holds(from_json(m.payload)))).payload)

    async def ask(self, correlation: bytes = b"mark", response_topic: str = "", **request: Any) -> None:
        """Send a request; its answer comes to `answers`."""
        await self.bus.publish(
            topics.desired_set(SITE, self.asset),
            json.dumps(request).encode(),
            expiry_s=60,
            response_topic=response_topic or topics.desired_answer(SITE, self.asset, "office"),
            correlation=correlation,
        )

    async def answer(self, id_: str) -> dict[str, Any]:
        """The answer to one request."""
        message = await self.answers.first(lambda m: json.loads(m.payload)["id"] == id_)
        answer: dict[str, Any] = json.loads(message.payload)
        return answer


class Machine:
    """Takes commands on a topic and reports what it was told, or something else."""

    def __init__(self, bus: MqttBus, asset: str) -> None:
        self._bus, self._asset, self._second = bus, asset, 0
        self.commands = Ear()
        self.obeys: Callable[[int], bool] = lambda _: True  # by the number of the command, from 1

    async def listen(self) -> None:
        await self._bus.subscribe(f"commands/{self._asset}/#", self.obey)

    async def obey(self, message: BusMessage) -> None:
        await self.commands.hear(message)
        if self.obeys(len(self.commands.messages)):
            await self.report(SE=json.loads(message.payload)["set"])

    async def report(self, **values: float) -> None:
        """One message of the sensors, a second later than the one before."""
        self._second += 1
        payload = json.dumps({"time": START_MS + self._second * 1000, **values}).encode()
        await self._bus.publish(f"plant/{self._asset}/sensors", payload)


@asynccontextmanager
async def office_and_machine(url: str, asset: str) -> AsyncIterator[tuple[Office, Machine]]:
    """Both connected and listening."""
    async with AsyncExitStack() as stack:
        office = Office(await stack.enter_async_context(MqttBus(BusSettings(url, "office"))), asset)
        machine = Machine(await stack.enter_async_context(MqttBus(BusSettings(url, "machine"))), asset)
        await office.listen()
        await machine.listen()
        yield office, machine
