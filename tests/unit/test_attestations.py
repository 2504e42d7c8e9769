"""Validators' votes: a quorum of pinned validators over exactly this model, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest

from gemel.errors import Refused
from gemel.wire.attestations import ModelAttestation, SumAttestation, Vote, attest, check_quorum
from gemel.wire.eip712 import Domain
from gemel.wire.electorate import Electorate
from gemel.wire.identity import Identity, recover
from gemel.wire.reasons import Reason
from tests.support.parties import AGENTS, REGISTRY, TRUST, VALIDATORS

DOMAIN = Domain(1337, REGISTRY)
PARENT, MODEL = "11" * 32, "22" * 32


@dataclass
class Claim:
    """What a deployment message claims, and what the validators signed; tests make the two differ."""

    domain: Domain = DOMAIN
    task: str = "condition"
    round: int = 7
    deployment: int = 3
    parent: str = PARENT
    model: str = MODEL
    votes: list[Vote] = field(default_factory=lambda: [vote(v) for v in VALIDATORS])
    electorate: Electorate = TRUST.electorate  # three of equal stake, two of whom are a quorum

    def check(self) -> None:
        check_quorum(
            self.domain,
            task=self.task,
            round=self.round,
            deployment=self.deployment,
            parent=self.parent,
            model=self.model,
            votes=self.votes,
            electorate=self.electorate,
        )


def vote(validator: Identity, *, approved: bool = True, accuracy: int = 700_000) -> Vote:
    signed = ModelAttestation("condition", 7, 3, PARENT, MODEL, accuracy, 650_000, approved)
    return Vote(validator.address, accuracy, 650_000, approved, attest(signed, DOMAIN, validator).hex())


def refused(claim: Claim) -> str:
    with pytest.raises(Refused) as refusal:
        claim.check()
    assert refusal.value.reason == Reason.NO_QUORUM
    return refusal.value.detail


def test_quorum_of_pinned_validators_is_accepted() -> None:
    Claim().check()
    Claim(votes=[vote(v) for v in VALIDATORS[:2]]).check()


def test_measurements_of_validators_may_differ() -> None:
    Claim(votes=[vote(v, accuracy=600_000 + n) for n, v in enumerate(VALIDATORS)]).check()


def test_dissent_that_is_truly_signed_does_not_spoil_a_quorum() -> None:
    Claim(votes=[vote(VALIDATORS[0]), vote(VALIDATORS[1]), vote(VALIDATORS[2], approved=False)]).check()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_votes_than_the_quorum_are_refused(count: int) -> None:
    assert f"approvals: {100 * count} of the stake" in refused(Claim(votes=[vote(v) for v in VALIDATORS[:count]]))


def test_stake_counts_and_not_heads() -> None:
    seats = TRUST.electorate.members
    heavy = msgspec.structs.replace(
        TRUST.electorate, members=(msgspec.structs.replace(seats[0], weight=401), *seats[1:])
    )
    Claim(votes=[vote(VALIDATORS[0])], electorate=heavy).check()
    assert "approvals: 200 of the stake of epoch 1, 401 needed" in refused(
        Claim(votes=[vote(v) for v in VALIDATORS[1:]], electorate=heavy)
    )


def test_one_validator_twice_counts_once() -> None:
    assert "approvals: 100 of" in refused(Claim(votes=[vote(VALIDATORS[0]), vote(VALIDATORS[0], accuracy=1)]))


def test_disapprovals_make_no_quorum() -> None:
    assert "approvals: 0 of" in refused(Claim(votes=[vote(v, approved=False) for v in VALIDATORS]))


@pytest.mark.parametrize(
    "forged",
    [
        Claim(domain=Domain(1, REGISTRY)),
        Claim(domain=Domain(1337, "0x" + "cd" * 20)),
        Claim(task="another"),
        Claim(round=8),
        Claim(deployment=4),
        Claim(parent="33" * 32),
        Claim(model="33" * 32),
    ],
    ids=["chain", "registry", "task", "round", "deployment", "parent", "model"],
)
def test_votes_for_anything_else_than_what_is_claimed_are_refused(forged: Claim) -> None:
    assert "a vote is not by" in refused(forged)


def test_vote_of_somebody_who_is_not_pinned_spoils_all() -> None:
    assert AGENTS[0].address in refused(Claim(votes=[*map(vote, VALIDATORS), vote(AGENTS[0])]))


def test_vote_under_another_validators_name_is_refused() -> None:
    stolen = msgspec.structs.replace(vote(VALIDATORS[0]), validator=VALIDATORS[1].address)
    refused(Claim(votes=[*map(vote, VALIDATORS), stolen]))


@pytest.mark.parametrize("changes", [{"accuracy": 700_001}, {"baseline": 0}, {"approved": False}])
def test_vote_whose_figures_were_changed_is_refused(changes: dict[str, object]) -> None:
    refused(Claim(votes=[vote(VALIDATORS[0]), msgspec.structs.replace(vote(VALIDATORS[1]), **changes)]))


@pytest.mark.parametrize("offset", range(0, 65, 8))
def test_vote_with_one_changed_byte_in_its_signature_is_refused(offset: int) -> None:
    signature = bytearray.fromhex(vote(VALIDATORS[0]).signature)
    signature[offset] ^= 1
    changed = msgspec.structs.replace(vote(VALIDATORS[0]), signature=signature.hex())
    with pytest.raises(Refused):
        Claim(votes=[changed, *map(vote, VALIDATORS[1:])]).check()


def test_sum_attestation_is_its_signers_and_differs_in_every_field() -> None:
    said = SumAttestation("condition", 7, "44" * 32, "55" * 32, 4, 300)
    signature = attest(said, DOMAIN, VALIDATORS[0])
    assert recover(said.hash(DOMAIN), signature) == VALIDATORS[0].address
    others = [
        msgspec.structs.replace(said, **change)
        for change in (
            {"task": "another"},
            {"round": 8},
            {"updates_root": "66" * 32},
            {"sum_digest": "66" * 32},
            {"owners": 5},
            {"weight": 301},
        )
    ]
    assert len({other.hash(DOMAIN) for other in (said, *others)}) == 7
