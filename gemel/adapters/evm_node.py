"""One EVM node over JSON-RPC: typed answers, one policy for when it is away. Only this module imports web3.

web3.py gives the formats; its own retries are off, because with a node that is down they add up to 20 s before
anybody hears of it, and so is its own transport (see _Provider). Reverts come as `CallReverted` with the contract's
bytes, whatever the node. Nothing that a node says is taken as it comes: what is not of the form it must have is asked
for again, and is NodeNonsense when it stays so.
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
    Web3Exception,
    Web3RPCError,
)
from web3.middleware import ExtraDataToPOAMiddleware
from web3.types import RPCEndpoint

from gemel.errors import ChainUnavailable, ConfigError
from gemel.wire.types import Address, Digest

ANSWER_LIMIT_BYTES = 64 * 2**20
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


class NodeNonsense(ChainUnavailable):
    """The node answers with what no correct node says; one that is itself again answers correctly."""


class ForeignChain(ChainUnavailable):
    """The endpoint was on our chain, and another one answers there now."""


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
        body = bytearray()
        async with self.session.post(self.endpoint_uri, data=request_data, **self.get_request_kwargs()) as answer:
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise BadResponseFormat(f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
        return bytes(body)


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

    async def _ask(self, request: Callable[[], Awaitable[Any]], read: Callable[[Any], _T]) -> _T:
        """Ask until there is an answer that `read` can take. One that says no is one, and is not asked for again."""
        clock = asyncio.get_running_loop().time
        until, pause = clock() + self._patience.give_up_s, self._patience.first_pause_s
        while True:
            try:
                return read(await request())
            except (BlockNotFound, TransactionNotFound):
                raise  # answers too, which web3 counts among the RPC errors
            except ContractLogicError as error:
                raise CallReverted(_revert_data(error)) from error
            except Web3RPCError as error:
                raise NodeRefused(f"the node at {self.rpc_url} refuses: {_refusal(error)}") from error
            except (ClientError, OSError, TimeoutError) as error:
                trouble: ChainUnavailable = ChainUnavailable(
                    f"no chain node answers at {self.rpc_url}: {error or type(error).__name__}"
                )
                cause: Exception = error
            except (Web3Exception, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                # what came is no JSON, or not of the form that web3 or `read` expects; they raise what comes
                trouble = NodeNonsense(f"the node at {self.rpc_url} answers nonsense: {_first_line(error)}")
                cause = error
            if clock() + pause > until:
                raise trouble from cause
            _log.debug("again in %.1f s: %s", pause, trouble)
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
        return await self._ask(lambda: self._web3.eth.chain_id, _integer)

    async def header(self, block: int | None = None) -> Header | None:
        """The header at a height, or the head's; None above the head."""
        try:
            return await self._ask(
                lambda: self._web3.eth.get_block("latest" if block is None else block), _block_header
            )
        except BlockNotFound:
            return None

    async def head(self) -> Header:
        """The last block's header."""
        header = await self.header()
        if header is None:
            raise ChainUnavailable(f"the node at {self.rpc_url} has no block yet")
        return header

    async def code(self, address: Address) -> bytes:
        """A contract's code; empty where there is none."""
        return await self._ask(lambda: self._web3.eth.get_code(Web3.to_checksum_address(address)), bytes)

    async def balance(self, address: Address) -> int:
        """What an account holds, wei."""
        return await self._ask(lambda: self._web3.eth.get_balance(Web3.to_checksum_address(address)), _integer)

    async def logs(self, addresses: Sequence[Address], first: int, last: int) -> list[Log]:
        """All logs of these contracts in blocks `first` to `last`, both included.

        Raises NodeRefused if they are too many, NodeNonsense if one is none that was asked for.
        """
        found = await self._logs(addresses, {"fromBlock": first, "toBlock": last})
        for each in found:
            if not first <= each.block <= last:
                raise self._nonsense(each, f"is of block {each.block}, asked were {first} to {last}")
        return found

    async def logs_of_block(self, addresses: Sequence[Address], header: Header) -> list[Log]:
        """All logs of these contracts in one block, which no other block of that height can answer for.

        Raises NodeRefused if the node does not have this block (EIP-234; Besu before 25.2 does not say so),
        NodeNonsense if a log is none that was asked for.
        """
        found = await self._logs(addresses, {"blockHash": _hash(header.hash)})
        for each in found:
            if (each.block, each.block_hash) != (header.number, header.hash):
                raise self._nonsense(each, f"is of block {each.block} {each.block_hash}, asked was {header.number}")
        return found

    async def _logs(self, addresses: Sequence[Address], blocks: Mapping[str, Any]) -> list[Log]:
        query: Any = {"address": [Web3.to_checksum_address(each) for each in addresses], **blocks}
        found = await self._ask(
            lambda: self._web3.eth.get_logs(query), lambda raw: [_log_entry(each) for each in raw]
        )
        for each in found:
            if each.address not in addresses:
                raise self._nonsense(each, f"is of {each.address}, which was not asked for")
        return found

    def _nonsense(self, log: Log, what: str) -> NodeNonsense:
        return NodeNonsense(
            f"the node at {self.rpc_url} answers nonsense: log {log.index} of transaction {log.transaction} {what}"
        )

    async def transaction(self, digest: Digest) -> Mapping[str, Any] | None:
        """A transaction with web3's field names, or None."""
        try:
            return await self._ask(lambda: self._web3.eth.get_transaction(_hash(digest)), _mapping)
        except TransactionNotFound:
            return None

    async def receipt(self, digest: Digest) -> Receipt | None:
        """The receipt of a transaction that is in a block, or None."""
        try:
            return await self._ask(
                lambda: self._web3.eth.get_transaction_receipt(_hash(digest)), lambda raw: _receipt(digest, raw)
            )
        except TransactionNotFound:
            return None

    async def call(
        self, to: Address, data: bytes, *, sender: Address | None = None, block: int | None = None
    ) -> bytes:
        """What a contract answers. Raises CallReverted."""
        request = _call(to, data, sender)
        at: Any = "latest" if block is None else block
        return await self._ask(lambda: self._web3.eth.call(request, at), bytes)

    # --- writing --------------------------------------------------------------------------------

    async def estimate_gas(self, to: Address | None, data: bytes, *, sender: Address) -> int:
        """Gas for a transaction. Raises CallReverted if it would fail."""
        request = _call(to, data, sender)
        return await self._ask(lambda: self._web3.eth.estimate_gas(request), _integer)

    async def next_nonce(self, address: Address) -> int:
        """The next nonce, counting what waits for a block."""
        account = Web3.to_checksum_address(address)
        return await self._ask(lambda: self._web3.eth.get_transaction_count(account, "pending"), _integer)

    async def priority_fee(self) -> int:
        """What the node suggests to pay its block's maker, wei a gas."""
        return await self._ask(lambda: self._web3.eth.max_priority_fee, _integer)

    async def send(self, raw: bytes) -> None:
        """Hand in a signed transaction. Raises NodeRefused; a try whose answer got lost may have been taken."""
        await self._ask(lambda: self._web3.eth.send_raw_transaction(raw), bytes)


