"""The plant's broker is away: the agent goes on over its own, and afterwards the history has no hole in it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.twinning.outbox import Outbox
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.adapters.sql_keep import Keep
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.learning.tasks.hydraulic import HEADS, INPUTS, task
from gemel.ports import BusMessage
from gemel.twin.alerts import AlertEvent
from gemel.twin.state import Twin, from_json
from gemel.wire import topics
from gemel.wire.tensors import to_bytes
from gemel.wire.types import sha256
from tests.support.brokers import embedded_broker
from tests.support.ports import free_port
from tests.support.services import Agent, Registry, running

START_MS = int(time.time()) * 1000 - 3_600_000  # an hour ago: the registry keeps what is young
AWAY = range(10, 80)  # seconds that are read while the plant's broker is away: more than a window
COME_S = 60
ALERTS = """
[[alert]]
id = "cold"
property = "SE"
below = 44  # until second 40

[[alert]]
id = "hot"
property = "SE"
above = 46  # from second 60 on
"""


class Plant:
    """The gateway's own broker with its sensors, and the plant's broker, which comes and goes."""

    def __init__(self, sensors: MqttBus) -> None:
        self._sensors = sensors

    async def read(self, seconds: range, seen: Callable[[int], Awaitable[object]]) -> None:
        """One message a second of source time, each once the one before was `seen`: then it is a revision's own."""
        for second in seconds:
            values = {column.name: 40.0 + second / 10 for column in INPUTS}
            document = {"time": START_MS + second * 1000, **values}
            await self._sensors.publish("plant/press-1/sensors", json.dumps(document).encode())
            await seen(second)
            if second == 59:
                found = {head.name: head.classes[0] for head in HEADS}
                inspection = {"time": START_MS + 60_000, **found}
                await self._sensors.publish("plant/press-1/inspection", json.dumps(inspection).encode())


class Dashboard:
    """Every live document of the twin, in order."""

    def __init__(self) -> None:
        self.twins: list[Twin] = []
        self._news = asyncio.Event()

    async def hear(self, message: BusMessage) -> None:
        self.twins.append(from_json(message.payload))
        self._news.set()

    async def until(self, second: int) -> Twin:
        async with asyncio.timeout(COME_S):
            while not self.twins or latest_second(self.twins[-1]) < second:
                self._news.clear()
                await self._news.wait()
        return self.twins[-1]


def latest_second(twin: Twin) -> int:
    return (twin.properties["SE"].source_time_ms - START_MS) // 1000 if "SE" in twin.properties else -1


