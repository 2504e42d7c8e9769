"""The election on any EVM chain: `gemel.ports.elections.Elections`."""

from __future__ import annotations

from gemel.adapters.contract_abi import ELECTION, STAKE_TOKEN
from gemel.adapters.contract_calls import ContractCalls
from gemel.ports import Sent
from gemel.wire.types import NO_ADDRESS, Address, Count


class EvmElections:
    """Over an open connection. It gives no hints: the contract walks its list, which costs gas and nothing else."""

    def __init__(self, calls: ContractCalls) -> None:
        self._calls = calls

    async def stake(self, amount: int) -> Sent:
        """See `Elections`."""
        await self._approve(amount)
        return await self._calls.send(ELECTION, "stake", amount, NO_ADDRESS)

    async def delegate(self, validator: Address, amount: int) -> Sent:
        """See `Elections`."""
        await self._approve(amount)
        return await self._calls.send(ELECTION, "delegate", validator, amount, NO_ADDRESS)

    async def undelegate(self, validator: Address, shares: int) -> Sent:
        """See `Elections`."""
        return await self._calls.send(ELECTION, "undelegate", validator, shares, NO_ADDRESS)

    async def withdraw(self, unbonding: int) -> Sent:
        """See `Elections`."""
        return await self._calls.send(ELECTION, "withdraw", unbonding)

    async def fund(self, amount: int) -> Sent:
        """See `Elections`."""
        await self._approve(amount)
        return await self._calls.send(ELECTION, "fund", amount)

    async def close_epoch(self) -> Sent:
        """See `Elections`."""
        return await self._calls.send(ELECTION, "closeEpoch")

    async def epoch_ends_s(self) -> Count:
        """See `Elections`."""
        ends: int = await self._calls.call(ELECTION, "epochEnds")
        return ends

    async def _approve(self, amount: int) -> None:
        await self._calls.send(STAKE_TOKEN, "approve", self._calls.place.contracts[ELECTION], amount)
