"""One EVM node over JSON-RPC: typed answers, one policy for when it is away. Only this module imports web3.

web3.py gives the formats; its own retries are off, because with a node that is down they add up to 20 s before
anybody hears of it, and so is its own transport (see _Provider). Reverts come as `CallReverted` with the contract's
bytes, whatever the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout
from web3 import AsyncHTTPProvider, AsyncWeb3, Web3
from web3.exceptions import (
    BadResponseFormat,
    BlockNotFound,
    ContractLogicError,
    TransactionNotFound,
    Web3RPCError,
)
from web3.middleware import ExtraDataToPOAMiddleware
from web3.types import RPCEndpoint

from gemel.errors import ChainUnavailable, ConfigError
from gemel.wire.types import Address, Digest

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a node may be away before we say so, and how often it is asked meanwhile."""

    request_s: float = 10.0  # for one answer
    give_up_s: float = 15.0  # for an answer at all, over all tries
    first_pause_s: float = 0.1  # doubles with each try
    longest_pause_s: float = 2.0


class CallReverted(Exception):
    """A contract refused a call; `data` are its bytes (see contract_abi.decode_error)."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


class NodeRefused(ChainUnavailable):
    """The node refused a request and said why: an account without funds, a nonce, a range that is too wide."""


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header, as far as we need it."""

    number: int
    hash: Digest
    parent: Digest
    timestamp_s: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True)
class Log:
    """One log entry."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: Digest
    transaction: Digest
    index: int  # in the block


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction."""

    transaction: Digest
    block: int
    block_hash: Digest
    gas: int
    succeeded: bool
    created: Address | None
    logs: tuple[Log, ...]


class _Provider(AsyncHTTPProvider):
    """Requests over one session of our own.

    web3's transport takes a thread's lock before each request, for all providers of a process. A request that is
    cancelled while it waits for that lock may leave it locked for ever: then no chain call returns any more, and the
    process does not end (seen with web3 8.0, where SIGTERM cancelled a request).
    """

    session: ClientSession | None = None

    async def _make_request(self, method: RPCEndpoint, request_data: bytes) -> bytes:  # noqa: ARG002  as web3 calls it
        assert self.session is not None, "a node is used inside its `async with`"
        assert self.endpoint_uri is not None
        async with self.session.post(self.endpoint_uri, data=request_data, **self.get_request_kwargs()) as answer:
            return await answer.read()


