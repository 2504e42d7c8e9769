"""Ethereum's JSON-RPC over the node: which methods there are, what they take, and how they refuse.

-32700  not JSON                      -32602  wrong parameters
-32600  not a request                 -32000  the node refuses (its words say why)
-32601  no such method                3       a contract refused; `data` holds its bytes
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from gemel.embedded.chain.node import (
    BLOCK_GAS_LIMIT,
    PRIORITY_FEE_WEI,
    CallFailed,
    InvalidTransaction,
    Node,
    Reverted,
)
from gemel.embedded.chain.store import Document, Store

BATCH_LIMIT = 100
LOGS_LIMIT = 10_000
_HEX = re.compile(r"0x([0-9a-fA-F]{2})*")
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_TAGS = frozenset({"latest", "pending", "safe", "finalized"})
_log = logging.getLogger(__name__)


class RpcError(Exception):
    """An answer that says no."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def reply(request_id: object, result: object) -> Document:
    """A JSON-RPC answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def refusal(request_id: object, error: RpcError) -> Document:
    """A JSON-RPC error."""
    body: Document = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def parse(text: bytes | str) -> list[Any] | Any:
    """A request, or a batch as a list. Raises RpcError for what is no JSON, or too long a batch."""
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RpcError(-32700, f"not JSON: {error}") from error
    if isinstance(request, list) and not 0 < len(request) <= BATCH_LIMIT:
        raise RpcError(-32600, f"a batch has 1 to {BATCH_LIMIT} requests")
    return request


def check_request(request: object) -> tuple[str, list[Any]]:
    """Method and parameters of one request. Raises RpcError(-32600)."""
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise RpcError(-32600, "a request is an object with a method")
    parameters = request.get("params", [])
    if not isinstance(parameters, list):
        raise RpcError(-32600, "params is a list")
    return request["method"], parameters


class Rpc:
    """Answers requests, one at a time, from one thread. `on_block` hears of every new block."""

    def __init__(self, node: Node, store: Store, on_block: Callable[[Document], None]) -> None:
        self._node, self._store, self._on_block = node, store, on_block
        self._methods: dict[str, Callable[..., object]] = {
            "web3_clientVersion": lambda: "gemel-embedded-chain",
            "net_version": lambda: str(node.chain_id),
            "eth_chainId": lambda: hex(node.chain_id),
            "eth_syncing": lambda: False,
            "eth_blockNumber": lambda: hex(node.block_number()),
            "eth_maxPriorityFeePerGas": lambda: hex(PRIORITY_FEE_WEI),
            "eth_gasPrice": lambda: hex(node.base_fee() + PRIORITY_FEE_WEI),
            "eth_getBalance": lambda who, at="latest": hex(node.balance(_address(who), self._number(at))),
            "eth_getTransactionCount": lambda who, at="latest": hex(node.nonce(_address(who), self._number(at))),
            "eth_getCode": lambda who, at="latest": "0x" + node.code(_address(who), self._number(at)).hex(),
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": lambda digest, full=False: self._block(store.block_by_hash(_hash(digest)), full),
            "eth_getTransactionByHash": lambda digest: store.transaction_by_hash(_hash(digest)),
            "eth_getTransactionReceipt": lambda digest: store.receipt(_hash(digest)),
            "eth_getLogs": self._logs,
            "eth_call": lambda call, at="latest": "0x" + node.call(*self._call(call, at)).hex(),
            "eth_estimateGas": lambda call, at="latest": hex(node.estimate_gas(*self._call(call, at))),
            "eth_sendRawTransaction": self._send,
        }

    def answer(self, request: object) -> Document:
        """The answer to one parsed request; never raises."""
        request_id = request.get("id") if isinstance(request, dict) else None
        try:
            method, parameters = check_request(request)
            return reply(request_id, self._dispatch(method, parameters))
        except RpcError as error:
            return refusal(request_id, error)
        except Exception as error:  # noqa: BLE001 - one request's bug must not end the chain; it is logged and answered
            _log.exception("request failed")
            return refusal(request_id, RpcError(-32603, f"internal error: {type(error).__name__}"))

    def _dispatch(self, method: str, parameters: Sequence[Any]) -> object:
        function = self._methods.get(method)
        if function is None:
            raise RpcError(-32601, f"the method {method} does not exist")
        try:
            inspect.signature(function).bind(*parameters)
        except TypeError as error:
            raise RpcError(-32602, f"{method}: {error}") from error
        try:
            return function(*parameters)
        except InvalidTransaction as error:
            raise RpcError(-32000, str(error)) from error
        except Reverted as error:
            raise RpcError(3, str(error), "0x" + error.data.hex()) from error
        except CallFailed as error:
            raise RpcError(-32000, str(error)) from error

    # --- methods of more than one line ---------------------------------------------------------

    def _block_by_number(self, at: object, full: object = False) -> Document | None:
        if isinstance(at, str) and _QUANTITY.fullmatch(at) and int(at, 16) > self._node.block_number():
            return None
        return self._block(self._store.block(self._number(at)), full)

    def _block(self, block: Document | None, full: object) -> Document | None:
        if block is not None and full is True:
            block["transactions"] = [self._store.transaction_by_hash(each) for each in block["transactions"]]
        return block

    def _logs(self, query: object) -> list[Document]:
        if not isinstance(query, dict):
            raise RpcError(-32602, "a log filter is an object")
        if "blockHash" in query:
            block = self._store.block_by_hash(_hash(query["blockHash"]))
            if block is None:
                raise RpcError(-32000, "unknown block")
            first = last = int(block["number"], 16)
        else:
            first = self._number(query.get("fromBlock", "latest"), known=False)
            last = self._number(query.get("toBlock", "latest"), known=False)
        given = query.get("address") or []
        addresses = ["0x" + _address(each).hex() for each in (given if isinstance(given, list) else [given])]
        found = self._store.logs(first, last, addresses, LOGS_LIMIT + 1)
        if len(found) > LOGS_LIMIT:
            raise RpcError(-32000, f"query returns more than {LOGS_LIMIT} results")
        topics = _topics(query.get("topics") or [])
        return [log for log in found if _matches(log["topics"], topics)]

    def _send(self, raw: object) -> str:
        block = self._node.mine(_bytes(raw))
        self._on_block(block)
        return str(block["transactions"][0])

    # --- parameters -----------------------------------------------------------------------------

    def _number(self, at: object, *, known: bool = True) -> int:
        """A block number; with `known`, of a block that exists."""
        head = self._node.block_number()
        if isinstance(at, str) and at in _TAGS:
            return head
        if at == "earliest":
            return 0
        number = _quantity(at)
        if known and number > head:
            raise RpcError(-32000, "header not found")
        return min(number, 2**62)  # what SQLite can compare

    def _call(self, call: object, at: object) -> tuple[bytes, bytes, bytes, int, int, int]:
        if not isinstance(call, dict):
            raise RpcError(-32602, "a call is an object")
        return (
            _address(call["from"]) if call.get("from") else bytes(20),
            _address(call["to"]) if call.get("to") else b"",
            _bytes(call.get("input") or call.get("data") or "0x"),
            _quantity(call.get("value", "0x0")),
            min(_quantity(call.get("gas", hex(BLOCK_GAS_LIMIT))), BLOCK_GAS_LIMIT),
            self._number(at),
        )


def _quantity(value: object) -> int:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise RpcError(-32602, f"a quantity is 0x and hex digits, got {str(value)[:80]!r}")
    return int(value, 16)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise RpcError(-32602, f"bytes are 0x and pairs of hex digits, got {str(value)[:80]!r}")
    return bytes.fromhex(value[2:])


def _address(value: object) -> bytes:
    raw = _bytes(value)
    if len(raw) != 20:
        raise RpcError(-32602, f"an address has 20 bytes, got {len(raw)}")
    return raw


def _hash(value: object) -> str:
    raw = _bytes(value)
    if len(raw) != 32:
        raise RpcError(-32602, f"a hash has 32 bytes, got {len(raw)}")
    return "0x" + raw.hex()


def _topics(filters: object) -> list[frozenset[str] | None]:
    """For each position the topics that fit; None fits all."""
    if not isinstance(filters, list) or len(filters) > 4:
        raise RpcError(-32602, "topics is a list of at most four")
    return [
        None if each is None else frozenset(map(_hash, each if isinstance(each, list) else [each]))
        for each in filters
    ]


def _matches(topics: Sequence[str], filters: Sequence[frozenset[str] | None]) -> bool:
    if len(filters) > len(topics):
        return False
    return all(fits is None or topic in fits for topic, fits in zip(topics, filters, strict=False))
