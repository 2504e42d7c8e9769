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
from gemel.ports import ChainEvent, PartyRecord, Role, RoundState, Sent
from gemel.wire.attestations import ModelAttestation, SumAttestation, Vote, attest, check_quorum
from gemel.wire.eip712 import task_id
from gemel.wire.identity import Identity
from gemel.wire.types import NO_DIGEST, Digest, sha256
from tests.support.chains import (
    FUNDED,
    OPERATOR,
    PARTIES,
    STRANGER,
    Fleet,
    open_fleet,
    party,
    running_chain,
)
from tests.support.parties import COORDINATOR, LISTENER, VALIDATORS, identity
from tests.support.ports import free_port

# One node and one deployment for the whole module, a task of its own for every test.
pytestmark = pytest.mark.asyncio(loop_scope="module")
POLICY, ROSTER, UPDATES, SUM, OPENED, EXPLANATION = (sha256(bytes([n])) for n in range(6))
M0 = sha256(b"M0")
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

    async def sum_vote(self, validator: Identity, **changed: object) -> None:
        said = msgspec.structs.replace(SumAttestation(self.task, self.number, UPDATES, SUM, 3, 100), **changed)
        signature = attest(said, self.fleet.domain, validator)
        await self.fleet.coordinator.attest_sum(
            self.task, self.number, validator=validator.address, signature=signature.hex()
        )

    async def model_vote(
        self, validator: Identity, accuracy: int, baseline: int = 0, *, approved: bool = True
    ) -> Vote:
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
        vote = Vote(validator.address, accuracy, baseline, approved, attest(said, self.fleet.domain, validator).hex())
        await self.cast(vote)
        return vote

    async def cast(self, vote: Vote) -> None:
        await self.fleet.coordinator.attest_model(
            self.task,
            self.number,
            validator=vote.validator,
            accuracy=vote.accuracy,
            baseline=vote.baseline,
            approved=vote.approved,
            signature=vote.signature,
        )

    async def genesis(self) -> None:
        await self.fleet.coordinator.propose_genesis(self.task, model=M0, policy=POLICY)
        for validator in VALIDATORS[:2]:
            await self.model_vote(validator, 100_000)
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
        for validator in VALIDATORS[:2]:
            await self.sum_vote(validator)

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
    gate = {"threshold": 600_000, "max_regression": 20_000, "minimum_owners": 3, "quorum": 2}
    return Round(fleet, task, await fleet.operator.create_task(task, **gate))


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
    await round_.sum_vote(VALIDATORS[0])
    assert await round_.state() is RoundState.AGGREGATED
    await round_.sum_vote(VALIDATORS[1])
    assert await round_.state() is RoundState.CONFIRMED
    await round_.sum_vote(VALIDATORS[2])  # the third is recorded too
    await fleet.custodian.record_opening(task, 1, opened=OPENED)
    assert await round_.state() is RoundState.OPENED
    model = sha256(b"M1")
    await coordinator.propose_candidate(task, 1, model=model, explanation=EXPLANATION, accuracy=700_000)
    assert await round_.state() is RoundState.MEASURED
    votes = [
        await round_.model_vote(validator, accuracy, 100_000)
        for validator, accuracy in zip(VALIDATORS, (690_000, 710_000, 720_000), strict=True)
    ]
    sent = await coordinator.finalise(task, 1)
    assert sent.gas > 21_000
    assert await round_.state() is RoundState.APPROVED
    await fleet.listener.record_deployed(task, 1, agents=4)

    found = await coordinator.round(task, 1)
    assert found.state is RoundState.DEPLOYED
    assert (found.base, found.policy, found.roster_root) == (M0, POLICY, ROSTER)
    assert (found.updates_root, found.sum_digest, found.owners, found.weight) == (UPDATES, SUM, 3, 100)
    assert (found.opened, found.model, found.explanation) == (OPENED, model, EXPLANATION)
    assert (found.deployment, found.accuracy, found.baseline) == (2, 710_000, 100_000)
    record = await coordinator.task(task)
    assert (record.deployment, record.model, record.last_round) == (2, model, 1)
    # what an agent checks before it swaps holds for the very votes that the chain took
    pinned = frozenset(validator.address for validator in VALIDATORS)
    said = {"task": task, "round": 1, "deployment": 2, "parent": M0, "model": model}
    check_quorum(fleet.domain, **said, votes=votes, validators=pinned, quorum=2)
    with pytest.raises(Refused):
        check_quorum(fleet.domain, **(said | {"deployment": 3}), votes=votes, validators=pinned, quorum=2)


