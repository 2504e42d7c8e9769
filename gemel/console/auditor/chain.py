"""The kept chain: transactions from their bytes, calls replayed, the replay's events against the logs. Pure.

What this cannot show, and `NOT_COVERED` says so: a block's hash is taken from the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import rlp
from eth_hash.auto import keccak
from msgspec.structs import replace

from gemel.adapters.chain_export import (
    ChainExport,
    ExportedTransaction,
    encode_export,
    exported_calls,
    exported_events,
)
from gemel.adapters.contract_abi import DEVICE_REGISTRY, load
from gemel.adapters.typed_transactions import OpenedTransaction, open_transaction
from gemel.console.auditor.book import Book, require
from gemel.console.auditor.ledger import Event, Ledger
from gemel.wire.eip712 import Domain
from gemel.wire.types import NO_DIGEST, Address

FILE = "chain-export.json"
NOT_COVERED = (
    "blocks: hash, time and gas are the node's word; parent links are checked where neighbours were kept",
    "the round registry's code: its creation left no event",
    "that nothing was left out at the chain's end: compare the last block with a node",
)
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def replay_chain(export: ChainExport, stored: bytes, book: Book) -> Ledger:
    """Check every transaction and return what the contracts must hold. `stored` are the bytes of the file."""
    if encode_export(export) != stored:
        book.fault(FILE, "the file is not in the form in which it was written")
    _check_blocks(export, book)
    ledger = Ledger(Domain(export.chain_id, export.round_registry))
    order = _Order(export, book)
    for transaction in export.transactions:
        with book.checking("transactions", f"{FILE}: transaction {transaction.hash[:12]}"):
            opened = _open(transaction)
            order.next(transaction, opened)
            _replay(export, transaction, opened, ledger)
    return ledger


class _Order:
    """Whether transactions stand in the order in which the chain took them, and where some are not kept."""

    def __init__(self, export: ChainExport, book: Book) -> None:
        self._export, self._book = export, book
        self._block = self._log = -1
        self._nonces: dict[Address, int] = {}

    def next(self, transaction: ExportedTransaction, opened: OpenedTransaction) -> None:
        """Raises DoesNotFit for one that cannot follow those before it."""
        if transaction.block != self._block:
            require(transaction.block > self._block, "its block is not after the one before it")
            self._block, self._log = transaction.block, -1
        for log in transaction.logs:
            require(log.index > self._log, "its log entries are not in order")
            self._log = log.index
        due = self._nonces.get(opened.sender, 0)
        require(opened.nonce >= due, f"{opened.sender} used the number {opened.nonce} before")
        self._nonces[opened.sender] = opened.nonce + 1
        if opened.nonce > due and not self._is_creation(opened.sender, range(due, opened.nonce)):
            numbers = f"{due}" if opened.nonce == due + 1 else f"{due} to {opened.nonce - 1}"
            what = f"not kept: its transaction {numbers}, which failed, concerned others, or was left out"
            self._book.absent(FILE, what, device=opened.sender)

    def _is_creation(self, sender: Address, numbers: range) -> bool:
        """The round registry's own creation leaves no event, and is no gap."""
        return len(numbers) == 1 and _created(sender, numbers[0]) == self._export.round_registry


def _open(transaction: ExportedTransaction) -> OpenedTransaction:
    texts = (transaction.raw, *(text for log in transaction.logs for text in (*log.topics, log.data)))
    require(all(_HEX.fullmatch(text) for text in texts), "its bytes are not written in lower-case hex")
    opened = open_transaction(bytes.fromhex(transaction.raw))
    require(opened.hash == transaction.hash, f"its bytes hash to {opened.hash[:12]}")
    return opened


def _replay(export: ChainExport, transaction: ExportedTransaction, opened: OpenedTransaction, ledger: Ledger) -> None:
    """Raises DoesNotFit unless the transaction is allowed where it stands and left exactly the events it must."""
    require(opened.chain_id == export.chain_id, f"signed for chain {opened.chain_id}")
    alone = replace(export, transactions=(transaction,))
    said = [(event.name, dict(event.values)) for event in exported_events(alone)]
    require(len(said) == len(transaction.logs), "a log entry is no event of the contracts")
    if opened.to is None:
        target, due = export.device_registry, _creation(export, opened, ledger)
    else:
        (call,) = exported_calls(alone)
        target, due = opened.to, ledger.apply(call)
    require(all(log.address == target for log in transaction.logs), "a log entry is another contract's")
    require(said == due, f"says {_names(said)}, but what was signed makes {_names(due)} with other values")


def _creation(export: ChainExport, opened: OpenedTransaction, ledger: Ledger) -> list[Event]:
    created = _created(opened.sender, opened.nonce)
    require(created == export.device_registry, f"creates {created}, which is none of the two contracts")
    operator = "0x" + opened.data[-20:].hex()
    due = load(DEVICE_REGISTRY).deployment(operator)
    require(opened.data == due, "the device registry was created from other code than this version's")
    return ledger.found(operator, opened.sender)


def _created(sender: Address, nonce: int) -> Address:
    """The address of the contract that this transaction creates, if it creates one."""
    return "0x" + keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[-20:].hex()


def _names(events: Iterable[Event]) -> str:
    return ", ".join(name for name, _ in events) or "nothing"


def _check_blocks(export: ChainExport, book: Book) -> None:
    with book.checking("blocks", f"{FILE}: block 0"):
        genesis = export.blocks[0] if export.blocks else None
        require(
            genesis is not None and genesis.number == 0 and genesis.parent == NO_DIGEST, "there is no genesis block"
        )
    holding = {transaction.block for transaction in export.transactions}
    holding |= {block.number for block in export.blocks[-1:]}  # the chain's end is kept in any case
    for before, block in pairwise(export.blocks):
        with book.checking("blocks", f"{FILE}: block {block.number}"):
            require(block.number > before.number, "is not above the block before it")
            require(block.number in holding, "holds none of the kept transactions")
            require(block.timestamp_s >= before.timestamp_s, "is older than the block before it")
            if block.number == before.number + 1:
                require(block.parent == before.hash, "does not name the block before it as its parent")
