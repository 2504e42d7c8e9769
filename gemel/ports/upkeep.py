"""Maintenance orders on chain: from a twin's health alert to the verified work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gemel.ports.chain import Sent
from gemel.wire.messages import HealthAlert
from gemel.wire.types import Address, Digest, Signature
from gemel.wire.upkeep import OrderState, Step


class OrderRecord(msgspec.Struct, frozen=True):
    """An order as the chain has it; steps that are still to come are None."""

    state: OrderState  # NONE: there is no such order
    asset: Digest  # gemel.wire.upkeep.asset_id
    alert: Digest  # keccak of the occurrence's id
    opened: Step | None = None
    acknowledged: Step | None = None
    done: Step | None = None
    verified: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Those that were taken, in their order."""
        return tuple(step for step in (self.opened, self.acknowledged, self.done, self.verified) if step is not None)


class OpenedOrder(msgspec.Struct, frozen=True):
    """Where an order is about; the names are those that the asset was assigned by."""

    order: Digest
    site: str
    asset: str


class Upkeep(Protocol):
    """contracts/src/Maintenance.sol and AssetRegistry.sol. Raises as `Chain` does.

    Whoever signed is held to his role; whoever sends needs none. Times must lie between the step before and the block
    (TimeOutOfOrder).
    """

    async def open_order(self, alert: HealthAlert, agent: Address) -> Sent:
        """Anybody, with the signature of an active agent of the asset's owner. Raises OrderExists the second time."""
        ...

    async def acknowledge(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """A technician has seen it: OPEN → ACKNOWLEDGED."""
        ...

    async def complete(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """A technician did the work: ACKNOWLEDGED → DONE."""
        ...

    async def verify(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """An inspector, who is another person, found it good: DONE → VERIFIED."""
        ...

    async def order(self, order: Digest) -> OrderRecord:
        """One order; its state is NONE if there is none."""
        ...

    async def orders(self) -> Sequence[OpenedOrder]:
        """All orders that were ever opened, in that order."""
        ...

    async def owner_of(self, asset: Digest) -> Address:
        """Whose an asset is; zeros for one that nobody was assigned."""
        ...
