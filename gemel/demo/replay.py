"""Publishes the rig's recorded cycles on MQTT as a plant would, faster than real time.

One JSON message for each second of rig time with all sensors, and after each cycle an inspection result. The
gateways know nothing of the file behind it: they see topics.

    python -m gemel.demo.replay PLAN.json
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import orjson

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.demo.rig import read_cycles
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import task

CYCLE_S = 60


class Feed(msgspec.Struct, frozen=True):
    """One gateway's rig: which cycles it runs through, and when the first began in rig time."""

    rig: str
    rows: tuple[int, ...]
    start_ms: int


class ReplayPlan(msgspec.Struct, frozen=True):
    """What the replay process is started with."""

    broker: str
    feeds: tuple[Feed, ...]
    speed: float  # seconds of rig time in a second


def sensors_topic(rig: str) -> str:
    """Where a rig publishes its readings."""
    return f"plant/{rig}/sensors"


def inspection_topic(rig: str) -> str:
    """Where the result of the inspection after each cycle is published."""
    return f"plant/{rig}/inspection"


def reading(cycles: Windows, row: int, second: int, time_ms: int) -> bytes:
    """The message of one second."""
    values = cycles.inputs[row, second]
    named = {column.name: round(float(value), 4) for column, value in zip(task.inputs, values, strict=True)}
    return orjson.dumps({"time": time_ms, **named})


def inspection(cycles: Windows, row: int, cycle: int, time_ms: int) -> bytes:
    """The message after a cycle: the class of each component, by name."""
    found = {head.name: head.classes[int(label)] for head, label in zip(task.heads, cycles.labels[row], strict=True)}
    return orjson.dumps({"time": time_ms, "cycle": cycle, **found})


async def replay(plan: ReplayPlan, bus: MqttBus, cycles: Windows) -> None:
    """All feeds side by side, each at its pace; returns when the last cycle has been published."""

    async def feed_rig(feed: Feed) -> None:
        loop = asyncio.get_running_loop()
        began, ticks = loop.time(), 0
        for cycle, row in enumerate(feed.rows):
            start_ms = feed.start_ms + cycle * CYCLE_S * 1000
            for second in range(CYCLE_S):
                await asyncio.sleep(max(0.0, began + ticks / plan.speed - loop.time()))
                message = reading(cycles, row, second, start_ms + second * 1000)
                await bus.publish(sensors_topic(feed.rig), message, qos=0)
                ticks += 1
            end_ms = start_ms + CYCLE_S * 1000
            await bus.publish(inspection_topic(feed.rig), inspection(cycles, row, cycle, end_ms))

    async with asyncio.TaskGroup() as tasks:
        for feed in plan.feeds:
            tasks.create_task(feed_rig(feed), name=f"feed {feed.rig}")


async def _main(plan: ReplayPlan) -> None:
    async with MqttBus(BusSettings(url=plan.broker, client_id="replay")) as bus:
        await replay(plan, bus, read_cycles())


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ReplayPlan)))
