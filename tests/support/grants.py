"""Grants of twins on a test's chain, signed and handed in."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.adapters.contract_abi import DATA_SHARING
from gemel.adapters.evm_sharing import EvmSharing
from gemel.ports import Sent
from gemel.wire.identity import Identity
from gemel.wire.sharing import Grant, grant_hash, grant_id, revocation_hash
from gemel.wire.types import Digest, Signature
from tests.support.chains import Fleet


@dataclass(frozen=True)
class Notary:
    """Has owners and consumers sign; the fleet's operator hands in."""

    fleet: Fleet

    @property
    def sharing(self) -> EvmSharing:
        return EvmSharing(self.fleet.operator.calls)

    def signed(self, who: Identity, grant: Grant, nonce: int = 0) -> Signature:
        return who.sign(grant_hash(grant, nonce, self.fleet.place.domain(DATA_SHARING))).hex()

    def ended(self, who: Identity, id_: Digest) -> Signature:
        return who.sign(revocation_hash(id_, self.fleet.place.domain(DATA_SHARING))).hex()

    async def enter(self, owner: Identity, consumer: Identity, grant: Grant, nonce: int = 0) -> tuple[Digest, Sent]:
        signatures = self.signed(owner, grant, nonce), self.signed(consumer, grant, nonce)
        return grant_id(grant, nonce), await self.sharing.grant(grant, nonce, *signatures)

    async def revoke(self, owner: Identity, id_: Digest) -> Sent:
        return await self.sharing.revoke(id_, self.ended(owner, id_))
