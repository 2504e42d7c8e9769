"""What a validator signs: one statement for each kind and round, whatever crashes in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Refused
from gemel.wire.attestations import ModelAttestation, SumAttestation
from gemel.wire.eip712 import Domain
from gemel.wire.identity import recover
from gemel.wire.messages import DeviceResult
from gemel.wire.reasons import Reason
from gemel.wire.trust_report import report_hash
from tests.support.parties import AGENTS, REGISTRY, VALIDATORS
from validator.signing import Report, SignedOnce

ROUNDS, TRUST = Domain(1337, REGISTRY), Domain(1337, "0x" + "cd" * 20)
OWN = VALIDATORS[0]
SUM = SumAttestation("condition", 7, "11" * 32, "22" * 32, 3, 100)
VOTE = ModelAttestation("condition", 7, 3, "11" * 32, "33" * 32, 700_000, 650_000, True)
REPORT = Report("condition", 7, 0, (DeviceResult(AGENTS[0].address, 1_000_000, 400_000),))


@pytest_asyncio.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


def once(records: SqliteRecords, rounds: Domain = ROUNDS) -> SignedOnce:
    return SignedOnce(records, OWN, rounds=rounds, trust=TRUST)


async def test_signatures_are_those_that_the_contracts_check(records: SqliteRecords) -> None:
    signed = once(records)
    confirmation, vote, report = await signed.sum(SUM), await signed.vote(VOTE), await signed.report(REPORT)
    assert recover(SUM.hash(ROUNDS), bytes.fromhex(confirmation.signature)) == OWN.address
    assert recover(VOTE.hash(ROUNDS), bytes.fromhex(vote.signature)) == OWN.address
    assert (vote.accuracy, vote.baseline, vote.approved) == (700_000, 650_000, True)
    hash_ = report_hash(REPORT.results, "condition", 7, TRUST)
    assert recover(hash_, bytes.fromhex(report.signature)) == OWN.address


async def test_same_statement_gets_the_same_signature_and_another_none(records: SqliteRecords) -> None:
    signed = once(records)
    first = await signed.vote(VOTE)
    assert await signed.vote(VOTE) == first
    for other in (
        replace(VOTE, accuracy=700_001),
        replace(VOTE, baseline=0),
        replace(VOTE, approved=False),
        replace(VOTE, model="44" * 32),
        replace(VOTE, deployment=4),
    ):
        with pytest.raises(Refused) as refused:
            await signed.vote(other)
        assert refused.value.reason == Reason.CONTRADICTION
    assert await signed.vote(VOTE) == first
    await signed.sum(SUM)
    with pytest.raises(Refused, match="contradiction"):
        await signed.sum(replace(SUM, sum_digest="44" * 32))


async def test_other_rounds_tasks_and_fleets_are_other_statements(records: SqliteRecords) -> None:
    signed = once(records)
    await signed.vote(VOTE)
    await signed.vote(replace(VOTE, round=8, accuracy=1))
    await signed.vote(replace(VOTE, task="other", accuracy=2))
    await once(records, Domain(1337, "0x" + "ef" * 20)).vote(replace(VOTE, accuracy=3))  # founded anew
    assert await signed.stored_vote("condition", 7) == VOTE


class Power(SqliteRecords):
    """Goes out when the next value is on disk, before anybody hears of it."""

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        await super().put_once(kind, key, value)
        raise KeyboardInterrupt


async def test_crash_after_storing_leads_to_no_second_statement(tmp_path: Path) -> None:
    async with Power(tmp_path / "records.sqlite") as dying:
        with pytest.raises(KeyboardInterrupt):
            await once(dying).vote(VOTE)
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        signed = once(records)
        assert await signed.stored_vote("condition", 7) == VOTE
        with pytest.raises(Refused, match="contradiction"):  # measured anew, a little different
            await signed.vote(replace(VOTE, accuracy=699_999))
        assert recover(VOTE.hash(ROUNDS), bytes.fromhex((await signed.vote(VOTE)).signature)) == OWN.address


async def test_nothing_is_stored_of_what_was_never_signed(records: SqliteRecords) -> None:
    signed = once(records)
    assert await signed.stored_sum("condition", 7) is None
    assert await signed.stored_vote("condition", 7) is None
    assert list(await signed.stored_reports("condition", 7)) == []


async def test_reports_come_back_in_parts_and_are_forgotten_while_votes_stay(records: SqliteRecords) -> None:
    signed = once(records)
    second = replace(REPORT, part=1, results=(DeviceResult(AGENTS[1].address, 0, 0),))
    later = replace(REPORT, round=9)
    for report in (second, REPORT, later):
        await signed.report(report)
    await signed.vote(VOTE)
    assert list(await signed.stored_reports("condition", 7)) == [REPORT, second]
    await signed.forget_reports("condition", 8)
    assert list(await signed.stored_reports("condition", 7)) == []
    assert list(await signed.stored_reports("condition", 9)) == [later]
    assert await signed.stored_vote("condition", 7) == VOTE
