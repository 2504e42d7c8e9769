"""What validators sign (EIP-712). The contract checks the same structs in contracts/src/Attestations.sol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gemel.errors import Refused
from gemel.wire.eip712 import Domain, task_id
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


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's signed word that a sum is what it recomputed, as deployment messages carry it."""

    validator: Address
    signature: Signature


def attest(attestation: SumAttestation | ModelAttestation, domain: Domain, validator: Identity) -> bytes:
    """The validator's 65-byte signature over an attestation."""
    return validator.sign(attestation.hash(domain))


def check_confirmed(
    domain: Domain,
    confirmed: SumAttestation,
    confirmations: Iterable[Confirmation],
    validators: Mapping[Address, object] | frozenset[Address],
    quorum: int,
) -> None:
    """Raises Refused(no_quorum) unless `quorum` distinct pinned validators confirmed exactly this sum."""
    signed = confirmed.hash(domain)
    found = {c.validator for c in confirmations if recover(signed, bytes.fromhex(c.signature)) == c.validator}
    if len(found & set(validators)) < quorum:
        raise Refused(Reason.NO_QUORUM, f"{len(found & set(validators))} confirmations of the sum, {quorum} needed")


def check_quorum(
    domain: Domain,
    *,
    task: str,
    round: int,  # noqa: A002
    deployment: int,
    parent: Digest,
    model: Digest,
    votes: Iterable[Vote],
    validators: Mapping[Address, object] | frozenset[Address],
    quorum: int,
) -> None:
    """Raises Refused(no_quorum) unless `quorum` distinct pinned validators approved exactly this model.

    One vote that does not verify is enough to refuse all: an honest listener never carries one.
    """
    approving: set[Address] = set()
    for vote in votes:
        signed = ModelAttestation(task, round, deployment, parent, model, vote.accuracy, vote.baseline, vote.approved)
        signer = recover(signed.hash(domain), bytes.fromhex(vote.signature))
        if signer != vote.validator or signer not in validators:
            raise Refused(Reason.NO_QUORUM, f"a vote is not by the pinned validator {vote.validator}")
        if vote.approved:
            approving.add(signer)
    if len(approving) < quorum:
        raise Refused(Reason.NO_QUORUM, f"{len(approving)} approvals, {quorum} needed")
