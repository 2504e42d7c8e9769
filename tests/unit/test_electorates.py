"""An agent follows elections only along signatures of those whom it knows, from the pinned electorate on."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.adapters.clock import SystemClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Refused
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.wire.electorate import Electorate
from gemel.wire.identity import Identity
from gemel.wire.reasons import Reason
from gemel.wire.standing import quorum_time_ms
from gemel.wire.topics import Learning
from gemel.wire.types import Address
from tests.support.parties import AGENTS, TRUST, VALIDATORS, identity
from tests.support.seats import MORE, OTHER_PART, PINNED, NoBus, electorate, facts_of, handover

A, B, C = VALIDATORS
SECOND = electorate(2, (A, B, MORE[0]))
THIRD = electorate(3, (MORE[0], MORE[1], B))
FOURTH = electorate(4, MORE)


@pytest_asyncio.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


async def refused(electorates: Electorates, signers: tuple[Identity, ...], following: Electorate) -> str:
    """Why a handover is not taken; nothing has changed then."""
    before = electorates.current
    with pytest.raises(Refused) as error:
        await electorates.take(handover(following, signers))
    assert electorates.current == before
    return error.value.reason


async def test_handovers_signed_by_a_quorum_of_the_set_before_are_followed_and_outlive_a_restart(
    records: SqliteRecords,
) -> None:
    electorates = await Electorates.load(records, TRUST)
    assert await electorates.take(handover(SECOND, (A, B)))
    assert await electorates.take(handover(THIRD, (MORE[0], A, B)))
    again = await Electorates.load(records, TRUST)
    for known in (electorates, again):
        assert known.current == THIRD
        assert [known.of_epoch(epoch) for epoch in (1, 2, 3)] == [PINNED, SECOND, THIRD]
        assert all(each.address in known for each in (A, B, C, MORE[0], MORE[1]))
        assert MORE[2].address not in known
        assert list(known.after_pinned()) == [SECOND, THIRD]


async def test_forged_handovers_are_refused_one_by_one(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    assert await refused(electorates, (), SECOND) == Reason.NO_QUORUM
    assert await refused(electorates, (A,), SECOND) == Reason.NO_QUORUM
    assert await refused(electorates, (A, A, A), SECOND) == Reason.NO_QUORUM  # one voice, however often
    assert await refused(electorates, (A, B, MORE[0]), SECOND) == Reason.NO_QUORUM  # a seat of the next, not of this
    assert await refused(electorates, MORE[:3], SECOND) == Reason.NO_QUORUM  # those who would like to sit

    good = handover(SECOND, (A, B))
    others_words = replace(good.signatures[0], validator=B.address)
    with pytest.raises(Refused, match="no_quorum"):
        await electorates.take(replace(good, signatures=(good.signatures[0], others_words)))
    with pytest.raises(Refused, match="digest_mismatch"):  # signed for another set
        await electorates.take(replace(good, electorate=electorate(2, MORE)))
    with pytest.raises(Refused, match="digest_mismatch"):  # signed for another epoch
        await electorates.take(handover(SECOND, (A, B), facts=replace(facts_of(SECOND), epoch=9)))
    assert await electorates.take(good)


async def test_weights_count_and_not_heads(records: SqliteRecords) -> None:
    heavy = electorate(2, (A, B, C), weights=(1000, 1, 1))
    electorates = await Electorates.load(records, TRUST)
    await electorates.take(handover(heavy, (A, B, C)))
    assert await refused(electorates, (B, C), electorate(3, MORE)) == Reason.NO_QUORUM
    assert await electorates.take(handover(electorate(3, MORE), (A,)))


async def test_another_part_for_a_quorum_is_refused_whoever_signs_it(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    assert await refused(electorates, VALIDATORS, OTHER_PART) == Reason.NO_QUORUM


async def test_replayed_handover_changes_nothing_and_a_second_set_for_an_epoch_is_refused(
    records: SqliteRecords,
) -> None:
    electorates = await Electorates.load(records, TRUST)
    await electorates.take(handover(SECOND, (A, B)))
    await electorates.take(handover(THIRD, (A, B)))
    assert not await electorates.take(handover(SECOND, (A, B)))
    assert await refused(electorates, (A, B, C), electorate(2, (A, B, C))) == Reason.DIGEST_MISMATCH
    assert await refused(electorates, VALIDATORS, electorate(1, MORE)) == Reason.DIGEST_MISMATCH
    assert await refused(electorates, VALIDATORS, electorate(0, MORE)) == Reason.NOT_ABOVE


async def test_skipped_epoch_is_followed_only_by_signatures_of_known_members_and_comes_in_later(
    records: SqliteRecords,
) -> None:
    electorates = await Electorates.load(records, TRUST)
    assert await refused(electorates, (MORE[0], A, B), THIRD) == Reason.NO_QUORUM  # MORE[0] is nobody yet
    assert await electorates.take(handover(THIRD, (A, B)))  # two of the pinned three signed past the second
    with pytest.raises(Refused, match="unknown_epoch"):
        electorates.of_epoch(2)
    assert await electorates.take(handover(SECOND, (A, C)))
    assert (electorates.of_epoch(2), electorates.current) == (SECOND, THIRD)


async def test_lost_seat_hands_over_nothing_more(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    await electorates.take(handover(SECOND, (A, B)))
    assert await refused(electorates, (A, C), THIRD) == Reason.NO_QUORUM


async def test_who_reads_the_chain_adopts_and_replaces(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    await electorates.adopt(THIRD)
    other = electorate(3, MORE)
    await electorates.adopt(other)  # the block with the first was replaced
    assert electorates.current == other == (await Electorates.load(records, TRUST)).current


async def test_what_descends_from_another_pinned_electorate_is_forgotten(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    await electorates.take(handover(SECOND, (A, B)))
    pinned_anew = TRUST.under(electorate(1, (A, B, identity(99))))
    electorates = await Electorates.load(records, pinned_anew)
    assert electorates.current == pinned_anew.electorate
    assert electorates.after_pinned() == []


async def test_electorate_that_is_pinned_later_keeps_what_led_to_it(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    await electorates.take(handover(SECOND, (A, B)))
    electorates = await Electorates.load(records, TRUST.under(SECOND))
    assert (electorates.current, electorates.of_epoch(1)) == (SECOND, PINNED)


async def test_post_and_its_copies_answer_with_the_electorate_in_force(records: SqliteRecords) -> None:
    electorates = await Electorates.load(records, TRUST)
    bus, clock = NoBus(), SystemClock()
    post = Post(bus, TRUST, AGENTS[0], clock, in_force=lambda: electorates.trust)  # type: ignore[arg-type]
    beside = post.among(Learning(TRUST.fleet, TRUST.task, branch="/training"))
    await electorates.take(handover(SECOND, (A, B)))
    for each in (post, beside):
        assert each.trust.electorate == SECOND
        assert {c.address for c in each.trust.collectors} == SECOND.addresses | {TRUST.coordinator.address}
    assert Post(bus, TRUST, AGENTS[0], clock).trust is TRUST  # type: ignore[arg-type]


# --- any chain of elections, and any liar ---------------------------------------------------------

CANDIDATES = tuple(identity(n) for n in range(200, 206))
seats = st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=4, unique=True)
elections = st.lists(st.tuples(seats, st.lists(st.integers(1, 1000), min_size=4, max_size=4)), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(elections, st.data())
async def test_any_set_of_signers_moves_an_agent_only_where_it_is_a_quorum_of_the_set_before(
    drawn: list[tuple[list[Identity], list[int]]], data: st.DataObject
) -> None:
    chain = [
        electorate(epoch, members, weights=weights[: len(members)])
        for epoch, (members, weights) in enumerate(drawn, start=1)
    ]
    with TemporaryDirectory() as folder:
        async with SqliteRecords(Path(folder) / "records.sqlite", synchronous="NORMAL") as opened:
            electorates = await Electorates.load(opened, TRUST.under(chain[0]))
            for before, following in itertools.pairwise(chain):
                signers = data.draw(st.lists(st.sampled_from(CANDIDATES), unique=True))
                weight = before.weight_of(each.address for each in signers)
                strangers = any(each.address not in before.addresses for each in signers)
                try:
                    await electorates.take(handover(following, signers))
                    assert weight >= before.quorum_weight
                    assert not strangers
                except Refused:
                    assert strangers or weight < before.quorum_weight
                    break
            assert electorates.current in chain


times = st.dictionaries(st.sampled_from([each.address for each in CANDIDATES]), st.integers(0, 10**6))


@given(seats, st.lists(st.integers(1, 1000), min_size=4, max_size=4), st.integers(500_001, 1_000_000), times)
def test_quorum_time_is_the_newest_at_which_a_quorum_has_spoken(
    members: list[Identity], weights: list[int], part: int, times_ms: dict[Address, int]
) -> None:
    of = electorate(1, members, weights=weights[: len(members)], quorum_part=part)

    def spoken_since(time_ms: int) -> bool:
        return of.weight_of(who for who, said in times_ms.items() if said >= time_ms) >= of.quorum_weight

    found = quorum_time_ms(times_ms, of)
    if found is None:
        assert not spoken_since(0)
    else:
        assert spoken_since(found)
        assert not any(spoken_since(later) for later in times_ms.values() if later > found)
