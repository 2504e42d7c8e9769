"""The kept chain: transactions from their bytes, run once more, the logs that they leave against the kept ones. Pure.

The auditor believes neither a node's logs nor its state: he runs the contracts' code himself, over every call that
somebody signed, in an EVM of his own. What this cannot show, and `NOT_COVERED` says so: a block's hash and time are
taken from the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, pairwise, repeat
from typing import Any

from msgspec.structs import replace

from gemel.adapters.chain_export import (
    Call,
    ChainExport,
    ExportedLog,
    ExportedTransaction,
    decode_export,
    encode_export,
    exported_calls,
    exported_events,
)
from gemel.adapters.contract_abi import TRUST, decode_error, load
from gemel.adapters.typed_transactions import OpenedTransaction, open_transaction
from gemel.console.auditor.book import Book, DoesNotFit, require
from gemel.console.auditor.ledger import Ledger, Replay
from gemel.console.auditor.machine import CodeReverted, EmittedLog, Machine
from gemel.ports import ChainEvent
from gemel.wire.types import NO_DIGEST, Address, Digest, Ppm

FILE = "chain-export.json"
NOT_COVERED = (
    "blocks: hash, time and gas are the node's word; parent links are checked where neighbours were kept",
    "that nothing was left out at the chain's end: compare the last block with a node",
)
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def replay_chain(stored: bytes, book: Book) -> Ledger:
    """Run every transaction of an export's bytes and return what the contracts then hold. Raises Malformed."""
    ledger, found = _replayed(stored)
    book.add(found)
    return ledger


@lru_cache(maxsize=1)  # several reports are made of one export
def _replayed(stored: bytes) -> tuple[Ledger, Book]:
    export, book = decode_export(stored), Book()
    if encode_export(export) != stored:
        book.fault(FILE, "the file is not in the form in which it was written")
    _check_blocks(export, book)
    replay = _Replaying(export, book)
    for transaction in export.transactions:
        with book.checking("transactions", f"{FILE}: transaction {transaction.hash[:12]}"):
            replay.next(transaction)
    replay.end_block()
    missing = sorted(export.contracts.keys() - replay.created)
    if missing:
        book.fault(FILE, f"the creation of {', '.join(missing)} is not there, or made something else")
    return Ledger(replay.taken), book


