"""The replay refuses what the contracts would have refused. That it accepts what they accept, real chains show."""

from __future__ import annotations

from typing import Any

import pytest

from gemel.adapters.chain_export import Call
from gemel.adapters.contract_abi import ROUND_REGISTRY
from gemel.console.auditor.book import DoesNotFit
from gemel.console.auditor.ledger import ADMIN_ROLE, OPERATOR_ROLE, Ledger
from gemel.errors import Refused
from gemel.ports import Role, RoundState
from gemel.wire.attestations import ModelAttestation, SumAttestation, attest
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.types import NO_DIGEST
from tests.support.parties import AGENTS, COORDINATOR, CUSTODIAN, LISTENER, VALIDATORS, identity

DOMAIN = Domain(1337, "0x" + "ab" * 20)
OPERATOR, STRANGER = identity(90), identity(91)
OWNER = "0x" + "01" * 20
TASK = task_id("condition")
M0, M1, POLICY, ROOT, SUM, OPENED = ("a0" * 32, "a1" * 32, "b0" * 32, "c0" * 32, "d0" * 32, "e0" * 32)


class Replay:
    """Applies calls with consecutive transactions."""

    def __init__(self) -> None:
        self.ledger = Ledger(DOMAIN)
        self.ledger.found(OPERATOR.address, OPERATOR.address)
        parties = [(COORDINATOR, Role.COORDINATOR), (CUSTODIAN, Role.CUSTODIAN), (LISTENER, Role.LISTENER)]
        parties += [(v, Role.VALIDATOR) for v in VALIDATORS] + [(a, Role.AGENT) for a in AGENTS]
        for who, role in parties:
            self.call(OPERATOR, "register", account=who.address, owner=OWNER, role=int(role), box="0f" * 32)
        gate = {"threshold": 500_000, "maxRegression": 20_000, "minimumOwners": 3, "quorum": 2}
        self.call(OPERATOR, "createTask", name="condition", **gate)

    def call(self, sender: Any, function: str, **arguments: Any) -> list[str]:
        """The names of its events."""
        call = Call("f0" * 32, 1, sender.address, ROUND_REGISTRY, function, arguments)
        return [name for name, _ in self.ledger.apply(call)]

    def round(self, sender: Any, function: str, number: int = 1, **arguments: Any) -> list[str]:
        return self.call(sender, function, task_=TASK, round_=number, **arguments)

    def confirm(self, validator: Any, **changes: Any) -> list[str]:
        said = {"updates_root": ROOT, "sum_digest": SUM, "owners": 3, "weight": 60} | changes
        signature = attest(SumAttestation("condition", 1, **said), DOMAIN, validator).hex()
        return self.round(STRANGER, "attestSum", validator=validator.address, signature=signature)

    def vote(self, validator: Any, number: int, accuracy: int, /, **signed: Any) -> list[str]:
        """A yes for the candidate; `signed` is what was signed otherwise than it is handed in."""
        task = self.ledger.tasks[TASK]
        record = task.rounds[number].record
        said = {"accuracy": accuracy, "baseline": 0, "approved": True}
        about = {"deployment": task.record.deployment + 1, "parent": record.base, "model": record.model}
        attestation = ModelAttestation("condition", number, **about | said | signed)
        signature = attest(attestation, DOMAIN, validator).hex()
        return self.round(STRANGER, "attestModel", number, validator=validator.address, signature=signature, **said)

    @property
    def state(self) -> RoundState:
        return self.ledger.tasks[TASK].rounds[1].record.state

    def up_to(self, state: RoundState) -> Replay:
        """Round 1 in this state, after M0."""
        self.call(COORDINATOR, "proposeGenesis", task_=TASK, model=M0, policy=POLICY)
        for validator in VALIDATORS:
            self.vote(validator, 0, 1000)
        self.round(COORDINATOR, "finalise", 0)
        self.round(LISTENER, "recordDeployed", 0, agents=2)
        sums = {"updatesRoot": ROOT, "sumDigest": SUM, "owners": 3, "weight": 60}
        candidate = {"model": M1, "explanation": NO_DIGEST, "accuracy": 1}
        steps = {
            RoundState.OPEN: lambda: self.round(COORDINATOR, "openRound", base=M0, policy=POLICY),
            RoundState.LISTED: lambda: self.round(COORDINATOR, "closeList", root=ROOT),
            RoundState.AGGREGATED: lambda: self.round(COORDINATOR, "proposeSum", **sums),
            RoundState.CONFIRMED: lambda: [self.confirm(v) for v in VALIDATORS[:2]],
            RoundState.OPENED: lambda: self.round(CUSTODIAN, "recordOpening", opened=OPENED),
            RoundState.MEASURED: lambda: self.round(COORDINATOR, "proposeCandidate", **candidate),
        }
        for reached, step in steps.items():
            if reached <= state:
                step()
        return self


