"""Who may vote in one epoch, and how much each vote weighs. Pure.

The chain elects (contracts/src/Election.sol). Whoever has no chain, an agent, is installed with one electorate
(trust.json) and believes the next when a quorum of the one before signed a standing that names it (wire/standing.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from gemel.errors import Refused
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, BoxKey, Count, Digest, sha256

WHOLE_PPM = 1_000_000
QuorumPart = Annotated[int, msgspec.Meta(gt=WHOLE_PPM // 2, le=WHOLE_PPM)]  # ppm of the elected stake


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seat: who votes, the key that frames are wrapped for, and the stake behind the vote when it was taken."""

    address: Address
    box: BoxKey
    weight: Annotated[int, msgspec.Meta(ge=1)]


class Electorate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The seats of one epoch. Its quorum is above a half, so two quorums never contradict without a traitor."""

    epoch: Count
    quorum_part: QuorumPart
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1, max_length=128)]

    def __post_init__(self) -> None:
        if len(self.addresses) != len(self.members):
            raise ValueError("members: each address once")

    @property
    def addresses(self) -> frozenset[Address]:
        """Who sits."""
        return frozenset(member.address for member in self.members)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON: what a standing names."""
        return sha256(msgspec.json.encode(self, order="sorted"))

    @property
    def quorum_weight(self) -> int:
        """The weight that a quorum has, rounded up as the contracts do."""
        total = sum(member.weight for member in self.members)
        return -(-total * self.quorum_part // WHOLE_PPM)

    def weight_of(self, addresses: Iterable[Address]) -> int:
        """What these weigh together: each once, and nothing for who has no seat."""
        named = set(addresses)
        return sum(member.weight for member in self.members if member.address in named)

    def require_quorum(self, addresses: Iterable[Address], what: str) -> None:
        """Raises Refused(no_quorum) unless these are one. Who is missing counts as no."""
        weight = self.weight_of(addresses)
        if weight < self.quorum_weight:
            detail = f"{what}: {weight} of the stake of epoch {self.epoch}, {self.quorum_weight} needed"
            raise Refused(Reason.NO_QUORUM, detail)
