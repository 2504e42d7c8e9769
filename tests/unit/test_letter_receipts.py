"""Which updates a round takes under one-time keys: those whose keys the same enough custodians hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coordinator.letters import Letters
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Malformed, Refused
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Envelope, Kind, sign
from gemel.wire.messages import Entry, LetterReceipt, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest
from tests.support.parties import TRUST, identity

CUSTODIANS = tuple(identity(number) for number in (31, 32, 33))
DEVICES = tuple(identity(number).address for number in (41, 42, 43, 44))
ROUND, NOW = 7, 0.05
PARTS = {0: "a0" * 32, 1: "a1" * 32, 2: "a2" * 32}  # digests of an honest agent's parts


def entry(device: str, digest: Digest = "dd" * 32) -> Entry:
    return Entry(device, digest, 10, Transfer("ee" * 32, 1000))


ENTRIES = tuple(entry(device) for device in DEVICES)


def receipt(custodian: int, device: str, *, round_: int = ROUND, **changes: object) -> Envelope:
    """Of three custodians, custodian j holds every part but part j."""
    held = tuple(digest for part, digest in PARTS.items() if part != custodian)
    facts = {"agent": device, "outcome": "accepted", "update": "dd" * 32, "parts": held} | changes
    body = encode(LetterReceipt(**facts))  # type: ignore[arg-type]
    signer = CUSTODIANS[custodian]
    return sign(signer, TRUST.domain, TRUST.task, Kind.LETTER_RECEIPT, body, issued_at_ms=1, round=round_)


@pytest_asyncio.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


def letters_of(records: SqliteRecords, custodians: int = 3) -> Letters:
    return Letters(records, tuple(c.address for c in CUSTODIANS[:custodians]), set(DEVICES))


async def kept(records: SqliteRecords, *receipts: Envelope) -> set[str]:
    letters = letters_of(records)
    for message in receipts:
        await letters.put(message)
    return set(await letters.kept(ROUND, ENTRIES, NOW))


def everybody(*, but: str | None = None) -> list[Envelope]:
    return [receipt(custodian, device) for custodian in range(3) for device in DEVICES if device != but]


async def test_all_whose_keys_are_held_are_in(records: SqliteRecords) -> None:
    assert await kept(records, *everybody()) == set(DEVICES)


async def test_device_that_sent_no_letter_is_out_and_the_others_are_in(records: SqliteRecords) -> None:
    assert await kept(records, *everybody(but=DEVICES[0])) == set(DEVICES[1:])


async def test_two_custodians_are_enough_whichever_is_away(records: SqliteRecords) -> None:
    receipts = [message for message in everybody() if message.header.sender != CUSTODIANS[0].address]
    assert await kept(records, *receipts) == set(DEVICES)


async def test_keys_that_no_two_custodians_share_with_the_others_are_out(records: SqliteRecords) -> None:
    """Each is with two custodians, and there are no two that hold both."""
    split = [receipt(0, DEVICES[0]), receipt(1, DEVICES[0])]
    split += [receipt(custodian, device) for device in DEVICES[1:] for custodian in (1, 2)]
    assert await kept(records, *split) == set(DEVICES[1:])


@pytest.mark.parametrize("custodian", [0, 1, 2])
async def test_letters_that_contradict_each_other_are_found_out(records: SqliteRecords, custodian: int) -> None:
    false = receipt(custodian, DEVICES[0], parts=("ff" * 32, "fe" * 32))
    honest = everybody(but=DEVICES[0])
    honest += [receipt(other, DEVICES[0]) for other in range(3) if other != custodian]
    assert await kept(records, *honest, false) == set(DEVICES[1:])


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "refused"},
        {"update": "aa" * 32},  # the key of another body
        {"parts": ()},
        {"parts": ("a0" * 32,)},
        {"round_": ROUND + 1},
    ],
)
async def test_receipt_that_says_less_does_not_count(records: SqliteRecords, changes: dict[str, object]) -> None:
    receipts = [receipt(custodian, DEVICES[0], **changes) for custodian in range(3)]  # type: ignore[arg-type]
    assert await kept(records, *everybody(but=DEVICES[0]), *receipts) == set(DEVICES[1:])


async def test_first_receipt_of_a_custodian_stands(records: SqliteRecords) -> None:
    second = [receipt(custodian, DEVICES[0], update="aa" * 32) for custodian in range(3)]
    assert await kept(records, *everybody(), *second) == set(DEVICES)


async def test_choice_of_custodians_outlives_a_crash_and_later_receipts(records: SqliteRecords) -> None:
    """Otherwise an update that was taken could end up in a sum that the chosen ones cannot open."""
    first = [receipt(custodian, device) for device in DEVICES[:3] for custodian in (0, 1)]
    assert await kept(records, *first, receipt(1, DEVICES[3])) == set(DEVICES[:3])
    again = letters_of(records)
    await again.restore()
    for device in DEVICES:
        await again.put(receipt(2, device))
    assert await again.kept(ROUND, ENTRIES, NOW) == set(DEVICES[:3])
    await again.clear_through(ROUND)
    assert await again.kept(ROUND, ENTRIES, NOW) == set()
    assert not await records.items("letter-receipt")


async def test_single_custodian_is_enough_and_compares_nothing(records: SqliteRecords) -> None:
    letters = letters_of(records, custodians=1)
    await letters.put(receipt(0, DEVICES[0], parts=()))
    assert await letters.kept(ROUND, ENTRIES, NOW) == {DEVICES[0]}


async def test_receipt_for_nobody_or_none_at_all_is_refused(records: SqliteRecords) -> None:
    letters = letters_of(records)
    with pytest.raises(Refused) as refusal:
        await letters.put(receipt(0, "0x" + "99" * 20))
    assert refusal.value.reason == Reason.UNREGISTERED
    nonsense = sign(CUSTODIANS[0], TRUST.domain, TRUST.task, Kind.LETTER_RECEIPT, b"{}", issued_at_ms=1, round=ROUND)
    with pytest.raises(Malformed):
        await letters.put(nonsense)
