"""The listener's log of deployments: gapless, each message once, over restarts and losses."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange.deployment_log import DeploymentEntry, DeploymentLog, read_entries
from gemel.wire.logs import number_of
from gemel.wire.messages import Deployment, decode, encode
from gemel.wire.types import NO_DIGEST, sha256

BODY = Deployment(
    deployment=1,
    parent=NO_DIGEST,
    model=sha256(b"M0"),
    epoch=1,
    votes=(),
    accuracy=1,
    transaction=sha256(b"t"),
    block=9,
)


def deployed(number: int) -> Deployment:
    return replace(BODY, deployment=number, model=sha256(b"M%d" % number))


async def test_entries_are_numbered_without_a_gap_and_say_which_message_went_out(tmp_path: Path) -> None:
    clock = FakeClock()
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        log = await DeploymentLog.load("condition", records, clock, anchored=0)
        for number in (1, 2, 3):
            await log.append(number, deployed(number))
        entries = [decode(DeploymentEntry, entry) for entry in await read_entries(records)]
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert [entry.message for entry in entries] == [sha256(encode(deployed(n))) for n in (1, 2, 3)]
    assert entries[2] == DeploymentEntry(
        3, clock.now_ms(), "condition", 3, 3, sha256(b"M3"), False, entries[2].message, BODY.transaction, BODY.block
    )


async def test_message_that_is_said_again_is_the_same_entry_also_after_a_restart(tmp_path: Path) -> None:
    canaries_first = replace(BODY, canaries=("0x" + "ab" * 20,))
    for _ in range(2):
        async with SqliteRecords(tmp_path / "records.sqlite") as records:
            log = await DeploymentLog.load("condition", records, FakeClock(), anchored=0)
            await log.append(0, canaries_first)
            await log.append(0, BODY)  # to all: another message
            await log.append(0, canaries_first)
            assert log.last == 2


async def test_log_knows_what_it_has_told_also_after_a_restart(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        log = await DeploymentLog.load("condition", records, FakeClock(), anchored=0)
        assert not log.has_told(1, BODY.model)
        await log.append(0, BODY)
        for kept in (log, await DeploymentLog.load("condition", records, FakeClock(), anchored=0)):
            assert kept.has_told(1, BODY.model)
            assert not kept.has_told(2, BODY.model)
            assert not kept.has_told(1, sha256(b"another"))


async def test_pages_begin_after_a_number_and_end_at_the_limit(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        log = await DeploymentLog.load("condition", records, FakeClock(), anchored=0)
        for number in range(1, 8):
            await log.append(number, deployed(number))
        numbers = [[number_of(entry) for entry in log.after(after, 3)] for after in (0, 2, 5, 7, 9)]
    assert numbers == [[1, 2, 3], [3, 4, 5], [6, 7], [], []]


async def test_numbers_go_on_above_the_anchored_ones_where_the_entries_were_lost(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        log = await DeploymentLog.load("condition", records, FakeClock(), anchored=40)
        assert (log.last, log.after(40, 10)) == (40, [])
        await log.append(9, BODY)
        assert [number_of(entry) for entry in log.after(40, 10)] == [41]
        assert [number_of(entry) for entry in log.after(0, 10)] == [41]
