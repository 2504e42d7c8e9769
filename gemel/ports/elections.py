"""Delegated proof of stake, as a validator, a delegator or whoever closes epochs sees it."""

from __future__ import annotations

from typing import Protocol

from gemel.ports.chain import Sent
from gemel.wire.types import Address, Count


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
