"""What a quorum of validators says: the newest word of each, verified; nothing that is repeated or invented."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio
from msgspec.structs import replace

from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.exchange.standings import AHEAD_MS, EPOCHS_KEPT, Standings
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Standing, encode
from gemel.wire.standing import check_standing, sign_standing
from gemel.wire.types import Address
from tests.support.parties import AGENTS, LISTENER, TRUST, VALIDATORS
from tests.support.seats import MORE, NOW_MS, PINNED, Air, electorate, facts_of, said_by, standing

A, B, C = VALIDATORS
SECOND = electorate(2, (A, B, MORE[0]))
THIRD = electorate(3, (B, C, MORE[0]))


@dataclass
class Hearing:
    """Standings on the air, and what was refused."""

    air: Air
    standings: Standings
    electorates: Electorates
    clock: FakeClock
    refusals: list[tuple[str, str]]

    async def hear(self, *messages: Envelope, under: Address | None = None) -> None:
        for message in messages:
            await self.air.hand_out(self.topic(under or message.header.sender), message)

    def topic(self, validator: Address) -> str:
        return f"gemel/v1/{TRUST.fleet}/learning/{TRUST.task}/standing/{validator}"


@pytest_asyncio.fixture
async def hearing(tmp_path: Path) -> AsyncIterator[Hearing]:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        electorates = await Electorates.load(records, TRUST)
        air, clock, refusals = Air(), FakeClock(NOW_MS), list[tuple[str, str]]()
        post = Post(
            air,  # type: ignore[arg-type]  # all that it hears
            TRUST,
            AGENTS[0],
            clock,
            lambda kind, reason: refusals.append((kind, reason)),
            in_force=lambda: electorates.trust,
        )
        standings = Standings(post, electorates)
        await standings.listen()
        yield Hearing(air, standings, electorates, clock, refusals)


async def test_quorum_agrees_and_the_age_is_that_of_the_oldest_word_it_needs(hearing: Hearing) -> None:
    assert hearing.standings.agreed(PINNED) is None
    await hearing.hear(standing(A, PINNED, NOW_MS - 9000))
    assert hearing.standings.agreed(PINNED) is None
    await hearing.hear(standing(B, PINNED, NOW_MS - 5000), standing(C, PINNED, NOW_MS - 1000))
    agreed = hearing.standings.agreed(PINNED)
    assert agreed is not None
    assert (agreed.facts, agreed.time_ms) == (facts_of(PINNED), NOW_MS - 5000)
    check_standing(agreed.facts, agreed.signatures, TRUST.task, TRUST.domain, PINNED)
    assert hearing.refusals == []


async def test_validators_who_disagree_are_no_quorum(hearing: Hearing) -> None:
    await hearing.hear(standing(A, PINNED, NOW_MS), standing(B, PINNED, NOW_MS, facts=facts_of(PINNED, deployment=2)))
    assert hearing.standings.agreed(PINNED) is None
    await hearing.hear(standing(A, PINNED, NOW_MS + 1, facts=facts_of(PINNED, deployment=2)))
    agreed = hearing.standings.agreed(PINNED)
    assert agreed is not None
    assert agreed.facts.deployment == 2


async def test_repeated_and_older_words_change_nothing(hearing: Hearing) -> None:
    old, new = standing(A, PINNED, NOW_MS - 60_000), standing(A, PINNED, NOW_MS, facts=facts_of(PINNED, deployment=2))
    await hearing.hear(old, new, old, old, standing(B, PINNED, NOW_MS, facts=facts_of(PINNED, deployment=2)))
    agreed = hearing.standings.agreed(PINNED)
    assert agreed is not None
    assert (agreed.facts.deployment, agreed.time_ms) == (2, NOW_MS)
    assert hearing.refusals == []  # brokers keep messages: nothing to complain of


async def test_words_that_do_not_hold_are_refused_each_for_its_reason(hearing: Hearing) -> None:
    good = facts_of(PINNED)
    signature = sign_standing(good, TRUST.task, TRUST.domain, A, block=1, time_ms=NOW_MS)

    def body(**changes: object) -> bytes:
        return encode(replace(Standing(good, PINNED, signature), **changes))

    for message, reason in (
        (standing(LISTENER, PINNED, NOW_MS), "unregistered"),  # not a validator
        (standing(MORE[0], PINNED, NOW_MS), "unregistered"),  # not elected
        (standing(A, PINNED, NOW_MS, sender=B), "bad_signature"),  # another's word
        (said_by(A, Kind.STANDING, body(signature=replace(signature, time_ms=NOW_MS + 1))), "bad_signature"),
        (said_by(A, Kind.STANDING, body(signature=replace(signature, block=2))), "bad_signature"),
        (said_by(A, Kind.STANDING, body(facts=replace(good, deployment=9))), "bad_signature"),
        (said_by(A, Kind.STANDING, body(electorate=SECOND)), "digest_mismatch"),
        (said_by(A, Kind.STANDING, body(facts=replace(good, epoch=2))), "digest_mismatch"),
        (standing(A, PINNED, NOW_MS + AHEAD_MS + 1), "from_future"),
        (said_by(A, Kind.STANDING, b"{}"), "malformed"),
        (said_by(A, Kind.DEPLOYMENT, body()), "wrong_kind"),
    ):
        await hearing.hear(message)
        assert [reason for _, reason in hearing.refusals] == [reason], reason
        hearing.refusals.clear()
    await hearing.hear(standing(B, PINNED, NOW_MS))
    assert hearing.standings.agreed(PINNED) is None  # nothing of A's was kept
    await hearing.hear(standing(A, PINNED, NOW_MS + AHEAD_MS))  # clocks differ
    assert hearing.standings.agreed(PINNED) is not None


async def test_next_electorate_is_named_by_a_quorum_of_the_one_before_also_when_some_speak_of_a_later_one(
    hearing: Hearing,
) -> None:
    await hearing.hear(standing(A, PINNED, NOW_MS), standing(B, PINNED, NOW_MS))
    assert hearing.standings.handover(PINNED) is None
    await hearing.hear(standing(A, SECOND, NOW_MS + 1))
    assert hearing.standings.handover(PINNED) is None
    await hearing.hear(standing(A, THIRD, NOW_MS + 3), standing(C, SECOND, NOW_MS + 2))
    handover = hearing.standings.handover(PINNED)
    assert handover is not None
    assert handover.electorate == SECOND
    assert await hearing.electorates.take(handover)
    assert hearing.standings.handover(PINNED, 3) is None
    await hearing.hear(standing(MORE[0], THIRD, NOW_MS + 4), standing(B, THIRD, NOW_MS + 4))
    third = hearing.standings.handover(SECOND)
    assert third is not None
    assert await hearing.electorates.take(third)


async def test_validator_that_names_epochs_without_end_fills_no_memory(hearing: Hearing) -> None:
    for epoch in range(2, 3 * EPOCHS_KEPT):
        await hearing.hear(standing(A, electorate(epoch, MORE), NOW_MS))
    assert len(hearing.standings._said[A.address]) == EPOCHS_KEPT


async def test_who_waits_for_a_quorum_gets_it_when_the_last_word_comes(hearing: Hearing) -> None:
    restored = facts_of(PINNED, deployment=3)
    waiting = asyncio.create_task(hearing.standings.quorum(lambda facts: facts.deployment == 3))
    await hearing.hear(standing(A, PINNED, NOW_MS), standing(B, PINNED, NOW_MS))
    await hearing.hear(standing(A, PINNED, NOW_MS + 1, facts=restored))
    await asyncio.sleep(0)
    assert not waiting.done()
    await hearing.hear(standing(C, PINNED, NOW_MS, facts=restored))
    facts, signatures = await waiting
    assert facts == restored
    assert {each.validator for each in signatures} == {A.address, C.address}
