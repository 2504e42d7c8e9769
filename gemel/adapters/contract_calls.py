"""One open connection to a fleet's contracts: calls and transactions by contract and function name."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import decode_error, load
from gemel.adapters.evm_node import CallReverted, EvmNode, Patience
from gemel.adapters.evm_transactions import Sender, SendingPolicy
from gemel.errors import ChainReverted, ChainUnavailable, ConfigError, Malformed
from gemel.ports import Sent
from gemel.wire.identity import Identity


class ContractCalls:
    """What every adapter of a chain port stands on. Open it with `async with`; without an identity it only reads."""

    def __init__(
        self,
        place: ChainPlace,
        identity: Identity | None,
        *,
        patience: Patience | None = None,
        sending: SendingPolicy | None = None,
    ) -> None:
        self.place = place
        self.node = EvmNode(place.rpc_url, patience)
        policy = sending or SendingPolicy()
        self._sender = Sender(self.node, identity, place.chain_id, policy=policy) if identity else None
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises ConfigError for another chain or a place without a contract, ChainUnavailable."""
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self.node)
            await self.node.require_chain(self.place.chain_id)
            for name, address in self.place.contracts.items():
                if not await self.node.code(address):
                    raise ConfigError(self.node.rpc_url, name, f"a contract's address; there is none at {address}")
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def send(self, contract: str, function: str, *arguments: object) -> Sent:
        """A transaction of ours. Raises ChainReverted with the contract's error, ChainUnavailable."""
        if self._sender is None:
            raise ConfigError("chain", "key_file", f"a signing key: {function} is a transaction")
        data = load(contract).functions[function].encode(*arguments)
        receipt = await self._sender.send(function, self.place.contracts[contract], data)
        return Sent(receipt.transaction, receipt.block, receipt.gas)

    async def call(self, contract: str, function: str, *arguments: object, block: int | None = None) -> Any:
        """What a view answers, now or as of a block. Raises ChainReverted, ChainUnavailable."""
        entry = load(contract).functions[function]
        try:
            answer = await self.node.call(self.place.contracts[contract], entry.encode(*arguments), block=block)
        except CallReverted as error:
            raise ChainReverted(function, *decode_error(error.data)) from error
        try:
            return entry.decode_result(answer)
        except Malformed as error:
            raise ChainUnavailable(f"the node at {self.node.rpc_url} answers {function} with nonsense") from error