@pytest.fixture
def replay() -> Replay:
    return Replay()


def test_whole_round_goes_through_its_states(replay):
    replay.up_to(RoundState.MEASURED)
    for validator in VALIDATORS:
        assert replay.vote(validator, 1, 600_000) == ["ModelAttested"]
    assert replay.round(COORDINATOR, "finalise") == ["RoundApproved"]
    assert replay.round(LISTENER, "recordDeployed", agents=2) == ["RoundDeployed"]
    task = replay.ledger.tasks[TASK]
    assert (task.record.model, task.record.deployment, task.approved) == (M1, 2, {M0: 0, M1: 1})


@pytest.mark.parametrize(
    ("state", "sender", "function", "arguments", "says"),
    [
        (RoundState.MEASURED, STRANGER, "finalise", {}, "no active coordinator"),
        (RoundState.MEASURED, VALIDATORS[0], "finalise", {}, "no active coordinator"),
        (RoundState.MEASURED, COORDINATOR, "finalise", {}, "decided with 0 votes, 2 needed"),
        (RoundState.OPEN, COORDINATOR, "finalise", {}, "round 1 was open at that time"),
        (RoundState.CONFIRMED, COORDINATOR, "recordOpening", {"opened": OPENED}, "no active custodian"),
        (RoundState.AGGREGATED, CUSTODIAN, "recordOpening", {"opened": OPENED}, "round 1 was aggregated"),
        (RoundState.OPENED, CUSTODIAN, "recordOpening", {"opened": OPENED}, "round 1 was opened"),
        (
            RoundState.OPENED,
            COORDINATOR,
            "proposeCandidate",
            {"model": M0, "explanation": NO_DIGEST, "accuracy": 0},
            "approved before",
        ),
        (
            RoundState.LISTED,
            COORDINATOR,
            "proposeSum",
            {"updatesRoot": ROOT, "sumDigest": SUM, "owners": 2, "weight": 9},
            "a sum of 2 owners, 3 needed",
        ),
        (RoundState.OPEN, COORDINATOR, "closeList", {"root": NO_DIGEST}, "a digest is missing"),
        (RoundState.OPEN, COORDINATOR, "openRound", {"base": M0, "policy": POLICY}, "opens round 1 after round 1"),
        (RoundState.MEASURED, LISTENER, "recordDeployed", {"agents": 1}, "round 1 was measured"),
        (RoundState.OPEN, STRANGER, "abort", {"reason": "x"}, "no active coordinator"),
        (RoundState.OPEN, STRANGER, "somethingElse", {}, "does not replay"),
    ],
)
def test_call_that_the_contract_would_have_refused_does_not_fit(replay, state, sender, function, arguments, says):
    replay.up_to(state)
    with pytest.raises(DoesNotFit, match=says):
        replay.round(sender, function, **arguments)
    assert replay.state == state


def test_round_from_another_model_than_the_one_in_use_does_not_fit(replay):
    replay.up_to(RoundState.NONE)
    with pytest.raises(DoesNotFit, match="another model than the one in use"):
        replay.round(COORDINATOR, "openRound", base=M1, policy=POLICY)