async def test_views_of_nothing_say_so(fleet: Fleet) -> None:
    assert (await fleet.coordinator.task("nowhere")).quorum == 0
    assert (await fleet.coordinator.round("nowhere", 7)).state is RoundState.NONE
    nobody = identity(99).address
    assert await fleet.coordinator.party(nobody) == PartyRecord(
        nobody, "0x" + "00" * 20, Role.NONE, NO_DIGEST, active=False
    )


async def test_parties_come_in_order_of_registration(fleet: Fleet) -> None:
    assert list(await fleet.coordinator.parties())[: len(PARTIES)] == list(PARTIES)
    assert await fleet.coordinator.party(COORDINATOR.address) == PARTIES[0]


# --- verdicts -------------------------------------------------------------------------------------


async def test_genesis_needs_approvals_only(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()  # measured at 0.1, below the threshold of 0.6
    assert (await fleet.coordinator.task(round_.task)).model == M0


async def test_genesis_without_approvals_is_rejected(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    for validator in VALIDATORS[:2]:
        await round_.model_vote(validator, 900_000, approved=False)
    await round_.finalise()
    assert await round_.state() is RoundState.REJECTED
    assert (await fleet.coordinator.task(round_.task)).deployment == 0


@pytest.mark.parametrize(
    ("votes", "state"),
    [
        ([(600_000, 620_000, True), (600_000, 620_000, True)], RoundState.APPROVED),  # exactly at both limits
        ([(599_999, 0, True), (599_999, 0, True), (599_999, 0, True)], RoundState.REJECTED),  # below threshold
        ([(700_000, 720_001, True), (700_000, 720_001, True)], RoundState.REJECTED),  # regression
        ([(900_000, 0, True), (900_000, 0, False), (900_000, 0, False)], RoundState.REJECTED),  # no quorum
        ([(0, 0, True), (700_000, 0, True), (700_000, 0, True)], RoundState.APPROVED),  # one liar moves no median
        ([(500_000, 0, True), (700_000, 0, True)], RoundState.APPROVED),  # median of two is their mean
    ],
)
async def test_gate_decides_by_quorum_threshold_and_regression(
    fleet: Fleet, round_: Round, votes: list[tuple[int, int, bool]], state: RoundState
) -> None:
    await round_.genesis()
    await round_.measured()
    for validator, (accuracy, baseline, approved) in zip(VALIDATORS, votes, strict=False):
        await round_.model_vote(validator, accuracy, baseline, approved=approved)
    await round_.finalise()
    assert await round_.state() is state


async def test_after_a_rejection_the_model_in_use_stays_the_base(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.measured()
    for validator in VALIDATORS[:2]:
        await round_.model_vote(validator, 0, approved=False)
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
    "finalise": (Role.COORDINATOR, lambda c, t: c.finalise(t, 1)),
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
        gate = {"threshold": 0, "max_regression": 0, "minimum_owners": 1, "quorum": 1}
        for call in (
            stranger.register(party(identity(98), Role.VALIDATOR)),
            stranger.suspend(COORDINATOR.address),
            stranger.create_task("mine", **gate),
        ):
            values = await refused(call, "AccessControlUnauthorizedAccount")
            assert values["account"] == STRANGER.address


async def test_party_is_registered_once_and_suspended_once(fleet: Fleet) -> None:
    someone = party(identity(97), Role.AGENT)
    await fleet.operator.register(someone)
    assert await refused(fleet.operator.register(someone), "AlreadyRegistered") == {"account": someone.address}
    await fleet.operator.suspend(someone.address)
    assert not (await fleet.operator.party(someone.address)).active
    await refused(fleet.operator.suspend(someone.address), "NotActive")
    await refused(fleet.operator.register(someone), "AlreadyRegistered")


async def test_suspended_validator_counts_no_more(fleet: Fleet, round_: Round) -> None:
    leaver = identity(96)
    await fleet.operator.register(party(leaver, Role.VALIDATOR))
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    await fleet.operator.suspend(leaver.address)
    values = await refused(round_.sum_vote(leaver), "NotInRole")
    assert values == {"account": leaver.address, "role": Role.VALIDATOR}


async def test_signature_of_somebody_who_is_no_validator_is_refused(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    for outsider in (LISTENER, STRANGER):
        await refused(round_.sum_vote(outsider), "NotInRole")


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
        assert values["validator"] == first != values["recovered"]
    good = attest(SumAttestation(round_.task, 1, UPDATES, SUM, 3, 100), fleet.domain, VALIDATORS[0]).hex()
    under_anothers_name = fleet.coordinator.attest_sum(round_.task, 1, validator=second, signature=good)
    assert await refused(under_anothers_name, "BadSignature") == {"validator": second, "recovered": first}
    for nonsense in ("", "00" * 65, "ff" * 65, good[:-2]):
        call = fleet.coordinator.attest_sum(round_.task, 1, validator=first, signature=nonsense)
        await refused(call, "BadSignature")
    assert await round_.state() is RoundState.AGGREGATED


async def test_validator_votes_once_on_sum_and_model(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.listed()
    await round_.propose_sum()
    await round_.sum_vote(VALIDATORS[0])
    assert await refused(round_.sum_vote(VALIDATORS[0]), "AlreadyAttested") == {"validator": VALIDATORS[0].address}
    await round_.sum_vote(VALIDATORS[1])
    await fleet.custodian.record_opening(round_.task, 1, opened=OPENED)
    await fleet.coordinator.propose_candidate(round_.task, 1, model=SUM, explanation=EXPLANATION, accuracy=1)
    await round_.model_vote(VALIDATORS[0], 1)
    await refused(round_.model_vote(VALIDATORS[0], 2), "AlreadyAttested")


async def test_vote_of_an_earlier_round_cannot_be_replayed(fleet: Fleet, round_: Round) -> None:
    await round_.genesis()
    await round_.measured(model=OPENED)
    vote = await round_.model_vote(VALIDATORS[0], 900_000)
    await fleet.coordinator.abort(round_.task, 1, reason="again")
    await round_.measured(model=OPENED)  # the same candidate, from the same base, for the same deployment number
    values = await refused(round_.cast(vote), "BadSignature")
    assert values["validator"] == VALIDATORS[0].address


async def test_vote_that_was_altered_on_the_way_is_refused(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    said = ModelAttestation(round_.task, 0, 1, NO_DIGEST, M0, 900_000, 0, approved=True)
    signature = attest(said, fleet.domain, VALIDATORS[0]).hex()
    vote = Vote(VALIDATORS[0].address, 900_000, 0, approved=True, signature=signature)
    for changed in ({"accuracy": 900_001}, {"baseline": 1}, {"approved": False}):
        await refused(round_.cast(msgspec.structs.replace(vote, **changed)), "BadSignature")
    beyond = msgspec.structs.replace(vote, accuracy=1_000_001)
    assert await refused(round_.cast(beyond), "AccuracyOutOfRange") == {"accuracy": 1_000_001}


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
    await round_.sum_vote(VALIDATORS[0])
    opening = {"opened": OPENED}
    await refused(fleet.custodian.record_opening(round_.task, 1, **opening), "WrongState")
    await round_.sum_vote(VALIDATORS[1])
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
    assert await refused(call, "NotModelInUse") == {"base": SUM, "inUse": M0}
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


async def test_verdict_waits_for_a_quorum_of_votes(fleet: Fleet, round_: Round) -> None:
    await fleet.coordinator.propose_genesis(round_.task, model=M0, policy=POLICY)
    await round_.model_vote(VALIDATORS[0], 900_000)
    assert await refused(round_.finalise(), "QuorumNotReached") == {"votes": 1, "quorum": 2}


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
    gate = {"threshold": 0, "max_regression": 0, "minimum_owners": 1, "quorum": 1}
    await refused(fleet.operator.create_task(round_.task, **gate), "TaskExists")
    for wrong in ({"threshold": 1_000_001}, {"max_regression": 1_000_001}, {"minimum_owners": 0}, {"quorum": 0}):
        await refused(fleet.operator.create_task("odd", **(gate | wrong)), "GateOutOfRange")


# --- the client -----------------------------------------------------------------------------------


async def test_calls_at_the_same_time_take_their_nonces_in_turn(fleet: Fleet) -> None:
    newcomers = [party(identity(1000 + next(_numbers)), Role.AGENT) for _ in range(6)]
    async with fleet.client(identity(4)) as second:  # the operator's key in another client, as in another process
        sent = await asyncio.gather(
            *(client.register(each) for client, each in zip([fleet.operator, second] * 3, newcomers, strict=True))
        )
    assert len({each.transaction for each in sent}) == 6
    known = {each.address for each in await fleet.operator.parties()}
    assert known >= {each.address for each in newcomers}


async def test_client_says_in_one_line_that_no_node_answers(fleet: Fleet) -> None:
    at = fleet.deployed
    nobody = f"http://127.0.0.1:{free_port()}"
    away = EvmChain(nobody, at.device_registry, at.round_registry, None, 31337, patience=Patience(give_up_s=0.3))
    with pytest.raises(ChainUnavailable, match="no chain node answers"):
        async with away:
            pass


async def test_client_refuses_another_chain_and_a_place_without_contract(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="chain_id"):
        async with fleet.client(None, chain_id=1):
            pass
    empty = EvmChain(fleet.chain.url, fleet.deployed.device_registry, "0x" + "77" * 20, None, 31337)
    with pytest.raises(ConfigError, match="RoundRegistry"):
        async with empty:
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
    vote = await round_.model_vote(VALIDATORS[0], 900_000)
    async with fleet.client(None, first_block=round_.created.block) as reader:
        events = await take(reader, tmp_path / "events.db", 4)
    assert [event.name for event in events] == ["TaskCreated", "RoundOpened", "CandidateProposed", "ModelAttested"]
    assert events[0].values["name"] == round_.task
    assert events[0].transaction == round_.created.transaction
    assert events[3].values == {
        "task": task_id(round_.task),
        "round": 0,
        "validator": VALIDATORS[0].address,
        "accuracy": 900_000,
        "baseline": 0,
        "approved": True,
        "signature": vote.signature,
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
    at = fleet.deployed
    swapped = EvmChain(fleet.chain.url, at.round_registry, at.device_registry, None, 31337)
    async with swapped:
        with pytest.raises(ConfigError, match="followed so far"):
            await take(swapped, checkpoint, 100_000)


async def test_events_of_blocks_that_were_replaced_are_retracted(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    if "anvil" not in str(await fleet.chain.rpc("web3_clientVersion")).lower():
        return  # the embedded chain has one block producer and never replaces a block
    async with (
        fleet.client(None, first_block=round_.created.block) as reader,
        asyncio.timeout(20),
        aclosing(reader.events(tmp_path / "events.db")) as events,
    ):
        snapshot = await fleet.chain.rpc("evm_snapshot")
        sent = await fleet.operator.register(party(identity(1000 + next(_numbers)), Role.AGENT))
        lost = [await anext(events) for _ in range(2)][-1]
        assert lost.transaction == sent.transaction
        await fleet.chain.rpc("evm_revert", snapshot)
        other = await fleet.operator.register(party(identity(1000 + next(_numbers)), Role.AGENT))
        retracted, replaced = [await anext(events) for _ in range(2)]
    assert (retracted.id, retracted.retracted) == (lost.id, True)
    assert (replaced.transaction, replaced.retracted) == (other.transaction, False)


# --- export -----------------------------------------------------------------------------------------


async def exported(fleet: Fleet, round_: Round) -> bytes:
    at = fleet.deployed
    async with EvmNode(fleet.chain.url) as node:
        export = await export_chain(node, at.device_registry, at.round_registry, first_block=round_.created.block)
    return encode_export(export)


async def test_export_holds_every_event_and_every_signed_call(fleet: Fleet, round_: Round, tmp_path: Path) -> None:
    await round_.genesis()
    export = decode_export(await exported(fleet, round_))
    events = list(exported_events(export))
    async with fleet.client(None, first_block=round_.created.block) as reader:
        assert events == await take(reader, tmp_path / "events.db", len(events))
    calls = list(exported_calls(export))
    functions = ["createTask", "proposeGenesis", "attestModel", "attestModel", "finalise", "recordDeployed"]
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
    for altered_file in (data.replace(b'"version": 1', b'"version": 2'), data[:-5]):
        with pytest.raises(Malformed):
            decode_export(altered_file)
