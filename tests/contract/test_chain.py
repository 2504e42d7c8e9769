"""The Chain port on both nodes: the embedded chain and anvil."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from gemel.adapters.chain_export import decode_export, encode_export, export_chain, exported_calls, exported_events
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_node import EvmNode, Patience
from gemel.errors import ChainReverted, ChainUnavailable, ConfigError, Malformed, Refused
from gemel.ports import ChainEvent, LineageRecord, PartyRecord, Role, RoundState, Sent
from gemel.wire.attestations import (
    Confirmation,
    ModelAttestation,
    SealedVote,
    SumAttestation,
    Vote,
    attest,
    check_quorum,
    seal_vote,
)
from gemel.wire.eip712 import task_id
from gemel.wire.identity import Identity
from gemel.wire.types import NO_DIGEST, Digest, sha256
from tests.support.chains import (
    FUNDED,
    OPERATOR,
    PARTIES,
    STRANGER,
    TERMS,
    Fleet,
    open_fleet,
    party,
    proof_of,
    running_chain,
)
from tests.support.parties import COORDINATOR, LISTENER, VALIDATORS, identity
from tests.support.ports import free_port

# One node and one deployment for the whole module, a task of its own for every test.
pytestmark = pytest.mark.asyncio(loop_scope="module")
POLICY, ROSTER, UPDATES, SUM, OPENED, EXPLANATION = (sha256(bytes([n])) for n in range(6))
M0 = sha256(b"M0")
GATE = {
    "threshold": 600_000,
    "max_regression": 20_000,
    "minimum_owners": 3,
    "quorum_part": TERMS.quorum_part,
    "policy": POLICY,
}
_numbers = count()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with (
        running_chain(tmp_path_factory.mktemp("chain"), FUNDED, request.param) as chain,
        open_fleet(chain) as opened,
    ):
        yield opened


class Round:
    """Drives one task through its states, with real signatures."""

    def __init__(self, fleet: Fleet, task: str, created: Sent) -> None:
        self.fleet, self.task, self.number, self.created = fleet, task, 0, created

    async def sum_vote(self, *validators: Identity, **changed: object) -> None:
        said = msgspec.structs.replace(SumAttestation(self.task, self.number, UPDATES, SUM, 3, 100), **changed)
        signed = [Confirmation(v.address, attest(said, self.fleet.domain, v).hex()) for v in validators]
        await self.fleet.coordinator.attest_sums(self.task, self.number, signed)

    async def vote(self, validator: Identity, accuracy: int, baseline: int = 0, *, approved: bool = True) -> Vote:
        task = await self.fleet.coordinator.task(self.task)
        candidate = await self.fleet.coordinator.round(self.task, self.number)
        said = ModelAttestation(
            self.task,
            self.number,
            task.deployment + 1,
            candidate.base,
            candidate.model,
            accuracy,
            baseline,
            approved,
        )
        return Vote(validator.address, accuracy, baseline, approved, attest(said, self.fleet.domain, validator).hex())

    def sealed(self, vote: Vote) -> SealedVote:
        who = next(validator for validator in VALIDATORS if validator.address == vote.validator)
        return seal_vote(vote, self.task, self.number, self.fleet.place.votes, who)

    async def commit(self, *votes: Vote) -> None:
        await self.fleet.coordinator.commit_votes(self.task, self.number, [self.sealed(vote) for vote in votes])

    async def reveal(self, *votes: Vote) -> None:
        await self.fleet.coordinator.reveal_votes(self.task, self.number, votes)

    async def cast(self, *measured: tuple[int, int, bool]) -> list[Vote]:
        """Everybody who was elected measures so, commits and reveals."""
        votes = [
            await self.vote(validator, accuracy, baseline, approved=approved)
            for validator, (accuracy, baseline, approved) in zip(VALIDATORS, measured, strict=True)
        ]
        await self.commit(*votes)
        await self.reveal(*votes)
        return votes

    async def genesis(self) -> None:
        await self.fleet.coordinator.propose_genesis(self.task, model=M0, policy=POLICY)
        await self.cast(*[(100_000, 0, True)] * 3)
        await self.fleet.coordinator.finalise(self.task, 0)
        await self.fleet.listener.record_deployed(self.task, 0, agents=4)

    async def open(self) -> None:
        record = await self.fleet.coordinator.task(self.task)
        self.number = record.last_round + 1
        await self.fleet.coordinator.open_round(self.task, self.number, base=record.model, policy=POLICY)

    async def listed(self) -> None:
        await self.open()
        await self.fleet.coordinator.close_list(self.task, self.number, root=ROSTER)

    async def propose_sum(self, owners: int = 3) -> None:
        await self.fleet.coordinator.propose_sum(
            self.task, self.number, updates_root=UPDATES, sum_digest=SUM, owners=owners, weight=100
        )

    async def confirmed(self) -> None:
        await self.listed()
        await self.propose_sum()
        await self.sum_vote(*VALIDATORS[:2])

    async def measured(self, model: Digest | None = None) -> None:
        await self.confirmed()
        await self.fleet.custodian.record_opening(self.task, self.number, opened=OPENED)
        await self.fleet.coordinator.propose_candidate(
            self.task,
            self.number,
            model=model or sha256(f"model {self.number}".encode()),
            explanation=EXPLANATION,
            accuracy=700_000,
        )

    async def finalise(self) -> None:
        await self.fleet.coordinator.finalise(self.task, self.number)

    async def state(self) -> RoundState:
        return (await self.fleet.coordinator.round(self.task, self.number)).state


@pytest_asyncio.fixture(loop_scope="module")
async def round_(fleet: Fleet) -> Round:
    """A new task with M0 not yet proposed."""
    task = f"task-{next(_numbers)}"
    return Round(fleet, task, await fleet.operator.create_task(task, **GATE))


async def refused(call: Awaitable[object], error: str) -> dict[str, object]:
    """The values of the contract's error that `call` runs into."""
    with pytest.raises(ChainReverted) as caught:
        await call
    assert caught.value.error == error
    return caught.value.values