def test_unknown_task_does_not_fit(replay):
    with pytest.raises(DoesNotFit, match="no such task"):
        replay.call(COORDINATOR, "proposeGenesis", task_="99" * 32, model=M0, policy=POLICY)


@pytest.mark.parametrize("change", [{"owners": 4}, {"weight": 61}, {"sum_digest": "d1" * 32}, {"updates_root": M1}])
def test_confirmation_of_another_sum_does_not_fit(replay, change):
    replay.up_to(RoundState.AGGREGATED)
    with pytest.raises(DoesNotFit, match="was signed by"):
        replay.confirm(VALIDATORS[0], **change)


def test_confirmations_count_once_a_validator_and_only_of_validators(replay):
    replay.up_to(RoundState.AGGREGATED)
    assert replay.confirm(VALIDATORS[0]) == ["SumAttested"]
    with pytest.raises(DoesNotFit, match="a second time"):
        replay.confirm(VALIDATORS[0])
    with pytest.raises(DoesNotFit, match="no active validator"):
        replay.confirm(AGENTS[0])
    assert replay.confirm(VALIDATORS[1]) == ["SumAttested", "SumConfirmed"]


@pytest.mark.parametrize(
    "change", [{"accuracy": 999_999}, {"deployment": 1}, {"parent": M1}, {"model": M0}, {"approved": False}]
)
def test_vote_that_was_signed_for_something_else_does_not_fit(replay, change):
    replay.up_to(RoundState.MEASURED)
    with pytest.raises(DoesNotFit, match="was signed by"):
        replay.vote(VALIDATORS[0], 1, 600_000, **change)


def test_signature_that_is_none_is_refused(replay):
    replay.up_to(RoundState.AGGREGATED)
    with pytest.raises(Refused, match="bad_signature"):
        replay.round(STRANGER, "attestSum", validator=VALIDATORS[0].address, signature="00" * 65)


def test_second_vote_of_a_validator_does_not_fit(replay):
    replay.up_to(RoundState.MEASURED)
    replay.vote(VALIDATORS[0], 1, 600_000)
    with pytest.raises(DoesNotFit, match="votes a second time"):
        replay.vote(VALIDATORS[0], 1, 610_000)


def test_suspended_party_counts_no_more(replay):
    replay.up_to(RoundState.AGGREGATED)
    replay.call(OPERATOR, "suspend", account=VALIDATORS[0].address)
    with pytest.raises(DoesNotFit, match="no active validator"):
        replay.confirm(VALIDATORS[0])
    with pytest.raises(DoesNotFit, match="who is not active"):
        replay.call(OPERATOR, "suspend", account=VALIDATORS[0].address)


def test_only_the_operator_registers_and_may_hand_that_right_on(replay):
    entry = {"account": STRANGER.address, "owner": OWNER, "role": int(Role.AGENT), "box": "0f" * 32}
    with pytest.raises(DoesNotFit, match="no operator"):
        replay.call(STRANGER, "register", **entry)
    with pytest.raises(DoesNotFit, match="no operator"):
        replay.call(STRANGER, "grantRole", role=OPERATOR_ROLE, account=STRANGER.address)
    replay.call(OPERATOR, "grantRole", role=OPERATOR_ROLE, account=STRANGER.address)
    assert replay.call(STRANGER, "register", **entry) == ["PartyRegistered"]
    with pytest.raises(DoesNotFit, match="a second time"):
        replay.call(OPERATOR, "register", **entry)
    replay.call(OPERATOR, "revokeRole", role=OPERATOR_ROLE, account=STRANGER.address)
    with pytest.raises(DoesNotFit, match="no operator"):
        replay.call(STRANGER, "suspend", account=STRANGER.address)
    with pytest.raises(DoesNotFit, match="another's"):
        replay.call(STRANGER, "renounceRole", role=ADMIN_ROLE, callerConfirmation=OPERATOR.address)
