"""Contract events, never missed and never repeated, over restarts of either side and over reorganisations.

`eth_getLogs` from a stored checkpoint on is the only truth; the loop merely looks for a new head. One SQLite
transaction stores what was found and how far the search got; an event is marked delivered when the consumer comes
back for the next. Genesis, chain id and contracts are pinned: a chain that was replaced is an error, not a replay.

Reorganisations: the headers of the last WINDOW blocks are kept. Where they are no longer the chain's, the search goes
back to the last block in common. Events of lost blocks that nobody has seen are forgotten; those delivered are handed
out once more as `retracted` and struck from the book, so that a chain that goes A → B → A delivers A's event again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.adapters.contract_abi import Values
from gemel.adapters.evm_node import EvmNode, Header, Log, NodeRefused
from gemel.errors import ChainUnavailable, ConfigError, StoreUnavailable
from gemel.ports import ChainEvent
from gemel.sqlite import connect, transaction
from gemel.wire.types import Address

WINDOW = 64  # blocks that a reorganisation may replace
RANGE = 500  # blocks in one eth_getLogs
_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS headers(number INTEGER PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events(
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, block INTEGER NOT NULL,
    retracted INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0, event BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS once ON events(id) WHERE NOT retracted;
CREATE INDEX IF NOT EXISTS waiting ON events(position) WHERE NOT delivered;
"""


