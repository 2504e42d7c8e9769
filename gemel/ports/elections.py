"""Delegated proof of stake, as a validator, a delegator or whoever closes epochs sees it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gemel.ports.chain import Sent
from gemel.wire.types import Address, Count, Digest


class ChainStanding(msgspec.Struct, frozen=True):
    """What stood on chain at the end of one block."""

    block: Count
    epoch: Count  # 0 before the first election
    deployment: Count
    model: Digest
    policy: Digest


class Elections(Protocol):
    """contracts/src/Election.sol. Amounts are in 10^-18 tokens. Raises as `Chain` does."""

    async def stake(self, amount: int) -> Sent:
        """A registered validator puts its own tokens down and stands from now on."""
        ...

    async def delegate(self, validator: Address, amount: int) -> Sent:
        """Anybody, for a validator who stands: it votes with them, and they are slashed with its own."""
        ...

    async def undelegate(self, validator: Address, shares: int) -> Sent:
        """Take shares out; until they are released they earn nothing and can still be slashed."""
        ...

    async def withdraw(self, unbonding: int) -> Sent:
        """Take out what has been released."""
        ...

    async def fund(self, amount: int) -> Sent:
        """Give tokens for rewards."""
        ...

    async def close_epoch(self) -> Sent:
        """Anybody, once the epoch is over: pay who sat, seat the heaviest."""
        ...

    async def epoch_ends_s(self) -> Count:
        """From when on the epoch can be closed, seconds since 1970; 0 before the first."""
        ...

    async def standing(self, task: str) -> ChainStanding:
        """What the chain says of a task, all as of the last block that is not replaced any more."""
        ...
