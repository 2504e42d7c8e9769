"""An edge node that somebody else's Sparkplug library makes becomes a twin, and its gaps and its death are noticed.

pysparkplug needs paho-mqtt 1, so it has a virtual environment of its own, kept under .tools/.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.ports import BusMessage
from gemel.twin.state import Quality, Twin, from_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.environments import environment
from tests.support.services import REPOSITORY, Agent, running

COME_S = 30
MAPPING = """
[assets]
"Press 1" = "press-1"
[[sparkplug]]
group = "hall"
device = "{asset}"
[sparkplug.properties.TS1]
called = "Temperature/Oil"
source_unit = "degF"
unit = "degC"
[sparkplug.properties.steps]
called = "Steps"
unit = "count"
[sparkplug.properties.total]
called = "Total"
unit = "count"
[sparkplug.properties.running]
called = "Running"
unit = ""
"""


@pytest.fixture(scope="module")
def sparkplug_python() -> Path:
    return environment("sparkplug", "pysparkplug==0.6.1", "paho-mqtt<2")


class EdgeNode:
    """The other library's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, *commands: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{command}\n" for command in commands).encode())
        await self._process.stdin.drain()

    async def until(self, word: str) -> None:
        """It prints `word`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(COME_S):
            while (line := await self._process.stdout.readline()).decode().strip() != word:
                assert line, "the edge node ended"

    async def vanish(self) -> None:
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def edge_node(python: Path, url: str) -> AsyncIterator[EdgeNode]:
    script = REPOSITORY / "tests" / "support" / "sparkplug_node.py"
    process = await asyncio.create_subprocess_exec(
        python, script, url.rsplit(":", 1)[1], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield EdgeNode(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Twins:
    """What another client hears of one twin."""

    def __init__(self) -> None:
        self._latest: Twin | None = None
        self._news = asyncio.Event()

    async def hear(self, message: BusMessage) -> None:
        self._latest = from_json(message.payload)
        self._news.set()

    async def until(self, value: float, quality: Quality = Quality.GOOD) -> Twin:
        """The oil's temperature is so."""
        async with asyncio.timeout(COME_S):
            while True:
                await self._news.wait()
                self._news.clear()
                oil = self._latest.properties["TS1"] if self._latest else None
                if oil and oil.value == pytest.approx(value) and oil.quality is quality:
                    assert self._latest is not None
                    return self._latest


@pytest.mark.broker
async def test_edge_node_of_another_library_is_followed_through_gap_restart_and_death(
    sparkplug_python: Path, tmp_path: Path
) -> None:
    async with mosquitto() as url, MqttBus(BusSettings(url, "dashboard")) as dashboard:
        agent = Agent(tmp_path, url, "press-1")
        (agent.config.parent / "sensors.toml").write_text(MAPPING)
        twins = Twins()
        await dashboard.subscribe(topics.twin_state("north", "press-1"), twins.hear)
        async with running(agent), edge_node(sparkplug_python, url) as node:
            twin = await twins.until(100.0)
            assert twin.properties["TS1"].unit == "degC"
            assert (twin.properties["steps"].value, twin.properties["total"].value) == (-5, -(2**35))
            assert (twin.properties["running"].value, twin.properties["running"].quality) == (1.0, Quality.GOOD)
            await node.until("born")

            await node.tell("data 50")
            await twins.until(10.0)

            await node.tell("skip", "data 68")
            await node.until("asked")
            await twins.until(100.0)
            await node.tell("data 68")
            await twins.until(20.0)

            await agent.stop(signal.SIGKILL)
            await agent.start()
            await twins.until(20.0, Quality.STALE)  # as it was last; nobody knows whether the node still lives
            await node.tell("data 77")  # by an alias that the agent has forgotten
            await node.until("asked")
            await twins.until(100.0)

            await node.vanish()
            await twins.until(100.0, Quality.STALE)
