"""What a twin became while nobody could be told: a revision for each interval, however long disk or broker take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.metrics import AgentMetrics
from edge_agent.twinning import trail as trails
from edge_agent.twinning.live import LiveTwin
from edge_agent.twinning.outbox import Outbox
from edge_agent.twinning.trail import Trail
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.host.metrics import Metrics
from gemel.twin.backfill import Kept
from gemel.twin.state import Property, Quality, blank, hold
from tests.support.alerts import hot

EVENT = hot()


def kept(version: int) -> Kept:
    return Kept(version, replace(blank("north", "press-1"), version=version))


def versions(revisions: Sequence[Kept]) -> list[int]:
    return [one.twin.version for one in revisions]


def test_each_interval_leaves_its_last_revision() -> None:
    trail = Trail(0.2)
    for version, now_s in enumerate((0.0, 0.1, 0.25, 0.3, 0.5, 0.55), 1):
        trail.add(kept(version), now_s)
    assert versions(trail.take()) == [2, 4, 6]
    assert trail.take() == ()


def test_events_of_an_interval_are_all_kept_with_its_last_revision() -> None:
    trail, events = Trail(0.2), [replace(EVENT, id=f"hot-{number}") for number in range(3)]
    for version, now_s in enumerate((0.0, 0.1, 0.3)):
        trail.add(replace(kept(version), events=(events[version],)), now_s)
    assert [one.events for one in trail.take()] == [(events[0], events[1]), (events[2],)]


def test_what_was_published_is_no_longer_wanted() -> None:
    trail = Trail(0.2)
    for version in range(1, 6):
        trail.add(kept(version), version)
    trail.published(3)
    assert versions(trail.take()) == [4, 5]


def test_trail_is_bounded_and_ends_with_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "MOST", 3)
    trail = Trail(0.2)
    for version in range(1, 10):
        trail.add(kept(version), version)
    assert versions(trail.take()) == [1, 2, 9]


class DeadLink:
    """A broker that is away, or, `connected`, takes what is said and answers nothing."""

    def __init__(self, *, connected: bool) -> None:
        self.connected = connected

    async def publish(self, topic: str, payload: bytes, **options: object) -> None:
        await asyncio.Event().wait()


class SlowOutbox(Outbox):
    """Its disk takes as long as the test wants."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1000)
        self.writes, self.may_write = 0, asyncio.Event()

    async def keep(self, revisions: Sequence[Kept]) -> None:
        self.writes += 1
        await self.may_write.wait()
        await super().keep(revisions)


@pytest.mark.parametrize("connected", [False, True])
async def test_slow_disk_and_silent_broker_cost_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, connected: bool
) -> None:
    monkeypatch.setattr("edge_agent.twinning.live.PATIENCE_S", 0.01)
    clock, metrics = FakeClock(), AgentMetrics(Metrics("test"))
    async with (
        SqliteRecords(tmp_path / "records.sqlite") as records,
        SlowOutbox(tmp_path / "outbox.sqlite") as outbox,
    ):
        twin = await LiveTwin.load(
            "north", "press-1", (), outbox, bus=DeadLink(connected=connected), clock=clock, records=records,
            latest=records, metrics=metrics, rate_hz=5,
        )  # fmt: skip
        publishing = asyncio.create_task(twin.run())
        for second in range(1, 31):  # one reading a second
            twin.become(hold(twin.now, {"TS1": Property(1.0, "degC", second, second, Quality.GOOD)}))
            while not outbox.writes:  # noqa: ASYNC110  the first is on its way to the disk, which now stands still
                await asyncio.sleep(0.001)
            await clock.advance(1)
        outbox.may_write.set()
        async with asyncio.timeout(10):
            while outbox.depth < 30:
                await clock.advance(1)
                await asyncio.sleep(0.01)
        publishing.cancel()
        await asyncio.wait([publishing])
        batch = await outbox.oldest(100, 10**9)
    assert batch is not None
    assert [one.twin.properties["TS1"].source_time_ms for one in batch.revisions] == list(range(1, 31))