class Waiting:
    """What waits in an agent's outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def until(self, second: int) -> None:
        await self._until(lambda twin: latest_second(twin) >= second)

    async def until_judged(self) -> None:
        """It says what the model makes of the machine."""
        await self._until(lambda twin: bool(twin.health))

    async def _until(self, holds: Callable[[Twin], bool]) -> None:
        async with asyncio.timeout(COME_S):
            while (twin := await self._outbox.newest("press-1")) is None or not holds(twin):  # noqa: ASYNC110  as below
                await asyncio.sleep(0.005)


@asynccontextmanager
async def outbox_of(agent: Agent) -> AsyncIterator[Waiting]:
    async with Outbox(agent.state_dir / "outbox.sqlite", 10**6) as outbox:
        yield Waiting(outbox)


@asynccontextmanager
async def dashboard(url: str) -> AsyncIterator[Dashboard]:
    async with MqttBus(BusSettings(url, "dashboard")) as bus:
        heard = Dashboard()
        await bus.subscribe(topics.twin_state("north", "press-1"), heard.hear)
        yield heard


async def test_readings_windows_and_answers_go_on_and_history_is_complete_afterwards(tmp_path: Path) -> None:
    port = free_port()
    upstream = f"mqtt://127.0.0.1:{port}"
    registry = Registry(tmp_path, upstream)
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(embedded_broker())
        plant = Plant(await stack.enter_async_context(MqttBus(BusSettings(own, "plc"))))
        (tmp_path / "twin.toml").write_text(ALERTS)
        agent = Agent(tmp_path, upstream, "press-1", twin_file=str(tmp_path / "twin.toml"))
        agent.config.write_text(agent.config.read_text() + f'[sensors_bus]\nurl = "{own}"\n')
        await a_model(agent)
        async with embedded_broker(port):
            await stack.enter_async_context(running(registry))
            await stack.enter_async_context(running(agent))
            async with dashboard(upstream) as before:
                await plant.read(range(10), before.until)
        await not_linked(agent)
        away_ms = time.time_ns() // 1_000_000

        async with outbox_of(agent) as outbox:
            await plant.read(AWAY, outbox.until)
            await outbox.until_judged()
        await agent.stop()  # a gateway that is switched off meanwhile forgets nothing
        await agent.start()
        async with outbox_of(agent) as outbox:
            await plant.read(range(AWAY.stop, AWAY.stop + 5), outbox.until)
        back_ms = time.time_ns() // 1_000_000

        async with embedded_broker(port), dashboard(upstream) as after:  # it has forgotten who wanted to hear what
            twin = await after.until(AWAY.stop + 4)
            assert twin.health  # judged while nobody could hear it
            await stored(tmp_path, AWAY.stop + 5)
            await plant.read(range(AWAY.stop + 5, AWAY.stop + 10), after.until)
            await stored(tmp_path, AWAY.stop + 10)
            seconds = [latest_second(twin) for twin in after.twins]
            assert seconds == sorted(seconds)  # live state never goes back
            assert set(seconds).isdisjoint(range(AWAY.start, AWAY.stop + 4))  # and none of it is history
            versions = [twin.version for twin in before.twins + after.twins]
            assert versions == sorted(versions)
            await registry.stop()
            await agent.stop()

    async with Examples(agent.state_dir / "examples.sqlite", task, 100) as examples:
        assert await examples.count() == 1
    async with open_stores(f"sqlite:///{tmp_path}/registry/twins.sqlite", Keep()) as stores:
        assert await samples(stores) == list(range(AWAY.stop + 10))
        standing = await stores.twins.twin("north", "press-1")
        assert standing is not None
        assert latest_second(standing.twin) == AWAY.stop + 9
        late = await stores.twins.history("north", "press-1", from_ms=away_ms, to_ms=back_ms, limit=10_000)
        assert {latest_second(one.twin) for one in late} >= set(range(AWAY.start + 1, AWAY.stop + 4))
        assert any(one.twin.health and "hot" in one.twin.alerts for one in late)  # what was concluded, too
        then = await stores.twins.at_time("north", "press-1", back_ms)
        assert then is not None
        assert latest_second(then.twin) in (AWAY.stop + 3, AWAY.stop + 4)
        events = await stores.twins.events(site="north", asset="press-1", from_ms=0, to_ms=2**53, limit=100)
        told = [msgspec.json.decode(bytes(event.document), type=AlertEvent) for event in events]
        told.sort(key=lambda event: event.time_ms)
        assert [(event.alert, event.event) for event in told] == [
            ("cold", "raised"),
            ("cold", "cleared"),
            ("hot", "raised"),
        ]
        assert all(away_ms <= event.time_ms <= back_ms for event in told[1:])


async def a_model(agent: Agent) -> None:
    agent.state_dir.mkdir()
    model = to_bytes(task.initial_model(1))
    async with SqliteRecords(agent.state_dir / "records.sqlite") as records:
        await (await ModelInUse.load(records, agent.state_dir / "models")).install(3, sha256(model), model)


async def not_linked(agent: Agent) -> None:
    async with asyncio.timeout(COME_S):
        while "not linked" not in agent.log:  # noqa: ASYNC110  another process's log has no event here
            await asyncio.sleep(0.02)


async def stored(folder: Path, seconds: int) -> None:
    """Until the registry, linked again, has every second of history so far: what waited for it included."""
    async with asyncio.timeout(COME_S), open_stores(f"sqlite:///{folder}/registry/twins.sqlite", Keep()) as stores:
        while len(await samples(stores)) < seconds:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.2)


async def samples(stores: RegistryStores) -> list[int]:
    """The seconds whose readings the registry keeps."""
    kept = await stores.twins.samples("north", "press-1", "SE", from_ms=0, to_ms=2**53, limit=1000)
    return [(sample.time_ms - START_MS) // 1000 for sample in kept]