# --- a whole round ------------------------------------------------------------------------------


async def test_whole_round_passes_every_state_and_deploys(fleet: Fleet, round_: Round) -> None:
    coordinator, task = fleet.coordinator, round_.task
    await round_.genesis()
    record = await coordinator.task(task)
    assert (record.deployment, record.model, record.last_round) == (1, M0, 0)

    await round_.open()
    assert await round_.state() is RoundState.OPEN
    await coordinator.close_list(task, 1, root=ROSTER)
    assert await round_.state() is RoundState.LISTED
    await round_.propose_sum()
    assert await round_.state() is RoundState.AGGREGATED
    await round_.sum_vote(*VALIDATORS[1:])  # two of three heads, and half of the stake
    assert await round_.state() is RoundState.AGGREGATED
    await round_.sum_vote(*VALIDATORS)
    assert await round_.state() is RoundState.CONFIRMED
    await fleet.custodian.record_opening(task, 1, opened=OPENED)
    assert await round_.state() is RoundState.OPENED
    model = sha256(b"M1")
    await coordinator.propose_candidate(task, 1, model=model, explanation=EXPLANATION, accuracy=700_000)
    assert await round_.state() is RoundState.MEASURED
    votes = await round_.cast((710_000, 100_000, True), (690_000, 100_000, True), (720_000, 100_000, True))
    async with fleet.client(STRANGER) as anybody:
        sent = await anybody.finalise(task, 1)
    assert sent.gas > 21_000
    assert await round_.state() is RoundState.APPROVED
    await fleet.listener.record_deployed(task, 1, agents=4)

    found = await coordinator.round(task, 1)
    assert found.state is RoundState.DEPLOYED
    assert (found.base, found.policy, found.roster_root) == (M0, POLICY, ROSTER)
    assert (found.updates_root, found.sum_digest, found.owners, found.weight) == (UPDATES, SUM, 3, 100)
    assert (found.opened, found.model, found.explanation) == (OPENED, model, EXPLANATION)
    assert (found.deployment, found.accuracy, found.baseline) == (2, 710_000, 100_000)
    assert (found.epoch, found.opened_block > 0) == (await coordinator.epoch(), True)
    record = await coordinator.task(task)
    assert (record.deployment, record.model, record.last_round) == (2, model, 1)
    assert await coordinator.lineage(task, model) == LineageRecord(M0, 1, 2, rolled_back=False)
    ballot = await coordinator.ballot(task, 1)
    assert (ballot.epoch, ballot.committed, ballot.revealed, ballot.closed) == (found.epoch, 3, 3, True)
    # what an agent checks before it swaps holds for the very votes that the chain took
    electorate = await coordinator.electorate(task, found.epoch)
    said = {"task": task, "round": 1, "deployment": 2, "parent": M0, "model": model}
    check_quorum(fleet.domain, **said, votes=votes, electorate=electorate)
    with pytest.raises(Refused):
        check_quorum(fleet.domain, **(said | {"deployment": 3}), votes=votes, electorate=electorate)