class Checkpoint:
    """How far one consumer has got, and what waits for it: a SQLite file of its own."""

    def __init__(self, path: Path) -> None:
        """Raises StoreUnavailable if the file cannot be used."""
        try:
            # NORMAL: a power cut may take the last marks, and then their events come again
            self._db = connect(path, _SCHEMA, synchronous="NORMAL")
        except sqlite3.Error as error:
            raise StoreUnavailable(f"checkpoint {path}: {error}") from error
        self._path = path

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def pin(self, identity: str) -> None:
        """The first time, note which chain and contracts this follows; later raise ConfigError for any other."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?)", (identity,))
        (pinned,) = self._db.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        if pinned != identity:
            raise ConfigError(
                str(self._path), "chain", f"the chain it has followed so far ({pinned}), not {identity}"
            )

    def next_block(self, first: int) -> int:
        """The first block that was not searched yet."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'next'").fetchone()
        return first if row is None else int(row[0])

    def headers(self) -> list[tuple[int, str]]:
        """Number and hash of the kept headers, the highest first."""
        return self._db.execute("SELECT number, hash FROM headers ORDER BY number DESC").fetchall()

    def advance(self, next_block: int, headers: Sequence[Header], events: Sequence[ChainEvent]) -> None:
        """Note what was found up to `next_block`."""
        with transaction(self._db):
            self._set_next(next_block)
            self._db.executemany(
                "INSERT INTO events(id, block, retracted, event) VALUES (?, ?, 0, ?)",
                [(each.id, each.block, msgspec.json.encode(each)) for each in events],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO headers VALUES (?, ?)", [(each.number, each.hash) for each in headers]
            )
            oldest = next_block - WINDOW
            self._db.execute("DELETE FROM headers WHERE number < ?", (oldest,))
            self._db.execute("DELETE FROM events WHERE block < ? AND delivered", (oldest,))

    def rewind(self, ancestor: int) -> None:
        """Blocks above `ancestor` are no more: forget what nobody saw of them, retract what was delivered."""
        with transaction(self._db):
            lost = self._db.execute(
                "SELECT event FROM events WHERE block > ? AND delivered AND NOT retracted ORDER BY position DESC",
                (ancestor,),
            ).fetchall()
            self._db.execute("DELETE FROM events WHERE block > ? AND NOT retracted", (ancestor,))
            for (raw,) in lost:
                event = msgspec.structs.replace(msgspec.json.decode(raw, type=ChainEvent), retracted=True)
                self._db.execute(
                    "INSERT INTO events(id, block, retracted, event) VALUES (?, ?, 1, ?)",
                    (event.id, event.block, msgspec.json.encode(event)),
                )
            self._db.execute("DELETE FROM headers WHERE number > ?", (ancestor,))
            self._set_next(ancestor + 1)

    def waiting(self) -> tuple[int, ChainEvent] | None:
        """The next event to deliver, with its position."""
        row = self._db.execute(
            "SELECT position, event FROM events WHERE NOT delivered ORDER BY position LIMIT 1"
        ).fetchone()
        return None if row is None else (row[0], msgspec.json.decode(row[1], type=ChainEvent))

    def delivered(self, position: int) -> None:
        """The consumer is done with this one."""
        self._db.execute("UPDATE events SET delivered = 1 WHERE position = ?", (position,))

    def _set_next(self, number: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('next', ?)", (str(number),))


@dataclass(slots=True)
class Follower:
    """Follows the contracts at `addresses` through one node, for one consumer."""

    node: EvmNode
    addresses: Sequence[Address]
    first_block: int = 0  # nothing of ours is below it
    confirmations: int = 0  # blocks that must lie above an event's
    poll_s: float = 0.25
    decode: Callable[[Log], tuple[str, Values] | None] = lambda _log: None
    _head: int = -1  # the highest block when we looked last
    _finished: int = -1  # the last block whose events the consumer has finished

    @property
    def lag_blocks(self) -> int:
        """Blocks between the head and what is finished, as of the last look; 0 before the first."""
        return max(0, self._head - self._finished)

    async def events(self, path: Path) -> AsyncIterator[ChainEvent]:
        """Endless. While no node answers it waits, and says so once in the log.

        Raises ConfigError if the chain is not the one that `path` has followed, or was reorganised deeper than
        WINDOW blocks.
        """
        with closing(Checkpoint(path)) as checkpoint:
            pinned = away = False
            while True:
                while (entry := checkpoint.waiting()) is not None:
                    position, event = entry
                    self._finished = event.block - 1
                    yield event
                    checkpoint.delivered(position)
                self._finished = checkpoint.next_block(self.first_block) - 1
                try:
                    if not pinned:
                        checkpoint.pin(await self._identity())
                        pinned = True
                    progress = await self._search(checkpoint)
                    away = False
                except ChainUnavailable as error:
                    if not away:
                        _log.warning("events wait: %s", error)
                    progress, away = False, True
                if not progress:
                    await asyncio.sleep(self.poll_s)

    async def _identity(self) -> str:
        genesis = await self.node.header(0)
        if genesis is None:
            raise ChainUnavailable(f"the node at {self.node.rpc_url} has no genesis block yet")
        return f"{await self.node.chain_id()}:{genesis.hash}:{','.join(self.addresses)}"

    async def _search(self, checkpoint: Checkpoint) -> bool:
        """Search the next stretch of blocks; False if there is none, or it changed under our hands."""
        head = await self.node.head()
        self._head = head.number
        if not await self._still_canonical(checkpoint, head):
            return True
        first = checkpoint.next_block(self.first_block)
        last = min(head.number - self.confirmations, first + RANGE - 1)
        if last < first:
            return False
        headers = await self._headers(max(first, min(last, head.number - WINDOW)), last, head)
        logs = await self._logs(first, last)
        again = await self.node.header(last)
        if headers is None or again is None or again.hash != headers[-1].hash:
            return False  # reorganised meanwhile; the next look sorts it out
        hashes = {each.number: each.hash for each in headers}
        if any(hashes.get(log.block, log.block_hash) != log.block_hash for log in logs):
            return False
        checkpoint.advance(last + 1, headers, [event for log in logs if (event := self._event(log)) is not None])
        self._finished = last
        return True

    async def _still_canonical(self, checkpoint: Checkpoint, head: Header) -> bool:
        """Whether what was searched is still on the chain; if not, rewinds to the last block in common."""
        kept = checkpoint.headers()
        for number, block_hash in kept:
            current = head if number == head.number else await self.node.header(number)
            if current is not None and current.hash == block_hash:
                if number == kept[0][0]:
                    return True
                _log.warning("the chain was reorganised above block %d", number)
                checkpoint.rewind(number)
                return False
        if not kept:
            return True
        checkpoint.pin(await self._identity())  # nothing in common: it may be another chain altogether
        if kept[-1][0] > self.first_block:
            raise ConfigError("chain", "reorganisation", f"at most {WINDOW} blocks deep; this one goes deeper")
        checkpoint.rewind(self.first_block - 1)
        return False

    async def _headers(self, first: int, last: int, head: Header) -> list[Header] | None:
        """Headers `first` to `last`; None if they are no chain, because it was reorganised while we read."""
        headers: list[Header] = []
        for number in range(first, last + 1):
            header = head if number == head.number else await self.node.header(number)
            if header is None or (headers and header.parent != headers[-1].hash):
                return None
            headers.append(header)
        return headers

    async def _logs(self, first: int, last: int) -> list[Log]:
        """All logs, in halves where the node finds a range too wide."""
        try:
            return await self.node.logs(self.addresses, first, last)
        except NodeRefused:
            if first == last:
                raise
        middle = (first + last) // 2
        return [*await self._logs(first, middle), *await self._logs(middle + 1, last)]

    def _event(self, log: Log) -> ChainEvent | None:
        decoded = self.decode(log)
        if decoded is None:
            return None
        name, values = decoded
        return ChainEvent(f"{log.block_hash}-{log.index}", name, values, log.block, log.block_hash, log.transaction)
