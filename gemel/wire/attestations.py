"""What validators sign (EIP-712). The contract checks the same structs in contracts/src/Attestations.sol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from eth_hash.auto import keccak

from gemel.errors import Refused
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.electorate import Electorate
from gemel.wire.identity import Identity, recover
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Count, Digest, Ppm, Signature

_SUM_TYPE = (
    "SumAttestation(bytes32 task,uint64 round,bytes32 updatesRoot,bytes32 sumDigest,uint32 owners,uint64 weight)"
)
_MODEL_TYPE = (
    "ModelAttestation(bytes32 task,uint64 round,uint64 deployment,bytes32 parent,bytes32 model,"
    "uint32 accuracy,uint32 baseline,bool approved)"
)

_COMMITMENT_TYPE = "VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)"
_COMMITMENT_BYTES = 22


class SumAttestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """«I added the frames under `updates_root` myself, and their sum has this digest»: recomputed, not believed.

    `owners` counts the distinct registered owners of the contributing devices, `weight` is the sum of level · n_k.
    """

    task: str
    round: Count
    updates_root: Digest
    sum_digest: Digest
    owners: Count
    weight: Count

    def hash(self, domain: Domain) -> bytes:
        """The 32 bytes to sign."""
        return domain.hash(
            _SUM_TYPE,
            task_id(self.task),
            self.round,
            self.updates_root,
            self.sum_digest,
            self.owners,
            self.weight,
        )


class ModelAttestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """«I measured `model` on a reference set of my own»: what an agent checks before it trains or swaps.

    `accuracy` is the mean over heads of the candidate, `baseline` that of the model in use (`parent`) on the
    same set, both in ppm; `approved` is the validator's verdict. `deployment` is the number that the model
    gets if the contract approves it: one above the last, so that an old approval cannot be replayed.
    """

    task: str
    round: Count
    deployment: Count
    parent: Digest
    model: Digest
    accuracy: Ppm
    baseline: Ppm
    approved: bool

    def hash(self, domain: Domain) -> bytes:
        """The 32 bytes to sign."""
        return domain.hash(
            _MODEL_TYPE,
            task_id(self.task),
            self.round,
            self.deployment,
            self.parent,
            self.model,
            self.accuracy,
            self.baseline,
            self.approved,
        )


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's signed measurement, as deployment messages carry it."""

    validator: Address
    accuracy: Ppm
    baseline: Ppm
    approved: bool
    signature: Signature


class SealedVote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's signed promise of a vote that it does not show yet (contracts/src/QualityVotes.sol).

    `commitment` is the start of the keccak of the vote's signature: only who made that signature can open it.
    """

    validator: Address
    commitment: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{44}\Z")]
    signature: Signature


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's signed word that a sum is what it recomputed, as deployment messages carry it."""

    validator: Address
    signature: Signature


def attest(attestation: SumAttestation | ModelAttestation, domain: Domain, validator: Identity) -> bytes:
    """The validator's 65-byte signature over an attestation."""
    return validator.sign(attestation.hash(domain))


def seal_vote(vote: Vote, task: str, round_: int, votes: Domain, validator: Identity) -> SealedVote:
    """The promise of `vote`, for the contract that `votes` is the domain of."""
    commitment = bytes(keccak(bytes.fromhex(vote.signature)))[:_COMMITMENT_BYTES]
    signature = validator.sign(commitment_hash(commitment.hex(), task, round_, votes))
    return SealedVote(validator.address, commitment.hex(), signature.hex())


def commitment_hash(commitment: str, task: str, round_: int, votes: Domain) -> bytes:
    """The 32 bytes that a validator signs to promise a vote; `votes` is the domain of the contract that counts."""
    padded = bytes.fromhex(commitment).ljust(32, b"\0")  # bytes22 is aligned to the left
    return votes.hash(_COMMITMENT_TYPE, task_id(task), round_, padded)


def check_confirmed(
    domain: Domain, confirmed: SumAttestation, confirmations: Iterable[Confirmation], electorate: Electorate
) -> None:
    """Raises Refused(no_quorum) unless a quorum of the electorate confirmed exactly this sum."""
    signed = confirmed.hash(domain)
    found = {c.validator for c in confirmations if recover(signed, bytes.fromhex(c.signature)) == c.validator}
    electorate.require_quorum(found, "confirmations of the sum")


def check_quorum(
    domain: Domain,
    *,
    task: str,
    round: int,  # noqa: A002
    deployment: int,
    parent: Digest,
    model: Digest,
    votes: Iterable[Vote],
    electorate: Electorate,
) -> None:
    """Raises Refused(no_quorum) unless a quorum of the electorate approved exactly this model.

    One vote that does not verify is enough to refuse all: an honest listener never carries one.
    """
    approving: set[Address] = set()
    for vote in votes:
        signed = ModelAttestation(task, round, deployment, parent, model, vote.accuracy, vote.baseline, vote.approved)
        signer = recover(signed.hash(domain), bytes.fromhex(vote.signature))
        if signer != vote.validator or signer not in electorate.addresses:
            raise Refused(Reason.NO_QUORUM, f"a vote is not by {vote.validator} of epoch {electorate.epoch}")
        if vote.approved:
            approving.add(signer)
    electorate.require_quorum(approving, "approvals")