async def test_views_of_nothing_say_so(fleet: Fleet) -> None:
    assert (await fleet.coordinator.task("nowhere")).quorum_part == 0
    assert (await fleet.coordinator.ballot("nowhere", 7)).epoch == 0
    assert (await fleet.coordinator.lineage("nowhere", M0)).deployment == 0
    assert (await fleet.coordinator.round("nowhere", 7)).state is RoundState.NONE
    nobody = identity(99).address
    assert await fleet.coordinator.party(nobody) == PartyRecord(
        nobody, "0x" + "00" * 20, Role.NONE, NO_DIGEST, active=False
    )


async def test_parties_come_in_order_of_registration(fleet: Fleet) -> None:
    registered = [party(who, role) for who, role in PARTIES]
    assert list(await fleet.coordinator.parties())[: len(PARTIES)] == registered
    assert await fleet.coordinator.party(COORDINATOR.address) == registered[0]


# --- verdicts -------------------------------------------------------------------------------------


async def test_genesis_needs_approvals_only(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()  # measured at 0.1, below the threshold of 0.6
    assert (await fleet.coordinator.task(round_.task)).model == M0


async def test_genesis_without_approvals_is_rejected(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    await round_.cast(*[(900_000, 0, False)] * 3)
    await round_.finalise()
    assert await round_.state() is RoundState.REJECTED
    assert (await fleet.coordinator.task(round_.task)).deployment == 0


@pytest.mark.parametrize(
    ("votes", "state"),
    [
        ([(600_000, 620_000, True)] * 3, RoundState.APPROVED),  # exactly at both limits
        ([(599_999, 0, True)] * 3, RoundState.REJECTED),  # below the threshold
        ([(700_000, 720_001, True)] * 3, RoundState.REJECTED),  # regression
        ([(900_000, 0, False), (900_000, 0, True), (900_000, 0, True)], RoundState.REJECTED),  # half of the stake
        ([(900_000, 0, True), (900_000, 0, True), (900_000, 0, False)], RoundState.APPROVED),
        ([(700_000, 0, True), (0, 0, True), (700_000, 0, True)], RoundState.APPROVED),  # one liar moves no median
    ],
)
async def test_gate_decides_by_quorum_threshold_and_regression(
    fleet: Fleet, round_: Round, votes: list[tuple[int, int, bool]], state: RoundState
) -> None:
    await round_.genesis()
    await round_.measured()
    await round_.cast(*votes)
    await round_.finalise()
    assert await round_.state() is state


async def test_after_a_rejection_the_model_in_use_stays_the_base(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.measured()
    await round_.cast(*[(0, 0, False)] * 3)
    await round_.finalise()
    await round_.open()
    assert round_.number == 2
    assert (await fleet.coordinator.round(round_.task, 2)).base == M0


# --- refusals: who ----------------------------------------------------------------------------------

Act = Callable[[EvmChain, str], Awaitable[object]]
BY_ROLE: dict[str, tuple[Role, Act]] = {
    "propose_genesis": (Role.COORDINATOR, lambda c, t: c.propose_genesis(t, model=M0, policy=POLICY)),
    "open_round": (Role.COORDINATOR, lambda c, t: c.open_round(t, 1, base=M0, policy=POLICY)),
    "close_list": (Role.COORDINATOR, lambda c, t: c.close_list(t, 1, root=ROSTER)),
    "propose_sum": (
        Role.COORDINATOR,
        lambda c, t: c.propose_sum(t, 1, updates_root=UPDATES, sum_digest=SUM, owners=3, weight=1),
    ),
    "propose_candidate": (
        Role.COORDINATOR,
        lambda c, t: c.propose_candidate(t, 1, model=M0, explanation=EXPLANATION, accuracy=1),
    ),
    "abort": (Role.COORDINATOR, lambda c, t: c.abort(t, 1, reason="because")),
    "record_opening": (Role.CUSTODIAN, lambda c, t: c.record_opening(t, 1, opened=OPENED)),
    "record_deployed": (Role.LISTENER, lambda c, t: c.record_deployed(t, 1, agents=1)),
}


async def test_party_of_another_role_is_refused_every_call(fleet: Fleet, round_: Round) -> None:
    async with fleet.client(STRANGER) as stranger:
        for role, call in BY_ROLE.values():
            values = await refused(call(stranger, round_.task), "NotInRole")
            assert values == {"account": STRANGER.address, "role": role}
            wrong = fleet.custodian if role is not Role.CUSTODIAN else fleet.coordinator
            await refused(call(wrong, round_.task), "NotInRole")


async def test_only_the_operator_registers_suspends_and_creates_tasks(fleet: Fleet) -> None:
    async with fleet.client(STRANGER) as stranger:
        newcomer = party(identity(98), Role.VALIDATOR)
        for call in (
            stranger.register(newcomer, proof_of(identity(98), newcomer, fleet.place)),
            stranger.suspend(COORDINATOR.address),
            stranger.create_task("mine", **GATE),
            stranger.set_policy("mine", OPENED),
        ):
            values = await refused(call, "AccessControlUnauthorizedAccount")
            assert values["account"] == STRANGER.address


async def test_party_is_registered_once_and_suspended_once(fleet: Fleet) -> None:
    someone = await fleet.register(identity(97), Role.AGENT)
    again = fleet.register(identity(97), Role.AGENT)
    assert await refused(again, "AlreadyRegistered") == {"account": someone.address}
    await fleet.operator.suspend(someone.address)
    assert not (await fleet.operator.party(someone.address)).active
    await refused(fleet.operator.suspend(someone.address), "NotActive")
    await refused(fleet.register(identity(97), Role.AGENT), "AlreadyRegistered")


async def test_party_that_does_not_prove_its_key_is_not_registered(fleet: Fleet) -> None:
    someone, thief = identity(95), identity(94)
    record = party(someone, Role.AGENT)
    own = proof_of(someone, record, fleet.place)
    for wrong, proof in (
        (record, proof_of(thief, record, fleet.place)),
        (msgspec.structs.replace(record, owner=thief.address), own),
        (msgspec.structs.replace(record, role=Role.VALIDATOR), own),
        (msgspec.structs.replace(record, box="cd" * 32), own),
        (msgspec.structs.replace(record, address=thief.address), own),
        (record, "00" * 65),
        (record, ""),
    ):
        await refused(fleet.operator.register(wrong, proof), "BadSignature")
    assert (await fleet.operator.party(someone.address)).role is Role.NONE


async def test_suspended_validator_counts_no_more(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    async with (
        running_chain(tmp_path, FUNDED, fleet.chain.kind) as chain,
        open_fleet(chain) as own,  # of its own: who is suspended does not come back
    ):
        alone = Round(own, "alone", await own.operator.create_task("alone", **GATE))
        await alone.genesis()
        await alone.listed()
        await alone.propose_sum()
        await own.operator.suspend(VALIDATORS[2].address)
        values = await refused(alone.sum_vote(VALIDATORS[2]), "NotElected")
        assert values == {"validator": VALIDATORS[2].address, "epoch": 1}
        await alone.sum_vote(VALIDATORS[1])
        assert await alone.state() is RoundState.AGGREGATED
        await alone.sum_vote(VALIDATORS[0])
        assert await alone.state() is RoundState.CONFIRMED


async def test_signature_of_somebody_who_is_no_validator_is_refused(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    for outsider in (LISTENER, STRANGER):
        await refused(round_.sum_vote(outsider), "NotElected")


# --- refusals: signatures ---------------------------------------------------------------------------


async def test_sum_signatures_that_do_not_fit_are_refused(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    first, second = (validator.address for validator in VALIDATORS[:2])
    for changed in (
        {"round": 2},
        {"updates_root": ROSTER},
        {"sum_digest": OPENED},
        {"owners": 4},
        {"weight": 99},
        {"task": "other"},
    ):
        values = await refused(round_.sum_vote(VALIDATORS[0], **changed), "BadSignature")
        assert values["signer"] == first != values["recovered"]
    good = attest(SumAttestation(round_.task, 1, UPDATES, SUM, 3, 100), fleet.domain, VALIDATORS[0]).hex()
    under_anothers_name = fleet.coordinator.attest_sums(round_.task, 1, [Confirmation(second, good)])
    assert await refused(under_anothers_name, "BadSignature") == {"signer": second, "recovered": first}
    for nonsense in ("", "00" * 65, "ff" * 65, good[:-2]):
        call = fleet.coordinator.attest_sums(round_.task, 1, [Confirmation(first, nonsense)])
        await refused(call, "BadSignature")
    assert await round_.state() is RoundState.AGGREGATED


async def test_what_a_validator_signed_counts_once_however_often_it_is_handed_in(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    for _ in range(3):
        await round_.sum_vote(VALIDATORS[1], VALIDATORS[1])
    assert await round_.state() is RoundState.AGGREGATED  # 300 of 600, and not 1,800
    await round_.sum_vote(VALIDATORS[0], VALIDATORS[1])
    await fleet.custodian.record_opening(round_.task, 1, opened=OPENED)
    await fleet.coordinator.propose_candidate(round_.task, 1, model=SUM, explanation=EXPLANATION, accuracy=1)
    vote = await round_.vote(VALIDATORS[0], 1)
    await round_.commit(vote, vote)
    await round_.commit(vote)
    assert (await fleet.coordinator.ballot(round_.task, 1)).committed == 1
    other = await round_.vote(VALIDATORS[0], 2)
    values = await refused(round_.commit(other), "CommitmentDiffers")
    assert values["validator"] == VALIDATORS[0].address


async def test_vote_is_shown_only_after_all_have_committed(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    votes = [await round_.vote(validator, 900_000) for validator in VALIDATORS]
    await round_.commit(*votes[:2])
    await refused(round_.reveal(votes[0]), "NotRevealing")
    await refused(round_.finalise(), "NotOver")
    await round_.commit(votes[2])
    await round_.reveal(*votes[:2])
    await refused(round_.finalise(), "NotOver")
    await round_.reveal(votes[2])
    await round_.finalise()
    assert await round_.state() is RoundState.APPROVED


async def test_commitment_that_was_copied_cannot_be_opened(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    votes = [await round_.vote(validator, 900_000) for validator in VALIDATORS[:2]]
    copied = round_.sealed(votes[0]).commitment
    thief = VALIDATORS[2]
    await round_.commit(*votes)
    signature = thief.sign(
        fleet.place.votes.hash(
            "VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)",
            task_id(round_.task),
            0,
            bytes.fromhex(copied).ljust(32, b"\0"),
        )
    )
    same = SealedVote(thief.address, copied, signature.hex())
    await fleet.coordinator.commit_votes(round_.task, 0, [same])
    await round_.reveal(*votes)
    under_its_own_name = msgspec.structs.replace(votes[0], validator=thief.address)
    await refused(round_.reveal(under_its_own_name), "BadSignature")
    await refused(round_.reveal(await round_.vote(thief, 900_000)), "CommitmentDiffers")


async def test_vote_of_an_earlier_round_cannot_be_replayed(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.measured(model=OPENED)
    votes = await round_.cast(*[(900_000, 0, True)] * 3)
    await fleet.coordinator.abort(round_.task, 1, reason="again")
    await round_.measured(model=OPENED)  # the same candidate, from the same base, for the same deployment number
    await round_.commit(*votes)
    values = await refused(round_.reveal(votes[0]), "BadSignature")
    assert values["signer"] == VALIDATORS[0].address


async def test_vote_that_was_altered_on_the_way_is_refused(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    votes = [await round_.vote(validator, 900_000) for validator in VALIDATORS]
    await round_.commit(*votes)
    for changed in ({"accuracy": 900_001}, {"baseline": 1}, {"approved": False}):
        await refused(round_.reveal(msgspec.structs.replace(votes[0], **changed)), "BadSignature")
    beyond = msgspec.structs.replace(votes[0], accuracy=1_000_001)
    assert await refused(round_.reveal(beyond), "AccuracyOutOfRange") == {"accuracy": 1_000_001}


# --- rollback and policy ------------------------------------------------------------------------------


async def test_rollback_puts_the_parent_in_use_under_a_higher_number(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.measured()
    await round_.cast(*[(700_000, 0, True)] * 3)
    await round_.finalise()
    failed = (await fleet.coordinator.task(round_.task)).model
    await refused(fleet.coordinator.roll_back(round_.task, 1, agents=2, report=ROSTER), "NotInRole")
    await fleet.listener.roll_back(round_.task, 1, agents=2, report=ROSTER)
    assert await round_.state() is RoundState.ROLLED_BACK
    record = await fleet.coordinator.task(round_.task)
    assert (record.deployment, record.model) == (3, M0)
    assert await fleet.coordinator.lineage(round_.task, failed) == LineageRecord(M0, 1, 2, rolled_back=True)
    await refused(fleet.listener.record_deployed(round_.task, 1, agents=2), "WrongState")
    await round_.confirmed()
    assert (await fleet.coordinator.round(round_.task, 2)).base == M0
    await fleet.custodian.record_opening(round_.task, 2, opened=OPENED)
    again = fleet.coordinator.propose_candidate(
        round_.task, 2, model=failed, explanation=EXPLANATION, accuracy=700_000
    )
    assert await refused(again, "ModelKnown") == {"model": failed, "round": 1}


async def test_model_that_runs_everywhere_is_taken_back_by_the_operator_alone(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await refused(fleet.operator.roll_back(round_.task, 0, agents=0, report=ROSTER), "NothingBefore")
    await round_.measured()
    await round_.cast(*[(700_000, 0, True)] * 3)
    await round_.finalise()
    await fleet.listener.record_deployed(round_.task, 1, agents=4)
    late = fleet.listener.roll_back(round_.task, 1, agents=2, report=ROSTER)
    await refused(late, "AccessControlUnauthorizedAccount")
    await fleet.operator.roll_back(round_.task, 1, agents=4, report=ROSTER)
    assert (await fleet.coordinator.task(round_.task)).model == M0


async def test_policy_is_the_tasks_and_a_round_keeps_the_one_it_opened_under(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    other = fleet.coordinator.open_round(round_.task, 1, base=M0, policy=OPENED)
    assert await refused(other, "PolicyDiffers") == {"given": OPENED, "current": POLICY}
    await round_.open()
    await fleet.operator.set_policy(round_.task, OPENED)
    assert (await fleet.coordinator.task(round_.task)).policy == OPENED
    assert (await fleet.coordinator.round(round_.task, 1)).policy == POLICY
    await fleet.coordinator.abort(round_.task, 1, reason="next")
    await refused(fleet.coordinator.open_round(round_.task, 2, base=M0, policy=POLICY), "PolicyDiffers")
    await fleet.coordinator.open_round(round_.task, 2, base=M0, policy=OPENED)


# --- refusals: when and what --------------------------------------------------------------------------


async def test_calls_out_of_order_name_the_state(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.open()
    task, coordinator = round_.task, fleet.coordinator
    for call in (
        round_.propose_sum(),
        round_.sum_vote(VALIDATORS[0]),
        fleet.custodian.record_opening(task, 1, opened=OPENED),
        coordinator.propose_candidate(task, 1, model=SUM, explanation=EXPLANATION, accuracy=1),
        round_.finalise(),
        fleet.listener.record_deployed(task, 1, agents=1),
    ):
        assert await refused(call, "WrongState") == {"state": RoundState.OPEN}
    await coordinator.close_list(task, 1, root=ROSTER)
    assert await refused(coordinator.close_list(task, 1, root=ROSTER), "WrongState") == {"state": RoundState.LISTED}


async def test_sum_is_opened_once_and_only_when_confirmed(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    await round_.sum_vote(*VALIDATORS[1:])
    opening = {"opened": OPENED}
    await refused(fleet.custodian.record_opening(round_.task, 1, **opening), "WrongState")
    await round_.sum_vote(VALIDATORS[0])
    await fleet.custodian.record_opening(round_.task, 1, **opening)
    await refused(fleet.custodian.record_opening(round_.task, 1, **opening), "WrongState")


async def test_sum_of_too_few_owners_is_refused(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    assert await refused(round_.propose_sum(owners=2), "TooFewOwners") == {"owners": 2, "minimum": 3}


async def test_round_must_be_one_above_the_last_and_from_the_model_in_use(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    task, coordinator = round_.task, fleet.coordinator
    for number in (0, 2):
        call = coordinator.open_round(task, number, base=M0, policy=POLICY)
        assert await refused(call, "NotNextRound") == {"round": number, "expected": 1}
    call = coordinator.open_round(task, 1, base=SUM, policy=POLICY)
    assert await refused(call, "NotModelInUse") == {"model": SUM, "inUse": M0}
    await refused(coordinator.open_round(task, 1, base=NO_DIGEST, policy=POLICY), "DigestMissing")
    await coordinator.open_round(task, 1, base=M0, policy=POLICY)
    values = await refused(coordinator.open_round(task, 2, base=M0, policy=POLICY), "LastRoundNotFinal")
    assert values == {"lastRound": 1, "state": RoundState.OPEN}


async def test_genesis_is_proposed_once_and_round_one_waits_for_it(fleet: Fleet, round_: Round) -> None:
    task, coordinator = round_.task, fleet.coordinator
    await refused(coordinator.open_round(task, 1, base=M0, policy=POLICY), "LastRoundNotFinal")
    await coordinator.propose_genesis(task, model=M0, policy=POLICY)
    await refused(coordinator.propose_genesis(task, model=M0, policy=POLICY), "GenesisExists")
    await refused(coordinator.propose_genesis("nowhere", model=M0, policy=POLICY), "UnknownTask")


async def test_model_that_was_approved_before_is_no_candidate(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    assert await refused(round_.measured(model=M0), "ModelKnown") == {"model": M0, "round": 0}


async def test_round_can_be_aborted_only_before_a_verdict(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await refused(fleet.coordinator.abort(round_.task, 0, reason="late"), "WrongState")
    await round_.open()
    await fleet.coordinator.abort(round_.task, 1, reason="too few agents")
    assert await round_.state() is RoundState.ABORTED
    await refused(fleet.coordinator.abort(round_.task, 1, reason="twice"), "WrongState")
    await round_.open()
    assert round_.number == 2


async def test_task_with_a_gate_that_cannot_be_is_refused(fleet: Fleet, round_: Round) -> None:
    await refused(fleet.operator.create_task(round_.task, **GATE), "TaskExists")
    for wrong in (
        {"threshold": 1_000_001},
        {"max_regression": 1_000_001},
        {"minimum_owners": 0},
        {"quorum_part": 0},
        {"quorum_part": 500_000},
        {"quorum_part": 1_000_001},
    ):
        await refused(fleet.operator.create_task("odd", **(GATE | wrong)), "GateOutOfRange")
    await refused(fleet.operator.create_task("odd", **(GATE | {"policy": NO_DIGEST})), "DigestMissing")


# --- the client -----------------------------------------------------------------------------------


async def test_calls_at_the_same_time_take_their_nonces_in_turn(fleet: Fleet) -> None:
    newcomers = [identity(1000 + next(_numbers)) for _ in range(6)]
    records = [party(each, Role.AGENT) for each in newcomers]
    proofs = [proof_of(who, record, fleet.place) for who, record in zip(newcomers, records, strict=True)]
    async with fleet.client(identity(4)) as second:  # the operator's key in another client, as in another process
        sent = await asyncio.gather(
            *(
                client.register(record, proof)
                for client, record, proof in zip([fleet.operator, second] * 3, records, proofs, strict=True)
            )
        )
    assert len({each.transaction for each in sent}) == 6
    known = {each.address for each in await fleet.operator.parties()}
    assert known >= {each.address for each in newcomers}


async def test_client_says_in_one_line_that_no_node_answers(fleet: Fleet) -> None:
    nobody = msgspec.structs.replace(fleet.place, rpc_url=f"http://127.0.0.1:{free_port()}")
    away = EvmChain(nobody, None, patience=Patience(give_up_s=0.3))
    with pytest.raises(ChainUnavailable, match="no chain node answers"):
        async with away:
            pass


async def test_client_refuses_another_chain_and_a_place_without_contract(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="chain_id"):
        async with fleet.client(None, chain_id=1):
            pass
    elsewhere = fleet.place.contracts | {"RoundRegistry": "0x" + "77" * 20}
    with pytest.raises(ConfigError, match="RoundRegistry"):
        async with fleet.client(None, contracts=elsewhere):
            pass


# --- events -----------------------------------------------------------------------------------------


async def take(chain: EvmChain, checkpoint: Path, number: int) -> list[ChainEvent]:
    """The next `number` events; the last one is not acknowledged, because nobody asks for another."""
    found: list[ChainEvent] = []
    async with asyncio.timeout(20), aclosing(chain.events(checkpoint)) as events:
        async for event in events:
            found.append(event)
            if len(found) == number:
                break
    return found


async def test_events_carry_what_was_said_in_text_forms(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    votes = await round_.cast(*[(900_000, 0, True)] * 3)
    async with fleet.client(None, first_block=round_.created.block) as reader:
        events = await take(reader, tmp_path / "events.db", 10)
    assert {event.name for event in events[1:4]} == {"RoundOpened", "CandidateProposed", "BallotOpened"}
    assert [event.name for event in events[4:]] == ["VoteCommitted"] * 3 + ["VoteRevealed"] * 3
    assert events[0].values["name"] == round_.task
    assert events[0].transaction == round_.created.transaction
    assert events[7].values == {
        "task": task_id(round_.task),
        "round": 0,
        "validator": VALIDATORS[0].address,
        "accuracy": 900_000,
        "baseline": 0,
        "approved": True,
        "signature": votes[0].signature,
    }


async def test_events_go_on_after_a_restart_with_the_one_that_was_not_finished(
    fleet: Fleet, round_: Round, tmp_path: Path
) -> None:
    await round_.genesis()
    async with fleet.client(None, first_block=round_.created.block) as reader:
        first = await take(reader, tmp_path / "events.db", 4)
        again = await take(reader, tmp_path / "events.db", 3)
        everything = await take(reader, tmp_path / "other.db", 6)
    assert again[0] == first[-1]
    assert [*first, *again[1:]] == everything
    assert len({event.id for event in everything}) == 6


async def test_checkpoint_of_other_contracts_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    checkpoint = tmp_path / "events.db"
    await take(fleet.coordinator, checkpoint, 1)
    at = fleet.place.contracts
    exchanged = at | {"RoundRegistry": at["DeviceRegistry"], "DeviceRegistry": at["RoundRegistry"]}
    async with fleet.client(None, contracts=exchanged) as swapped:
        with pytest.raises(ConfigError, match="followed so far"):
            await take(swapped, checkpoint, 100_000)


async def newcomer(fleet: Fleet) -> Sent:
    who = identity(1000 + next(_numbers))
    record = party(who, Role.AGENT)
    return await fleet.operator.register(record, proof_of(who, record, fleet.place))


async def test_events_of_blocks_that_were_replaced_are_retracted(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    if fleet.chain.kind != "anvil":
        return  # the embedded chain has one block producer and never replaces a block
    async with (
        fleet.client(None, first_block=round_.created.block) as reader,
        asyncio.timeout(20),
        aclosing(reader.events(tmp_path / "events.db")) as events,
    ):
        snapshot = await fleet.chain.rpc("evm_snapshot")
        sent = await newcomer(fleet)
        lost = [await anext(events) for _ in range(2)][-1]
        assert lost.transaction == sent.transaction
        await fleet.chain.rpc("evm_revert", snapshot)
        other = await newcomer(fleet)
        retracted, replaced = [await anext(events) for _ in range(2)]
    assert (retracted.id, retracted.retracted) == (lost.id, True)
    assert (replaced.transaction, replaced.retracted) == (other.transaction, False)


# --- export -----------------------------------------------------------------------------------------


async def exported(fleet: Fleet, round_: Round) -> bytes:
    async with EvmNode(fleet.chain.url) as node:
        export = await export_chain(node, msgspec.structs.replace(fleet.place, first_block=round_.created.block))
    return encode_export(export)


async def test_export_holds_every_event_and_every_signed_call(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    await round_.genesis()
    export = decode_export(await exported(fleet, round_))
    first = round_.created.block
    events = [event for event in exported_events(export) if event.block >= first]  # the creations are there, too
    async with fleet.client(None, first_block=first) as reader:
        assert events == await take(reader, tmp_path / "events.db", len(events))
    calls = [call for call in exported_calls(export) if call.block >= first]
    functions = ["createTask", "proposeGenesis", "commit", "reveal", "finalise", "recordDeployed"]
    assert [call.function for call in calls] == functions
    assert [call.sender for call in calls] == [OPERATOR.address, *[COORDINATOR.address] * 4, LISTENER.address]
    assert calls[0].arguments["name"] == round_.task
    assert calls[1].arguments == {"task_": task_id(round_.task), "model": M0, "policy": POLICY}


async def test_export_with_altered_bytes_does_not_open(fleet: Fleet, round_: Round) -> None:
    data = await exported(fleet, round_)
    raw = decode_export(data).transactions[-1].raw
    for altered in (raw[:-2] + f"{int(raw[-2:], 16) ^ 1:02x}", raw[:-2], "00" + raw[2:], "zz" + raw[2:]):
        with pytest.raises((Malformed, Refused)):
            list(exported_calls(decode_export(data.replace(raw.encode(), altered.encode()))))
    for altered_file in (data.replace(b'"version": 2', b'"version": 1'), data[:-5]):
        with pytest.raises(Malformed):
            decode_export(altered_file)
