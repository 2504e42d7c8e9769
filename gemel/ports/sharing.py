"""What owners share of their machines' twins, as the chain has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from gemel.ports.chain import Sent
from gemel.wire.sharing import Asset, Grant
from gemel.wire.types import Address, Count, Digest, Millis, Signature


class GrantRecord(msgspec.Struct, frozen=True):
    """A grant that was entered. Times beyond the year 287396 are cut to it."""

    id: Digest
    grant: Grant
    revoked_ms: Millis | None  # when its owner ended it; None if nobody did


class Sharing(Protocol):
    """contracts/src/DataSharing.sol and AssetRegistry.sol. Raises as `Chain` does."""

    async def assign(self, asset: Asset, owner: Address) -> Sent:
        """Operator: say whose a machine is. What its former owner granted of it ends with that."""
        ...

    async def grant(
        self, grant: Grant, nonce: Count, owner_signature: Signature, consumer_signature: Signature
    ) -> Sent:
        """Anybody, with both signatures over `wire.sharing.grant_hash`."""
        ...

    async def revoke(self, id_: Digest, owner_signature: Signature) -> Sent:
        """Anybody, with the owner's signature over `wire.sharing.revocation_hash`: it is over, for good."""
        ...

    async def grants(self) -> Sequence[GrantRecord]:
        """Every grant that was ever entered, in that order: also those that are over, revoked or yet to begin."""
        ...

    async def owners(self) -> Mapping[Asset, Address]:
        """Whose each machine is, as of now."""
        ...
