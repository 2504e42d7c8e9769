"""Which ballots are taken from the bus, which hold against the chain, and when a pile of them goes in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.ballot_checks import Domains, Poll, check_ballot, is_asked_for
from coordinator.ballots import GRACE_S, KEPT_ROUNDS, MOST_BALLOTS, Ballots, Pile
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Malformed, Refused
from gemel.exchange.post import Post
from gemel.ports import BallotRecord, RoundRecord, RoundState, Verdict
from gemel.wire.attestations import Confirmation, ModelAttestation, SumAttestation, Vote, attest, seal_vote
from gemel.wire.eip712 import Domain
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import (
    Ballot,
    DeviceResult,
    SignedResults,
    SignedSeal,
    SignedSum,
    SignedVote,
    encode,
)
from gemel.wire.trust_report import sign_report
from gemel.wire.types import NO_DIGEST
from tests.support.parties import AGENTS, TRUST, VALIDATORS, identity
from tests.support.seats import NoBus, electorate

DOMAINS = Domains(TRUST.domain, Domain(1337, "0x" + "bb" * 20), Domain(1337, "0x" + "cc" * 20))
ELECTORATE = electorate(4, VALIDATORS, weights=(500, 300, 200), quorum_part=600_000)
NUMBER, DEPLOYMENT = 7, 3
RECORD = RoundRecord(
    state=RoundState.MEASURED,
    base="aa" * 32,
    policy="bb" * 32,
    roster_root="01" * 32,
    updates_root="02" * 32,
    sum_digest="03" * 32,
    owners=3,
    weight=100,
    opened="04" * 32,
    model="05" * 32,
    explanation=NO_DIGEST,
    deployment=0,
    accuracy=0,
    baseline=0,
    epoch=4,
    opened_block=100,
)
POLL = Poll(TRUST.task, NUMBER, RECORD, DEPLOYMENT, ELECTORATE)
RESULTS = (DeviceResult(AGENTS[0].address, 1_000_000, 600_000),)

# --- what honest validators send ----------------------------------------------------------------------


def vote_of(who: Identity, accuracy: int = 700_000, deployment: int = DEPLOYMENT) -> Vote:
    said = ModelAttestation(TRUST.task, NUMBER, deployment, RECORD.base, RECORD.model, accuracy, 650_000, True)
    return Vote(who.address, accuracy, 650_000, True, attest(said, DOMAINS.rounds, who).hex())


def a_sum(who: Identity) -> SignedSum:
    proposed = (RECORD.updates_root, RECORD.sum_digest, RECORD.owners, RECORD.weight)
    said = SumAttestation(TRUST.task, NUMBER, *proposed)
    return SignedSum(Confirmation(who.address, attest(said, DOMAINS.rounds, who).hex()))


def a_seal(who: Identity) -> SignedSeal:
    return SignedSeal(seal_vote(vote_of(who), TRUST.task, NUMBER, DOMAINS.votes, who))


def a_vote(who: Identity) -> SignedVote:
    return SignedVote(vote_of(who))


def a_report(who: Identity) -> SignedResults:
    return SignedResults(RESULTS, sign_report(RESULTS, TRUST.task, NUMBER, DOMAINS.trust, who))


KINDS: tuple[Callable[[Identity], Ballot], ...] = (a_sum, a_seal, a_vote, a_report)


@pytest.mark.parametrize("honest", KINDS)
def test_ballot_of_what_stands_on_chain_holds(honest: Callable[[Identity], Ballot]) -> None:
    for validator in VALIDATORS:
        check_ballot(honest(validator), POLL, DOMAINS)


@pytest.mark.parametrize("honest", KINDS)
def test_ballot_of_whoever_has_no_seat_is_refused(honest: Callable[[Identity], Ballot]) -> None:
    with pytest.raises(Refused, match="unregistered"):
        check_ballot(honest(identity(99)), POLL, DOMAINS)


def forged() -> dict[str, Ballot]:
    """Each names the first validator, and holds in all but one thing."""
    own, other = VALIDATORS[:2]
    address = own.address
    elsewhere = replace(RECORD, sum_digest="ff" * 32)
    said = SumAttestation(
        TRUST.task, NUMBER, elsewhere.updates_root, elsewhere.sum_digest, elsewhere.owners, elsewhere.weight
    )
    vote, sealed, report = vote_of(own), a_seal(own).sealed, a_report(own)
    return {
        "another's sum": SignedSum(Confirmation(address, a_sum(other).confirmation.signature)),
        "another sum": SignedSum(Confirmation(address, attest(said, DOMAINS.rounds, own).hex())),
        "a sum that is no signature": SignedSum(Confirmation(address, "00" * 65)),
        "a copied commitment": SignedSeal(replace(sealed, commitment=a_seal(other).sealed.commitment)),
        "a commitment for another contract": SignedSeal(
            seal_vote(vote, TRUST.task, NUMBER, DOMAINS.rounds, own),
        ),
        "a commitment for another round": SignedSeal(seal_vote(vote, TRUST.task, NUMBER + 1, DOMAINS.votes, own)),
        "another accuracy": SignedVote(replace(vote, accuracy=vote.accuracy + 1)),
        "another verdict": SignedVote(replace(vote, approved=False)),
        "another deployment number": SignedVote(vote_of(own, deployment=DEPLOYMENT + 1)),
        "another's vote": SignedVote(replace(vote_of(other), validator=address)),
        "other results": SignedResults((replace(RESULTS[0], share=1_000_000),), report.confirmation),
        "no results": SignedResults((), sign_report((), TRUST.task, NUMBER, DOMAINS.trust, own)),
    }


@pytest.mark.parametrize("what", forged())
def test_forged_ballot_is_refused(what: str) -> None:
    with pytest.raises(Refused):
        check_ballot(forged()[what], POLL, DOMAINS)


def test_each_kind_is_asked_for_in_its_states_only() -> None:
    asked = {
        honest: {state for state in RoundState if is_asked_for(honest(VALIDATORS[0]), state)} for honest in KINDS
    }
    assert asked[a_sum] == {RoundState.AGGREGATED}
    assert asked[a_seal] == asked[a_vote] == {RoundState.MEASURED}
    decided = {RoundState.APPROVED, RoundState.REJECTED, RoundState.DEPLOYED, RoundState.ROLLED_BACK}
    assert asked[a_report] == decided


# --- when a pile is handed in -------------------------------------------------------------------------


def pile_of(*validators: Identity, newest_s: float = 0.0) -> Pile:
    return Pile(ELECTORATE, {each.address: a_sum(each) for each in validators}, newest_s=newest_s)


def test_pile_goes_in_at_once_when_all_are_there() -> None:
    assert pile_of(*VALIDATORS).is_due(3, 0.0)


def test_quorum_waits_a_little_for_more_and_less_than_a_quorum_for_ever() -> None:
    first, second, third = VALIDATORS
    quorum = pile_of(first, third, newest_s=10.0)  # 700 of 1,000
    assert not quorum.is_due(3, 10.0 + GRACE_S - 0.1)
    assert quorum.is_due(3, 10.0 + GRACE_S)
    assert not pile_of(second, third).is_due(3, 1e9)  # two of three, and half of the stake


def test_votes_of_all_who_committed_go_in_without_a_quorum() -> None:
    """No more can come, and only once they have is the vote over."""
    second = VALIDATORS[1]
    votes = Pile(ELECTORATE, {second.address: a_vote(second)})
    assert votes.is_due(1, 0.0)
    assert not votes.is_due(2, 1e9)
    assert not pile_of(second).is_wanted


def test_what_is_in_does_not_go_in_again_and_late_ones_follow() -> None:
    pile = pile_of(*VALIDATORS[:2])
    pile.done |= {each.address for each in VALIDATORS[:2]}
    assert not pile.is_due(3, 1e9)
    pile.ballots[VALIDATORS[2].address] = a_sum(VALIDATORS[2])
    assert pile.is_due(3, 0.0)
    assert set(pile.waiting) == {VALIDATORS[2].address}


def test_contract_that_wants_more_is_not_asked_again_before_there_is_more() -> None:
    pile = pile_of(*VALIDATORS[:2])
    pile.tried = 2
    assert not pile.is_due(2, 1e9)
    pile.ballots[VALIDATORS[2].address] = a_sum(VALIDATORS[2])
    assert pile.is_due(3, 1e9)


# --- what is taken from the bus -----------------------------------------------------------------------


@pytest_asyncio.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


def ballots_of(records: SqliteRecords, electorate_: Electorate = ELECTORATE) -> Ballots:
    """No chain: nothing here is checked against it yet."""
    post = Post(NoBus(), TRUST, VALIDATORS[0], FakeClock())  # type: ignore[arg-type]  # it only signs
    none = object()
    return Ballots(post, none, none, none, none, records, DOMAINS, lambda: NUMBER)  # type: ignore[arg-type]


def message(ballot: Ballot, sender: Identity, number: int = NUMBER) -> Envelope:
    return Post(NoBus(), TRUST, sender, FakeClock()).sign(  # type: ignore[arg-type]
        Kind.BALLOT, encode(ballot), round_=number
    )


async def stored(records: SqliteRecords) -> int:
    return len(await records.items("ballot"))


async def test_ballot_is_stored_once_before_it_is_acknowledged(records: SqliteRecords) -> None:
    ballots, own = ballots_of(records), VALIDATORS[0]
    for honest in KINDS:
        await ballots.put(message(honest(own), own))
        await ballots.put(message(honest(own), own))  # QoS 1 may repeat
    assert await stored(records) == len(KINDS)


async def test_second_ballot_that_differs_is_refused_and_the_first_stands(records: SqliteRecords) -> None:
    ballots, own = ballots_of(records), VALIDATORS[0]
    await ballots.put(message(a_vote(own), own))
    with pytest.raises(Refused, match="contradiction"):
        await ballots.put(message(SignedVote(vote_of(own, accuracy=1)), own))
    assert await stored(records) == 1


async def test_anothers_ballot_is_refused(records: SqliteRecords) -> None:
    with pytest.raises(Refused, match="bad_signature"):
        await ballots_of(records).put(message(a_vote(VALIDATORS[0]), VALIDATORS[1]))
    assert await stored(records) == 0


@pytest.mark.parametrize("number", [NUMBER + 1, NUMBER - KEPT_ROUNDS, 0])
async def test_ballot_of_a_round_that_is_not_about_is_refused(records: SqliteRecords, number: int) -> None:
    with pytest.raises(Refused, match="stale_round"):
        await ballots_of(records).put(message(a_vote(VALIDATORS[0]), VALIDATORS[0], number))


async def test_validator_that_floods_is_stopped(records: SqliteRecords) -> None:
    ballots, own = ballots_of(records), VALIDATORS[0]
    for share in range(MOST_BALLOTS):
        report = SignedResults((replace(RESULTS[0], share=share),), a_report(own).confirmation)
        await ballots.put(message(report, own))
    with pytest.raises(Refused, match="no_room"):
        await ballots.put(message(a_vote(own), own))
    await ballots.put(message(a_vote(VALIDATORS[1]), VALIDATORS[1]))
    assert await stored(records) == MOST_BALLOTS + 1


@given(st.binary(max_size=300))
async def test_body_that_is_no_ballot_is_malformed(data: bytes) -> None:
    post = Post(NoBus(), TRUST, VALIDATORS[0], FakeClock())  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        await ballots_of(None).put(post.sign(Kind.BALLOT, data, round_=NUMBER))  # type: ignore[arg-type]


async def test_votes_are_forgotten_with_their_round_and_reports_later(records: SqliteRecords) -> None:
    ballots, own = ballots_of(records), VALIDATORS[0]
    for honest in KINDS:
        await ballots.put(message(honest(own), own))
    await ballots.clear_through(NUMBER - 1)
    assert await stored(records) == len(KINDS)
    await ballots.clear_through(NUMBER)
    assert [key.rsplit("/", 1)[1][:13] for key, _ in await records.items("ballot")] == ["SignedResults"]
    await ballots.clear_through(NUMBER + KEPT_ROUNDS)
    assert await stored(records) == 0


# --- when a ballot on chain is over -------------------------------------------------------------------


BALLOT = BallotRecord(4, 100, 200, 3, 0, 0, closed=False, verdict=Verdict.APPROVED)


@pytest.mark.parametrize(
    ("committed", "revealed", "now_s", "committing", "can_close"),
    [
        (0, 0, 99, True, False),
        (2, 0, 99, True, False),
        (3, 0, 99, False, False),  # all have
        (3, 3, 99, False, True),
        (2, 1, 100, False, False),
        (2, 2, 100, False, True),
        (0, 0, 100, False, True),  # nobody has: nothing is to come
        (2, 1, 199, False, False),
        (2, 1, 200, False, True),
    ],
)
def test_ballot_takes_commitments_then_votes_and_then_nothing(
    committed: int, revealed: int, now_s: int, committing: bool, can_close: bool
) -> None:
    ballot = replace(BALLOT, committed=committed, revealed=revealed)
    assert (ballot.is_committing(now_s), ballot.can_close(now_s)) == (committing, can_close)


def test_ballot_that_does_not_exist_cannot_be_closed() -> None:
    assert not replace(BALLOT, epoch=0, commit_until_s=0, reveal_until_s=0).can_close(1)
