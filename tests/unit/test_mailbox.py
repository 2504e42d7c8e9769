"""Messages of a round wait for whoever needs them: the first of each sender, across a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange.mailbox import Mailbox
from gemel.wire.envelope import Envelope, Kind, sign
from gemel.wire.identity import Identity
from tests.support.parties import AGENTS, TRUST


@pytest_asyncio.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


def letter(body: bytes, *, by: Identity = AGENTS[0], round_: int = 7, kind: Kind = Kind.LETTER) -> Envelope:
    return sign(by, TRUST.domain, TRUST.task, kind, body, issued_at_ms=1, round=round_)


async def test_first_message_of_each_sender_stands(records: SqliteRecords) -> None:
    mailbox = Mailbox(records)
    for message in (letter(b"a"), letter(b"another"), letter(b"b", by=AGENTS[1]), letter(b"later", round_=8)):
        await mailbox.put(message)
    assert {message.body for message in await mailbox.here(Kind.LETTER, 7)} == {b"a", b"b"}
    assert {message.body for message in await Mailbox(records).here(Kind.LETTER, 7)} == {b"a", b"b"}


async def test_whoever_waits_for_one_that_fits_gets_it_when_it_comes(records: SqliteRecords) -> None:
    mailbox = Mailbox(records)
    waiting = asyncio.create_task(mailbox.take(Kind.LETTER, 7, lambda message: message.body == b"b"))
    await mailbox.put(letter(b"a"))
    await mailbox.put(letter(b"b", by=AGENTS[1], kind=Kind.CONTEXT))
    await asyncio.sleep(0)
    assert not waiting.done()
    await mailbox.put(letter(b"b", by=AGENTS[1]))
    assert (await waiting).header.sender == AGENTS[1].address


async def test_ended_rounds_are_forgotten_and_later_ones_are_not(records: SqliteRecords) -> None:
    mailbox = Mailbox(records)
    for round_ in (1, 9, 10, 2**40):
        await mailbox.put(letter(b"x", round_=round_))
        await mailbox.put(letter(b"y", round_=round_, kind=Kind.ROSTER))
    await mailbox.clear_through(9)
    for kind in (Kind.LETTER, Kind.ROSTER):
        assert [len(await mailbox.here(kind, round_)) for round_ in (1, 9, 10, 2**40)] == [0, 0, 1, 1]
