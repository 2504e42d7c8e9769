"""What the chain says now, as validators sign it again and again for those who have no chain. Pure.

One statement, three uses:

- freshness: an agent shows how old the newest is that a quorum of the stake signed; whoever keeps messages from it
  cannot keep that from growing;
- handover: a quorum of the electorate in force names the next one;
- rollback: a quorum names a higher deployment number with an older model.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gemel.errors import Refused
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.electorate import Electorate
from gemel.wire.identity import Identity, recover
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Count, Digest, Millis, Signature

_TYPE = (
    "Standing(bytes32 task,uint64 epoch,bytes32 electorate,uint64 deployment,bytes32 model,bytes32 policy,"
    "uint64 block,uint64 time)"
)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a standing says of one task, without when it was said: all validators that see one chain say the same."""

    epoch: Count
    electorate: Digest
    deployment: Count  # number of the model in use
    model: Digest
    policy: Digest  # of the next round


class StandingSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One validator's word for such facts: as of which block, and when by its clock."""

    validator: Address
    block: Count
    time_ms: Millis
    signature: Signature

    def signer(self, facts: Facts, task: str, domain: Domain) -> Address | None:
        """Who signed exactly this; None for bytes that are no signature."""
        return recover(_hash(facts, self.block, self.time_ms, task, domain), bytes.fromhex(self.signature))


def sign_standing(
    facts: Facts, task: str, domain: Domain, validator: Identity, *, block: int, time_ms: int
) -> StandingSignature:
    """A validator's word."""
    signature = validator.sign(_hash(facts, block, time_ms, task, domain)).hex()
    return StandingSignature(validator.address, block, time_ms, signature)


def check_standing(
    facts: Facts, signatures: Iterable[StandingSignature], task: str, domain: Domain, electorate: Electorate
) -> None:
    """Raises Refused(no_quorum) unless a quorum of `electorate` signed these facts; one bad signature refuses all."""
    signers: set[Address] = set()
    for each in signatures:
        if each.signer(facts, task, domain) != each.validator or each.validator not in electorate.addresses:
            raise Refused(
                Reason.NO_QUORUM, f"a standing is not signed by {each.validator} of epoch {electorate.epoch}"
            )
        signers.add(each.validator)
    electorate.require_quorum(signers, f"standing of deployment {facts.deployment}")


def check_handover(
    facts: Facts,
    following: Electorate,
    signatures: Iterable[StandingSignature],
    task: str,
    domain: Domain,
    current: Electorate,
) -> None:
    """Raises Refused unless a quorum of `current` says that `following` is the electorate, and it comes later."""
    if following.epoch <= current.epoch:
        raise Refused(Reason.NOT_ABOVE, f"the electorate of epoch {following.epoch}, we have {current.epoch}")
    if facts.electorate != following.digest or facts.epoch != following.epoch:
        raise Refused(Reason.DIGEST_MISMATCH, "the standing names another electorate")
    check_standing(facts, signatures, task, domain, current)


def quorum_time_ms(times_ms: dict[Address, Millis], electorate: Electorate) -> Millis | None:
    """The newest time that a quorum of the stake has spoken at or after; None where no quorum has spoken at all."""
    newest = sorted(electorate.members, key=lambda member: times_ms.get(member.address, -1), reverse=True)
    weight = 0
    for member in newest:
        if member.address not in times_ms:
            return None
        weight += member.weight
        if weight >= electorate.quorum_weight:
            return times_ms[member.address]
    return None


def _hash(facts: Facts, block: int, time_ms: int, task: str, domain: Domain) -> bytes:
    return domain.hash(
        _TYPE,
        task_id(task),
        facts.epoch,
        facts.electorate,
        facts.deployment,
        facts.model,
        facts.policy,
        block,
        time_ms,
    )