class EvmNode:
    """A connection to one endpoint. Open it with `async with`.

    Every method raises ChainUnavailable once the node has been away for longer than the patience allows.
    """

    def __init__(self, rpc_url: str, patience: Patience | None = None) -> None:
        self.rpc_url = rpc_url
        self._patience = patience or Patience()
        self._provider = _Provider(
            rpc_url,
            request_kwargs={"timeout": ClientTimeout(total=self._patience.request_s)},
            exception_retry_configuration=None,
        )
        self._web3 = AsyncWeb3(self._provider)
        self._web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)  # Clique, QBFT: longer extraData

    async def __aenter__(self) -> Self:
        self._provider.session = ClientSession(raise_for_status=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._provider.session is not None
        await self._provider.session.close()

    async def _ask(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until there is an answer. An answer that says no is one, and is not asked for again."""
        clock = asyncio.get_running_loop().time
        until, pause = clock() + self._patience.give_up_s, self._patience.first_pause_s
        while True:
            try:
                return await request()
            except (BlockNotFound, TransactionNotFound):
                raise  # answers too, which web3 counts among the RPC errors
            except ContractLogicError as error:
                raise CallReverted(_revert_data(error)) from error
            except Web3RPCError as error:
                raise NodeRefused(f"the node at {self.rpc_url} refuses: {_refusal(error)}") from error
            except (ClientError, BadResponseFormat, ValueError, OSError, TimeoutError) as error:
                # ValueError: what came is no JSON, or not of the form that web3 expects
                if clock() + pause > until:
                    raise ChainUnavailable(
                        f"no chain node answers at {self.rpc_url}: {error or type(error).__name__}"
                    ) from error
                _log.debug("no answer from %s, again in %.1f s: %r", self.rpc_url, pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._patience.longest_pause_s)

    async def require_chain(self, chain_id: int) -> None:
        """Raises ConfigError unless the node is on this chain."""
        actual = await self.chain_id()
        if actual != chain_id:
            raise ConfigError(self.rpc_url, "chain_id", f"{chain_id} expected, the node is on {actual}")

    # --- reading --------------------------------------------------------------------------------

    async def chain_id(self) -> int:
        """The id that the node claims."""
        return await self._ask(lambda: self._web3.eth.chain_id)

    async def header(self, block: int | None = None) -> Header | None:
        """The header at a height, or the head's; None above the head."""
        try:
            raw = await self._ask(lambda: self._web3.eth.get_block("latest" if block is None else block))
        except BlockNotFound:
            return None
        return Header(
            number=raw["number"],
            hash=_digest(raw["hash"]),
            parent=_digest(raw["parentHash"]),
            timestamp_s=raw["timestamp"],
            base_fee_wei=raw.get("baseFeePerGas", 0),
        )

    async def head(self) -> Header:
        """The last block's header."""
        header = await self.header()
        if header is None:
            raise ChainUnavailable(f"the node at {self.rpc_url} has no block yet")
        return header

    async def code(self, address: Address) -> bytes:
        """A contract's code; empty where there is none."""
        return bytes(await self._ask(lambda: self._web3.eth.get_code(Web3.to_checksum_address(address))))

    async def balance(self, address: Address) -> int:
        """What an account holds, wei."""
        return await self._ask(lambda: self._web3.eth.get_balance(Web3.to_checksum_address(address)))

    async def logs(self, addresses: Sequence[Address], first: int, last: int) -> list[Log]:
        """All logs of these contracts in blocks `first` to `last`, both included. Raises NodeRefused if too many."""
        query: Any = {
            "address": [Web3.to_checksum_address(each) for each in addresses],
            "fromBlock": first,
            "toBlock": last,
        }
        return [_log_entry(raw) for raw in await self._ask(lambda: self._web3.eth.get_logs(query))]

    async def transaction(self, digest: Digest) -> Mapping[str, Any] | None:
        """A transaction with web3's field names, or None."""
        try:
            return await self._ask(lambda: self._web3.eth.get_transaction(_hash(digest)))
        except TransactionNotFound:
            return None

    async def receipt(self, digest: Digest) -> Receipt | None:
        """The receipt of a transaction that is in a block, or None."""
        try:
            raw = await self._ask(lambda: self._web3.eth.get_transaction_receipt(_hash(digest)))
        except TransactionNotFound:
            return None
        created = raw["contractAddress"]
        return Receipt(
            transaction=digest,
            block=raw["blockNumber"],
            block_hash=_digest(raw["blockHash"]),
            gas=raw["gasUsed"],
            succeeded=raw["status"] == 1,
            created=created.lower() if created else None,
            logs=tuple(_log_entry(each) for each in raw["logs"]),
        )

    async def call(
        self, to: Address, data: bytes, *, sender: Address | None = None, block: int | None = None
    ) -> bytes:
        """What a contract answers. Raises CallReverted."""
        request = _call(to, data, sender)
        return bytes(await self._ask(lambda: self._web3.eth.call(request, "latest" if block is None else block)))

    # --- writing --------------------------------------------------------------------------------

    async def estimate_gas(self, to: Address | None, data: bytes, *, sender: Address) -> int:
        """Gas for a transaction. Raises CallReverted if it would fail."""
        request = _call(to, data, sender)
        return await self._ask(lambda: self._web3.eth.estimate_gas(request))

    async def next_nonce(self, address: Address) -> int:
        """The next nonce, counting what waits for a block."""
        account = Web3.to_checksum_address(address)
        return await self._ask(lambda: self._web3.eth.get_transaction_count(account, "pending"))

    async def priority_fee(self) -> int:
        """What the node suggests to pay its block's maker, wei a gas."""
        return await self._ask(lambda: self._web3.eth.max_priority_fee)

    async def send(self, raw: bytes) -> None:
        """Hand in a signed transaction. Raises NodeRefused; a try whose answer got lost may have been taken."""
        await self._ask(lambda: self._web3.eth.send_raw_transaction(raw))


def _call(to: Address | None, data: bytes, sender: Address | None) -> Any:
    request: dict[str, Any] = {"data": data}
    if to is not None:
        request["to"] = Web3.to_checksum_address(to)
    if sender is not None:
        request["from"] = Web3.to_checksum_address(sender)
    return request


def _refusal(error: Web3RPCError) -> str:
    answer = error.rpc_response or {}
    return str(answer.get("error", {}).get("message", error.message))


def _revert_data(error: ContractLogicError) -> bytes:
    data = error.data
    if isinstance(data, str) and data.startswith("0x"):
        return bytes.fromhex(data[2:])
    return data if isinstance(data, bytes) else b""


def _hash(digest: Digest) -> Any:
    return "0x" + digest


def _digest(raw: bytes) -> Digest:
    return bytes(raw).hex()


def _log_entry(raw: Mapping[str, Any]) -> Log:
    return Log(
        address=raw["address"].lower(),
        topics=tuple(bytes(each) for each in raw["topics"]),
        data=bytes(raw["data"]),
        block=raw["blockNumber"],
        block_hash=_digest(raw["blockHash"]),
        transaction=_digest(raw["transactionHash"]),
        index=raw["logIndex"],
    )
