"""What a plant should never publish reaches a real agent: it stays up, counts it, and says each kind once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.ports import BusMessage
from gemel.twin.agent import status_from_json
from gemel.twin.state import Quality, from_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.services import Agent, running

COME_S = 60
MORE = (("asset-1", b"6"), ("asset-1", b"7"), ("press-1", b"12.6"), ("press-1", b"13"))  # faster than the rate
START_MS = 1_700_000_000_000
MAPPING = """
[[source]]
topic = "plant/{asset}/{property}"
payload = "number"
[source.properties.flow]
unit = "l/min"
max_rate_hz = 2
[[source]]
topic = "plant/{asset}/sensors/all"
[source.properties.TS1]
unit = "degC"
source_unit = "degF"
[[sparkplug]]
group = "hall"
[sparkplug.properties.load]
unit = "%"
"""
HOSTILE = {
    "one megabyte": (b'{"time": 1, "TS1": "' + b"x" * 1_000_000 + b'"}', "huge"),
    "deep": (b'{"time": ' + b"[" * 60_000, "malformed"),
    "utf-16": ('{"time": 1700000000000, "TS1": 50'.encode("utf-16"), "malformed"),
    "latin-1": ('{"time": 1, "Öl": 1}'.encode("latin-1"), "malformed"),
    "nothing": (b"", "malformed"),
    "an hour's digits": (b'{"time": 1700000000000, "TS1": ' + b"9" * 5_000 + b"}", "malformed"),
}


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(COME_S):
        while not await holds():  # noqa: ASYNC110  another process decides when
            await asyncio.sleep(0.05)


async def refused(agent: Agent, reason: str) -> float:
    return await agent.metric(f'gemel_readings_total{{outcome="refused",reason="{reason}"}}')


class Eye:
    """Another client: the latest word on every twin."""

    def __init__(self) -> None:
        self.latest: dict[str, BusMessage] = {}

    async def hear(self, message: BusMessage) -> None:
        self.latest[message.topic] = message

    def value(self, asset: str, name: str) -> float | None:
        """Of a property that is good."""
        message = self.latest.get(topics.twin_state("north", asset))
        known = from_json(message.payload).properties.get(name) if message else None
        return known.value if known and known.quality is Quality.GOOD else None


async def test_agent_outlives_hostile_payloads_and_a_thousand_assets_with_one_event_each(tmp_path: Path) -> None:
    async with mosquitto() as url, MqttBus(BusSettings(url, "plc")) as plc, MqttBus(BusSettings(url, "eye")) as bus:
        agent = Agent(tmp_path, url, "press-1", max_assets="3")
        (agent.config.parent / "sensors.toml").write_text(MAPPING)
        eye = Eye()
        await bus.subscribe(topics.twin_state("north", "+"), eye.hear)
        words = Eye()
        await bus.subscribe(topics.agent("north", "press-1-gateway", "status"), words.hear)
        async with running(agent):
            for body, _ in HOSTILE.values():
                await plc.publish("plant/press-1/sensors/all", body)
            await plc.publish("spBv1.0/hall/NBIRTH/edge", b"\xff" * 1_000_000)
            for number in range(1000):
                await plc.publish(f"plant/asset-{number}/flow", str(number).encode())
            await plc.publish("plant/Press 9/flow", b"1")
            for back_ms in (0, 3_600_000, -3_600_000):
                said = {"time": START_MS - back_ms, "TS1": 50.0}
                await plc.publish("plant/press-1/sensors/all", json.dumps(said).encode())
            await plc.publish("plant/press-1/flow", b"12.5")
            expected = {"huge": 2, "malformed": 5, "too_old": 1, "bad_name": 1, "over_bound": 998}

            async def all_counted() -> bool:
                return {reason: await refused(agent, reason) for reason in expected} == expected

            await eventually(all_counted)

            async def twins_stand() -> bool:
                return eye.value("press-1", "flow") == 12.5 and eye.value("asset-0", "flow") == 0

            await eventually(twins_stand)
            assert eye.value("press-1", "TS1") == pytest.approx(10.0)
            kept = {topic.split("/")[-2] for topic in eye.latest}
            assert kept == {"press-1", "asset-0", "asset-1"}

            async def says_which() -> bool:
                said = [status_from_json(message.payload).further for message in words.latest.values()]
                return said == [("asset-0", "asset-1")]

            await eventually(says_which)

            for event in ("no twin for this asset", "fault=huge", "fault=malformed"):
                told = [line for line in agent.log.splitlines() if event in line and "debug" not in line]
                assert len(told) == 1, told

            await agent.stop()
            eye.latest.clear()
            await agent.start()
            for asset, number in (("asset-2", b"2"), *MORE):
                await plc.publish(f"plant/{asset}/flow", number)

            async def twins_go_on() -> bool:
                return eye.value("asset-1", "flow") == 7 and eye.value("press-1", "flow") == 13

            await eventually(twins_go_on)
            assert topics.twin_state("north", "asset-2") not in eye.latest  # the bound holds for those kept before
