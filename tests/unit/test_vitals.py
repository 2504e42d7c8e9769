"""Whether an agent's loops move, as its watchdog is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from edge_agent.twinning.live import LiveTwin
from edge_agent.twinning.outbox import Outbox
from edge_agent.vitals import HELD_UP_S, UNATTENDED_S, Vitals
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.host.metrics import Metrics
from gemel.twin.state import Property, Quality, hold
from tests.unit.test_acting import NoBus


class Stuck(SqliteRecords):
    """A disk that does not answer until it is released."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.released = asyncio.Event()

    async def put(self, kind: str, key: str, value: bytes) -> None:
        await self.released.wait()


async def test_watchdog_starves_while_a_change_waits_for_a_loop_that_stands_still(tmp_path: Path) -> None:
    clock, bus, metrics = FakeClock(), NoBus(), AgentMetrics(Metrics("test"))
    async with (
        SqliteRecords(tmp_path / "records.sqlite") as records,
        Stuck(tmp_path / "stuck.sqlite") as stuck,
        Outbox(tmp_path / "outbox.sqlite", 100) as outbox,
    ):
        twin = await LiveTwin.load(
            "north", "press-1", bus=bus, clock=clock, records=stuck, latest=records, metrics=metrics, rate_hz=0.5
        )
        vitals = Vitals(twin, outbox, await ModelInUse.load(records, tmp_path), bus=bus, clock=clock)
        publishing = asyncio.create_task(twin.run())
        for value in (1.0, 2.0):  # the loop takes the first one up, and hangs
            twin.become(hold(twin.now, {"TS1": Property(value, "degC", 1, 2, Quality.GOOD)}))
            await asyncio.sleep(0)
        await clock.advance(2 + HELD_UP_S)  # one interval at this rate is no standstill
        assert vitals.alive()
        await clock.advance(0.1)
        assert not vitals.alive()
        stuck.released.set()
        publishing.cancel()
        await asyncio.wait([publishing])


async def test_watchdog_starves_while_nobody_looks_after_the_outbox(tmp_path: Path) -> None:
    clock, bus, metrics = FakeClock(), NoBus(), AgentMetrics(Metrics("test"))
    async with (
        SqliteRecords(tmp_path / "records.sqlite") as records,
        Outbox(tmp_path / "outbox.sqlite", 100) as outbox,
    ):
        twin = await LiveTwin.load(
            "north", "press-1", bus=bus, clock=clock, records=records, latest=records, metrics=metrics, rate_hz=5
        )
        vitals = Vitals(twin, outbox, await ModelInUse.load(records, tmp_path), bus=bus, clock=clock)
        await clock.advance(10 * UNATTENDED_S)
        assert vitals.alive()  # nobody has begun
        outbox.attended_s = clock.monotonic_s()
        await clock.advance(UNATTENDED_S)
        assert vitals.alive()
        await clock.advance(0.1)
        assert not vitals.alive()
        assert vitals.line == "linked; no model; 0 revisions wait"
