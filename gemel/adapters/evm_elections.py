"""The election on any EVM chain: `gemel.ports.elections.Elections`."""

from __future__ import annotations

from gemel.adapters.contract_abi import ELECTION, ROUND_REGISTRY, STAKE_TOKEN
from gemel.adapters.contract_calls import ContractCalls
from gemel.ports import Sent
from gemel.ports.elections import ChainStanding
from gemel.wire.eip712 import task_id
from gemel.wire.types import NO_ADDRESS, Address, Count


class EvmElections:
    """Over an open connection. It gives no hints: the contract walks its list, which costs gas and nothing else.

    `confirmations` is how many blocks must lie above one that is not replaced any more, as for `EvmChain`.
    """

    def __init__(self, calls: ContractCalls, *, confirmations: int = 0) -> None:
        self._calls, self._confirmations = calls, confirmations

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

    async def standing(self, task: str) -> ChainStanding:
        """See `Elections`."""
        block = max((await self._calls.node.head()).number - self._confirmations, self._calls.place.first_block)
        epoch = await self._calls.call(ELECTION, "epoch", block=block)
        found = await self._calls.call(ROUND_REGISTRY, "task", task_id(task), block=block)
        return ChainStanding(block, epoch, found["deployment"], found["model"], found["policy"])

    async def _approve(self, amount: int) -> None:
        await self._calls.send(STAKE_TOKEN, "approve", self._calls.place.contracts[ELECTION], amount)