def _call(to: Address | None, data: bytes, sender: Address | None) -> Any:
    request: dict[str, Any] = {"data": data}
    if to is not None:
        request["to"] = Web3.to_checksum_address(to)
    if sender is not None:
        request["from"] = Web3.to_checksum_address(sender)
    return request


def _refusal(error: Web3RPCError) -> str:
    said: Any = (error.rpc_response or {}).get("error")
    return str(said.get("message", error.message) if isinstance(said, dict) else error.message)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _revert_data(error: ContractLogicError) -> bytes:
    data = error.data
    if isinstance(data, str) and data.startswith("0x"):
        return bytes.fromhex(data[2:])
    return data if isinstance(data, bytes) else b""


def _hash(digest: Digest) -> Any:
    return "0x" + digest


# --- what a node says, taken apart; whatever these raise, its answer was none --------------------


def _integer(raw: object) -> int:
    if not isinstance(raw, int):
        raise TypeError(f"{raw!r} where a number belongs")
    return raw


def _mapping(raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise TypeError(f"{raw!r} where an object belongs")
    return raw


def _digest(raw: bytes) -> Digest:
    if len(raw) != 32:
        raise ValueError(f"{len(raw)} bytes where a hash belongs")
    return bytes(raw).hex()


def _address(raw: str) -> Address:
    if len(bytes.fromhex(raw.removeprefix("0x"))) != 20:
        raise ValueError(f"{raw!r} where an address belongs")
    return raw.lower()


def _block_header(raw: Mapping[str, Any]) -> Header:
    return Header(
        number=_integer(raw["number"]),
        hash=_digest(raw["hash"]),
        parent=_digest(raw["parentHash"]),
        timestamp_s=_integer(raw["timestamp"]),
        base_fee_wei=_integer(raw.get("baseFeePerGas", 0)),
    )


def _receipt(digest: Digest, raw: Mapping[str, Any]) -> Receipt:
    created = raw["contractAddress"]
    return Receipt(
        transaction=digest,
        block=_integer(raw["blockNumber"]),
        block_hash=_digest(raw["blockHash"]),
        gas=_integer(raw["gasUsed"]),
        succeeded=_integer(raw["status"]) == 1,
        created=_address(created) if created else None,
        logs=tuple(_log_entry(each) for each in raw["logs"]),
    )


def _log_entry(raw: Mapping[str, Any]) -> Log:
    topics = tuple(bytes(each) for each in raw["topics"])
    if len(topics) > 4 or any(len(each) != 32 for each in topics):
        raise ValueError(
            f"log {raw['logIndex']} of transaction {_digest(raw['transactionHash'])} has topics that are none"
        )
    return Log(
        address=_address(raw["address"]),
        topics=topics,
        data=bytes(raw["data"]),
        block=_integer(raw["blockNumber"]),
        block_hash=_digest(raw["blockHash"]),
        transaction=_digest(raw["transactionHash"]),
        index=_integer(raw["logIndex"]),
    )
