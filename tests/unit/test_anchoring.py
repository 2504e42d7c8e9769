"""Anchoring: whatever happens to a transaction, the chain's ranges follow each other and hold what was logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from chain_listener.anchoring import Anchoring, OwnLog
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ChainReverted, ChainUnavailable, Malformed
from gemel.exchange.deployment_log import DeploymentLog, read_entries
from gemel.ports import Sent
from gemel.wire.logs import AnchorRecord, verify_range
from gemel.wire.types import NO_ADDRESS, sha256
from tests.unit.test_deployment_log import BODY

SENT = Sent(sha256(b"transaction"), 1, 50_000)


class Ledger:
    """The contract's rules in memory. `before` runs before each call, and may fail it or change things."""

    def __init__(self) -> None:
        self.anchors: list[AnchorRecord] = []
        self.before: Callable[[str], None] = lambda _call: None

    async def anchored_entries(self, log: str) -> int:
        self.before("read")
        return self.anchors[-1].last if self.anchors else 0

    async def anchor(self, log: str, *, first: int, last: int, root: str) -> Sent:
        self.before("anchor")
        expected = (self.anchors[-1].last if self.anchors else 0) + 1
        if first != expected:
            raise ChainReverted("anchor", "NotNext", {"first": first, "expected": expected})
        self.anchors.append(AnchorRecord(root, first, last, 7, NO_ADDRESS))
        return SENT

    def ranges(self) -> list[tuple[int, int]]:
        return [(each.first, each.last) for each in self.anchors]


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


async def log_of(records: SqliteRecords, entries: int, *, anchored: int = 0) -> DeploymentLog:
    log = await DeploymentLog.load("condition", records, FakeClock(), anchored=anchored)
    for number in range(log.last + 1, entries + 1):
        await log.append(number, replace(BODY, deployment=number))
    return log


def anchoring(log: DeploymentLog, ledger: Ledger, clock: FakeClock | None = None, most: int = 5) -> Anchoring:
    return Anchoring(OwnLog(log), ledger, clock or FakeClock(), 600, most, lambda _log, _last: None)  # type: ignore[arg-type]  # what it uses of the port


@asynccontextmanager
async def running(work: Anchoring) -> AsyncIterator[None]:
    task = asyncio.create_task(work.run())
    try:
        await asyncio.sleep(0)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_interval_anchors_what_was_logged_since_and_nothing_where_nothing_was(
    records: SqliteRecords,
) -> None:
    log, ledger, clock = await log_of(records, 2), Ledger(), FakeClock()
    async with running(anchoring(log, ledger, clock)):
        await clock.advance(1)
        assert ledger.ranges() == [(1, 2)]
        await log.append(9, replace(BODY, deployment=9))
        await clock.advance(500)
        assert ledger.ranges() == [(1, 2)]
        await clock.advance(101)
        assert ledger.ranges() == [(1, 2), (3, 3)]
        await clock.advance(6000)
    assert ledger.ranges() == [(1, 2), (3, 3)]


async def test_many_entries_are_anchored_before_the_interval_is_over(records: SqliteRecords) -> None:
    log, ledger, clock = await log_of(records, 1), Ledger(), FakeClock()
    async with running(anchoring(log, ledger, clock, most=3)):
        await clock.advance(1)
        for number in (2, 3):
            await log.append(number, replace(BODY, deployment=number))
        await clock.advance(2)
        assert ledger.ranges() == [(1, 1)]
        await log.append(4, replace(BODY, deployment=4))
        await clock.advance(2)
    assert ledger.ranges() == [(1, 1), (2, 4)]


async def test_chain_that_is_away_is_tried_again_at_the_next_interval(records: SqliteRecords) -> None:
    log, ledger, clock = await log_of(records, 2), Ledger(), FakeClock()
    ledger.before = away
    async with running(anchoring(log, ledger, clock, most=100)):
        await clock.advance(1)
        assert ledger.ranges() == []
        ledger.before = lambda _call: None
        await clock.advance(600)
    assert ledger.ranges() == [(1, 2)]


def away(call: str) -> None:
    raise ChainUnavailable("no node answers")


async def test_transaction_whose_answer_was_lost_is_not_sent_twice(records: SqliteRecords) -> None:
    log, ledger = await log_of(records, 3), Ledger()

    async def lost(name: str, *, first: int, last: int, root: str) -> Sent:
        await Ledger.anchor(ledger, name, first=first, last=last, root=root)
        raise ChainUnavailable("the answer was lost")

    ledger.anchor = lost  # type: ignore[method-assign]
    with pytest.raises(ChainUnavailable):
        await anchoring(log, ledger).catch_up()
    del ledger.anchor  # type: ignore[method-assign]
    await log.append(4, replace(BODY, deployment=4))
    await anchoring(await log_of(records, 4, anchored=3), ledger).catch_up()  # after a restart
    assert ledger.ranges() == [(1, 3), (4, 4)]


async def test_range_that_came_through_meanwhile_is_accepted(records: SqliteRecords) -> None:
    log, ledger = await log_of(records, 2), Ledger()
    entries = await read_entries(records)

    def overtaken(call: str) -> None:
        if call == "anchor":
            ledger.before = lambda _call: None
            ledger.anchors.append(AnchorRecord(sha256(b"first"), 1, 1, 7, NO_ADDRESS))

    ledger.before = overtaken
    await anchoring(log, ledger).catch_up()
    assert ledger.ranges() == [(1, 1)]
    await anchoring(log, ledger).catch_up()
    assert ledger.ranges() == [(1, 1), (2, 2)]
    assert verify_range(entries[1:], ledger.anchors[1])


async def test_range_that_was_reorganised_away_is_anchored_again(records: SqliteRecords) -> None:
    log, ledger = await log_of(records, 2), Ledger()
    await anchoring(log, ledger).catch_up()
    ledger.anchors.clear()
    await log.append(3, replace(BODY, deployment=3))
    await anchoring(log, ledger).catch_up()
    assert ledger.ranges() == [(1, 3)]
    assert verify_range(await read_entries(records), ledger.anchors[0])


async def test_log_that_does_not_go_on_where_the_chain_is_says_so_and_anchors_nothing(records: SqliteRecords) -> None:
    """Entries were lost, numbers went on above the chain's, and then the chain lost its anchors."""
    ledger = Ledger()
    log = await log_of(records, 41, anchored=40)
    with pytest.raises(Malformed, match="does not go on after entry 0"):
        await anchoring(log, ledger).catch_up()
    assert ledger.ranges() == []


async def test_writer_without_the_role_is_told_and_the_service_runs_on(records: SqliteRecords) -> None:
    log, ledger, clock = await log_of(records, 1), Ledger(), FakeClock()

    def not_allowed(call: str) -> None:
        if call == "anchor":
            raise ChainReverted("anchor", "AccessControlUnauthorizedAccount", {})

    ledger.before = not_allowed
    async with running(anchoring(log, ledger, clock)):
        await clock.advance(1)
        ledger.before = lambda _call: None
        await clock.advance(600)
    assert ledger.ranges() == [(1, 1)]
