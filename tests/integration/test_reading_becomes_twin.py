"""A reading becomes a retained twin, through real processes and a real broker."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge_agent.learning.model_in_use import ModelInUse
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.learning.tasks.hydraulic import HEADS, INPUTS, task
from gemel.ports import BusMessage
from gemel.twin.agent import AgentStatus, status_from_json
from gemel.twin.state import Quality, Twin, blank, from_json, to_json
from gemel.wire import topics
from gemel.wire.tensors import to_bytes
from gemel.wire.types import sha256
from tests.support.brokers import embedded_broker
from tests.support.services import REPOSITORY, Agent, Registry, running, scrape

START_MS = 1_700_000_000_000
COME_S = 60


class Listener:
    """Another client: the latest message on every topic that it hears."""

    def __init__(self) -> None:
        self.latest: dict[str, BusMessage] = {}
        self._news = asyncio.Event()

    async def hear(self, message: BusMessage) -> None:
        self.latest[message.topic] = message
        self._news.set()

    async def until(self, topic: str, holds: Callable[[bytes], bool]) -> BusMessage:
        """The first message on `topic` that `holds`."""
        async with asyncio.timeout(COME_S):
            while topic not in self.latest or not holds(self.latest[topic].payload):
                self._news.clear()
                await self._news.wait()
        return self.latest[topic]

    async def twin(self, asset: str, holds: Callable[[Twin], bool] = lambda _: True) -> Twin:
        message = await self.until(topics.twin_state("north", asset), lambda data: holds(from_json(data)))
        return from_json(message.payload)

    async def status(self, asset: str, holds: Callable[[AgentStatus], bool]) -> AgentStatus:
        topic = topics.agent("north", f"{asset}-gateway", "status")
        return status_from_json((await self.until(topic, lambda data: holds(status_from_json(data)))).payload)


class Plant:
    """A broker, a sensor's connection and a listener's."""

    def __init__(self, url: str, sensors: MqttBus, listener: Listener) -> None:
        self.url, self.sensors, self.listener = url, sensors, listener

    async def read(self, asset: str, second: int, value: float, **other: Any) -> None:
        """One message with all sensors."""
        values = {column.name: value for column in INPUTS} | other
        await self.say(f"plant/{asset}/sensors", json.dumps({"time": START_MS + second * 1000, **values}).encode())

    async def say(self, topic: str, payload: bytes) -> None:
        await self.sensors.publish(topic, payload)


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_broker())
        sensors = await stack.enter_async_context(MqttBus(BusSettings(url, "plc")))
        listener = await stack.enter_async_context(listening(url, "listener"))
        yield Plant(url, sensors, listener)


@asynccontextmanager
async def listening(url: str, client_id: str) -> AsyncIterator[Listener]:
    async with MqttBus(BusSettings(url, client_id)) as bus:
        listener = Listener()
        await bus.subscribe("gemel/v1/north/#", listener.hear)
        yield listener


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(COME_S):
        while not await holds():  # noqa: ASYNC110  another process decides when
            await asyncio.sleep(0.05)


async def test_readings_of_two_machines_become_two_retained_twins_and_survive_kill(
    plant: Plant, tmp_path: Path
) -> None:
    async with (
        running(Agent(tmp_path, plant.url, "press-1")) as one,
        running(Agent(tmp_path, plant.url, "press-2")) as other,
    ):
        for second in range(3):
            await plant.read("press-1", second, 10.0 + second)
            await plant.read("press-2", second, 20.0 + second)
        for agent, value in ((one, 12.0), (other, 22.0)):
            twin = await plant.listener.twin(agent.asset, lambda t, v=value: t.properties["SE"].value == v)
            assert set(twin.properties) == {column.name for column in INPUTS}
            reading = twin.properties["TS1"]
            assert (reading.value, reading.unit, reading.quality) == (value, "degC", Quality.GOOD)
            assert reading.source_time_ms == START_MS + 2000
            assert reading.ingest_time_ms > START_MS
        async with listening(plant.url, "late dashboard") as late:
            topic = topics.twin_state("north", "press-1")
            assert (await late.until(topic, lambda _: True)).retained
            availability = await late.until(topics.agent("north", "press-1-gateway", "availability"), bool)
            assert (availability.payload, availability.retained) == (b"online", True)

        before = (await plant.listener.twin("press-1")).version
        await one.stop(signal.SIGKILL)
        await plant.read("press-1", 3, 13.0)  # while the agent is down: the broker keeps it for the session
        await one.start()
        twin = await plant.listener.twin("press-1", lambda t: t.properties["TS1"].value == 13.0)
        assert twin.version > before

        assert await other.stop() == 0
        topic = topics.agent("north", "press-2-gateway", "availability")
        await plant.listener.until(topic, lambda payload: payload == b"offline")


async def test_silent_machine_becomes_stale_and_recovers(plant: Plant, tmp_path: Path) -> None:
    async with running(Agent(tmp_path, plant.url, "press-1", stale_after_s=0.5)):
        for second in range(2):
            await plant.read("press-1", second, 1.0 + second)
            twin = await plant.listener.twin(
                "press-1", lambda t: t.version > 0 and {p.quality for p in t.properties.values()} == {Quality.STALE}
            )
            assert twin.properties["SE"].value == 1.0 + second
            plant.listener.latest.clear()


async def test_bad_payloads_are_counted_by_reason_make_quality_bad_and_stop_nothing(
    plant: Plant, tmp_path: Path
) -> None:
    async with running(Agent(tmp_path, plant.url, "press-1")) as agent:
        sensors = "plant/press-1/sensors"
        await plant.read("press-1", 0, 1.0)
        await plant.read("press-1", 1, 1.0, TS1="warm", TS2=float("nan"), TS3=1e30, TS4=2000)
        twin = await plant.listener.twin("press-1", lambda t: t.properties["SE"].source_time_ms == START_MS + 1000)
        assert {name for name, p in twin.properties.items() if p.quality is Quality.BAD} == {
            "TS1",
            "TS2",
            "TS3",
            "TS4",
        }
        assert twin.properties["TS4"].value == 2000
        await plant.read("press-1", 1, 5.0)  # again
        await plant.read("press-1", 0, 5.0)  # too late
        await plant.say("plant/press-1/elsewhere", b"{}")
        await plant.say(sensors, b'{"TS1": 1}')
        await plant.say(sensors, b'{"time": "2999-01-01T00:00:00Z", "TS1": 1}')
        await plant.say(sensors, b"x" * 100_000)
        await plant.say(sensors, b"\xff{")
        await plant.listener.twin("press-1", lambda t: all(p.quality is Quality.BAD for p in t.properties.values()))
        expected = {
            ("refused", "not_a_number"): 1,
            ("refused", "nan"): 1,
            ("refused", "out_of_range"): 1,
            ("refused", "duplicate"): 8,
            ("refused", "too_old"): 8,
            ("refused", "unknown_topic"): 1,
            ("refused", "no_time"): 1,
            ("refused", "in_future"): 1,
            ("refused", "huge"): 2,
            ("refused", "malformed"): 1,
            ("accepted", ""): 12,
        }
        for (outcome, reason), count in expected.items():
            sample = f'gemel_readings_total{{outcome="{outcome}",reason="{reason}"}}'
            assert await agent.metric(sample) == count, sample
        await plant.read("press-1", 2, 3.0)
        await plant.listener.twin("press-1", lambda t: all(p.quality is Quality.GOOD for p in t.properties.values()))
        assert await agent.metric("gemel_sensor_to_twin_seconds_count") > 0


async def test_imported_and_live_cycles_become_examples_and_the_model_in_use_puts_health_into_the_twin(
    plant: Plant, tmp_path: Path
) -> None:
    agent = Agent(tmp_path, plant.url, "press-1")
    agent.state_dir.mkdir()
    model = to_bytes(task.initial_model(1))
    async with SqliteRecords(agent.state_dir / "records.sqlite") as records:
        await (await ModelInUse.load(records, agent.state_dir / "models")).install(3, sha256(model), model)
    import_history(agent, tmp_path)
    async with running(agent):
        await plant.listener.status("press-1", lambda s: s.examples == 1)
        for second in range(60):
            await plant.read("press-1", second, 40.0 + second / 10)
        found = {head.name: head.classes[0] for head in HEADS}
        await plant.say(
            "plant/press-1/inspection", json.dumps({"time": START_MS + 60_000, "cycle": 1, **found}).encode()
        )
        twin = await plant.listener.twin("press-1", lambda t: bool(t.health))
        assert twin.model is not None
        assert (twin.model.deployment, twin.model.digest) == (3, sha256(model))
        for head in HEADS:
            said = twin.health[head.name]
            assert said.condition in head.classes
            assert 0 < said.confidence <= 0.5  # nothing has borne this model out yet
            assert len(said.top_inputs) == 3
            assert said.source_time_ms == START_MS + 60_000
        status = await plant.listener.status("press-1", lambda s: s.examples == 2)
        assert status.model == twin.model


def import_history(agent: Agent, folder: Path) -> None:
    """One cycle, twice: the second import changes nothing."""
    names = [column.name for column in INPUTS]
    rows = [",".join([str(second * 1000), *["35.0"] * len(names)]) for second in range(60)]
    (folder / "sensors.csv").write_text("\n".join([",".join(["time", *names]), *rows]))
    (folder / "inspections.csv").write_text(
        "time,cooler,valve,pump,accumulator\n60000,full,optimal,no_leakage,optimal\n"
    )
    command = [sys.executable, "-m", "edge_agent", "import-history", "--config", str(agent.config), str(folder)]
    for new in (1, 0):
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert done.stdout.startswith(f"1 labelled windows, {new} new;"), done.stdout


async def test_registry_stores_what_holds_serves_it_and_has_it_after_a_kill(plant: Plant, tmp_path: Path) -> None:
    async with (
        running(Registry(tmp_path, plant.url)) as registry,
        running(Agent(tmp_path, plant.url, "press-1")),
        aiohttp.ClientSession() as http,
    ):

        async def get(path: str) -> tuple[int, Any]:
            async with http.get(registry.url + path) as answer:
                return answer.status, await answer.json()

        await plant.read("press-1", 0, 1.0)
        await plant.listener.twin("press-1", lambda t: t.properties["SE"].value == 1.0)
        await plant.read("press-1", 1, 2.0)
        last = await plant.listener.twin("press-1", lambda t: t.properties["SE"].value == 2.0)

        async def stored() -> bool:
            _, answer = await get("/twins/north/press-1")
            return answer.get("twin") == json.loads(to_json(last))

        await eventually(stored)
        assert await get("/healthz") == (200, {"status": "ok"})
        status, listed = await get("/twins")
        assert [(t["site"], t["asset"], t["version"]) for t in listed["twins"]] == [
            ("north", "press-1", last.version)
        ]
        status, page = await get("/twins/north/press-1/history?limit=1000")
        versions = [revision["twin"]["version"] for revision in page["revisions"]]
        assert len(versions) > 1
        assert versions == sorted(set(versions))
        until = page["revisions"][-1]["received_ms"]
        _, page = await get(f"/twins/north/press-1/history?from={until}&to={until}")
        assert page["revisions"] == []
        assert (await get("/twins/north/nobody"))[0] == 404
        assert (await get("/twins/north/nobody/history"))[0] == 404
        for query in ("limit=0", "limit=9999", "from=x", "to=-1", "from=%F0%9D%9F%98"):
            status, answer = await get(f"/twins/north/press-1/history?{query}")
            assert (status, answer["status"]) == (400, 400)

        forged = to_json(blank("north", "press-1"))
        await plant.say(topics.twin_state("north", "press-9"), forged)
        await plant.say(topics.twin_state("north", "press-8"), b"{")
        await plant.say(topics.agent("north", "somebody", "availability"), b"perhaps")
        await plant.say(topics.agent("north", "somebody", "status"), b"[]" * 10)

        async def refused() -> bool:
            reasons = {"foreign": 1, "malformed": 3}
            samples = {r: f'gemel_registry_messages_total{{outcome="refused",reason="{r}"}}' for r in reasons}
            return {r: await scrape(registry.metrics_port, s) for r, s in samples.items()} == reasons

        await eventually(refused)
        assert (await get("/twins/north/press-9"))[0] == 404

        await registry.stop(signal.SIGKILL)
        await plant.read("press-1", 2, 3.0)  # the broker keeps what comes meanwhile
        last = await plant.listener.twin("press-1", lambda t: t.properties["SE"].value == 3.0)
        await registry.start()
        await eventually(stored)
        _, listed = await get("/agents")
        (known,) = listed["agents"]
        assert (known["name"], known["availability"], known["status"]["asset"]) == (
            "press-1-gateway",
            "online",
            "press-1",
        )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("site", "North 1", "site"),
        ("sensors_file", "/nowhere/sensors.toml", "sensors_file"),
        ("task", "gemel.learning.tasks:nothing", "task"),
        ("trust_file", "trust.json", "key_file"),
    ],
)
def test_wrong_configuration_ends_with_one_line_that_names_the_key(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    agent = Agent(tmp_path, "mqtt://127.0.0.1:1", "press-1", **{key: value})
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(agent.config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