class _Replaying:
    """Runs transactions in the order in which the chain took them, and notes where some are not kept."""

    def __init__(self, export: ChainExport, book: Book) -> None:
        self._export, self._book = export, book
        self._names = {address: name for name, address in export.contracts.items()}
        self._times_s = {block.number: block.timestamp_s for block in export.blocks}
        self._block = self._log = -1
        self._nonces: dict[Address, int] = {}
        self.machine = Machine(export.chain_id)
        self.created: set[str] = set()
        self.events: list[ChainEvent] = []
        self._calls: list[Call] = []
        self._scores: dict[tuple[Digest, int], dict[Address, Ppm]] = {}  # by task and round, as it was opened
        self._opened: list[tuple[Digest, int]] = []  # in this block

    @property
    def taken(self) -> Replay:
        """All that the contracts took."""
        contracts, events, calls = self._export.contracts, tuple(self.events), tuple(self._calls)
        return Replay(self.machine, contracts, events, calls, self._scores, self._times_s)

    def next(self, transaction: ExportedTransaction) -> None:
        """Raises DoesNotFit unless the transaction is allowed where it stands and leaves exactly the kept logs."""
        opened = _open(transaction)
        require(opened.chain_id == self._export.chain_id, f"signed for chain {opened.chain_id}")
        self._place(transaction, opened)
        try:
            logs = self._run(opened)
        except CodeReverted as error:
            name, values = decode_error(error.data)
            raise DoesNotFit(f"the contracts refuse it: {name} {values}") from error
        said = self._events(transaction)
        due = self._events(replace(transaction, logs=_numbered(logs, transaction)))
        require(said == due, f"says {_names(said)}, but what was signed makes {_names(due)} with other values")
        self._calls += exported_calls(replace(self._export, transactions=(transaction,)))
        self.events += said
        self._opened += [_round_of(event) for event in said if event.name == "RoundOpened"]

    def end_block(self) -> None:
        """What has to be asked of the contracts as they stand at this block's end."""
        if not self._opened:
            return
        devices = [str(e.values["account"]) for e in self.events if e.name == "PartyRegistered"]
        entry = load(TRUST).functions["scoresOf"]
        answer = self.machine.call(self._export.contracts[TRUST], entry.encode(devices))
        scores = dict(zip(devices, entry.decode_result(answer), strict=True))
        self._scores |= dict.fromkeys(self._opened, scores)
        self._opened = []

    def _events(self, transaction: ExportedTransaction) -> list[ChainEvent]:
        events = list(exported_events(replace(self._export, transactions=(transaction,))))
        require(len(events) == len(transaction.logs), "a log entry is no event of the contracts")
        return events

    def _run(self, opened: OpenedTransaction) -> tuple[EmittedLog, ...]:
        if opened.to is not None:
            require(opened.to in self._names, f"calls {opened.to}, which is none of the contracts")
            require(self._names[opened.to] in self.created, f"calls {self._names[opened.to]} before it was created")
            return self.machine.send(opened.sender, opened.to, opened.data)
        created, logs = self.machine.create(opened.sender, opened.nonce, opened.data)
        name = self._names.get(created)
        if name is None:
            raise DoesNotFit(f"creates {created}, which is none of the contracts")
        require(opened.data.startswith(load(name).bytecode), f"creates {name} from other code than this version's")
        self.created.add(name)
        return logs

    def _place(self, transaction: ExportedTransaction, opened: OpenedTransaction) -> None:
        if transaction.block != self._block:
            require(transaction.block > self._block, "its block is not after the one before it")
            require(transaction.block in self._times_s, f"block {transaction.block} is missing")
            self.end_block()
            self.machine.enter_block(transaction.block, self._times_s[transaction.block])
            self._block, self._log = transaction.block, -1
        for log in transaction.logs:
            require(log.index > self._log, "its log entries are not in order")
            self._log = log.index
        due = self._nonces.get(opened.sender, 0)
        require(opened.nonce >= due, f"{opened.sender} used the number {opened.nonce} before")
        self._nonces[opened.sender] = opened.nonce + 1
        if opened.nonce > due:
            numbers = f"{due}" if opened.nonce == due + 1 else f"{due} to {opened.nonce - 1}"
            what = f"not kept: its transaction {numbers}, which failed, concerned others, or was left out"
            self._book.absent(FILE, what, device=opened.sender)


def _open(transaction: ExportedTransaction) -> OpenedTransaction:
    texts = (transaction.raw, *(text for log in transaction.logs for text in (*log.topics, log.data)))
    require(all(_HEX.fullmatch(text) for text in texts), "its bytes are not written in lower-case hex")
    opened = open_transaction(bytes.fromhex(transaction.raw))
    require(opened.hash == transaction.hash, f"its bytes hash to {opened.hash[:12]}")
    return opened


def _round_of(event: ChainEvent) -> tuple[Digest, int]:
    values: Any = event.values
    return values["task"], values["round"]


def _names(events: Iterable[ChainEvent]) -> str:
    return ", ".join(event.name for event in events) or "nothing"


def _numbered(logs: Iterable[EmittedLog], as_in: ExportedTransaction) -> tuple[ExportedLog, ...]:
    """As the export has them; where a log stands in its block is the block's order, which is checked by itself."""
    positions = chain((log.index for log in as_in.logs), repeat(0))
    return tuple(
        ExportedLog(log.address, position, tuple(topic.hex() for topic in log.topics), log.data.hex())
        for log, position in zip(logs, positions, strict=False)
    )


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
