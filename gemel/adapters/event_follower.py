"""Contract events, never missed and never repeated, over restarts of either side and over reorganisations.

`eth_getLogs` from a stored checkpoint on is the only truth; new heads over WebSocket merely wake the loop up. One
SQLite transaction stores what was found and how far the search got; an event is marked delivered when the consumer
comes back for the next. Genesis, chain id and contracts are pinned: a chain that was replaced is an error at the
start, and later something to wait out, but never a replay.

Reorganisations: the headers of the last WINDOW blocks are kept. A block is taken only if its parent is the one
before, and blocks that may still be replaced are asked for their logs by hash, so that no answer can belong to
another branch. Where the headers are no longer the chain's, the search goes back to the last block in common. A chain
that only became shorter is a node that lags, and is waited for.

What a consumer gets, and what it must do:
- An event's `id` is its block's hash and its place in it: `HASH-INDEX`. One whose effect was not finished when the
  process was killed comes again with the same id. Whoever drops ids that it knows has each event once.
- An event of a block that is lost comes once more as `retracted`, with the id of what it takes back. It may take back
  what was begun and not finished before a kill: undoing what was never done must do nothing. Events that nobody saw
  before their block was lost never come.
- A block that was lost may be the chain's again (A to B to A). Its events are new deliveries then, and so have ids of
  their own: `HASH-INDEX.2`, after the next loss `.3`. An id that was retracted never comes back.

Logs that cannot be ours (another address, another block, bytes that no contract of ours emits) are never skipped: the
search stands still at that block, says once which log of which transaction it is, and asks again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gemel.adapters.contract_abi import Values
from gemel.adapters.evm_node import EvmNode, ForeignChain, Header, Log, NodeNonsense, NodeRefused
from gemel.adapters.head_alarm import HeadAlarm, websocket_url
from gemel.errors import ChainUnavailable, ConfigError, Malformed, StoreUnavailable
from gemel.ports import ChainEvent
from gemel.sqlite import connect, transaction
from gemel.wire.types import Address

WINDOW = 64  # blocks that a reorganisation may replace
RANGE = 500  # blocks in one eth_getLogs
_log = logging.getLogger(__name__)

Decode = Callable[[Log], tuple[str, Values] | None]
"""Name and values of an event; None for one that nobody wants. Raises Malformed."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS headers(number INTEGER PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events(
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, block INTEGER NOT NULL,
    retracted INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0, event BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS once ON events(id) WHERE NOT retracted;
CREATE INDEX IF NOT EXISTS waiting ON events(position) WHERE NOT delivered;
"""


class NodeBehind(ChainUnavailable):
    """The node does not have blocks that it, or another behind the same endpoint, has shown us before."""


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
        self.agreed = False  # whether this process has seen the pinned chain

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def pin(self, identity: str) -> None:
        """The very first time, note which chain and contracts this follows; afterwards they must be these.

        Raises ConfigError for others, and ForeignChain once they were these in this process: then the operator's
        settings are right, and the endpoint is not.
        """
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?)", (identity,))
        (pinned,) = self._db.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        if pinned == identity:
            self.agreed = True
        elif self.agreed:
            raise ForeignChain(f"the node is on another chain now: {identity}, followed so far: {pinned}")
        else:
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
            for each in events:
                event = msgspec.structs.replace(each, id=self._new_id(each.id))
                self._put(event)
            self._db.executemany(
                "INSERT OR REPLACE INTO headers VALUES (?, ?)", [(each.number, each.hash) for each in headers]
            )
            oldest = next_block - WINDOW
            self._db.execute("DELETE FROM headers WHERE number < ?", (oldest,))
            self._db.execute("DELETE FROM events WHERE block < ? AND delivered", (oldest,))

    def rewind(self, ancestor: int) -> None:
        """Blocks above `ancestor` are no more: forget what nobody saw of them, retract what was handed out."""
        with transaction(self._db):
            lost = self._db.execute(
                "SELECT event FROM events WHERE block > ? AND NOT retracted AND (delivered OR position = ?)"
                " ORDER BY position DESC",
                (ancestor, self._begun()),
            ).fetchall()
            self._db.execute("DELETE FROM events WHERE block > ? AND NOT retracted", (ancestor,))
            for (raw,) in lost:
                self._put(msgspec.structs.replace(msgspec.json.decode(raw, type=ChainEvent), retracted=True))
            self._db.execute("DELETE FROM headers WHERE number > ?", (ancestor,))
            self._set_next(ancestor + 1)

    def waiting(self) -> tuple[int, ChainEvent] | None:
        """The next event to deliver, with its position."""
        row = self._db.execute(
            "SELECT position, event FROM events WHERE NOT delivered ORDER BY position LIMIT 1"
        ).fetchone()
        return None if row is None else (row[0], msgspec.json.decode(row[1], type=ChainEvent))

    def begin(self, position: int) -> None:
        """It is about to be handed out: from here on the consumer may have acted on it."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('begun', ?)", (str(position),))

    def delivered(self, position: int) -> None:
        """The consumer is done with this one."""
        self._db.execute("UPDATE events SET delivered = 1 WHERE position = ?", (position,))

    def _begun(self) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'begun'").fetchone()
        return 0 if row is None else int(row[0])

    def _new_id(self, place: str) -> str:
        """The id of the next delivery of the log at `place`; its retractions are as old as a block can come back."""
        (lives,) = self._db.execute(
            "SELECT count(*) FROM events WHERE retracted AND (id = ? OR id GLOB ?)", (place, f"{place}.*")
        ).fetchone()
        return place if lives == 0 else f"{place}.{lives + 1}"

    def _put(self, event: ChainEvent) -> None:
        self._db.execute(
            "INSERT INTO events(id, block, retracted, event) VALUES (?, ?, ?, ?)",
            (event.id, event.block, event.retracted, msgspec.json.encode(event)),
        )

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
    decode: Decode = field(kw_only=True)
    ws_url: str | None = field(default=None, kw_only=True)  # None: the node's own, as anvil has it; "": only poll
    _head: int = -1  # the highest block when we looked last
    _finished: int = -1  # the last block whose events the consumer has finished

    @property
    def lag_blocks(self) -> int:
        """Blocks between the head and what is finished, as of the last look; 0 before the first."""
        return max(0, self._head - self._finished)

    async def events(self, path: Path) -> AsyncIterator[ChainEvent]:
        """Endless. While no node answers sensibly it waits, and says so once in the log.

        Raises ConfigError if the chain is not the one that `path` has followed, or was reorganised deeper than
        WINDOW blocks, and StoreUnavailable.
        """
        ws_url = websocket_url(self.node.rpc_url) if self.ws_url is None else self.ws_url
        with closing(Checkpoint(path)) as checkpoint:
            async with HeadAlarm(ws_url) as alarm:
                compared = False  # what waits since the last process may be of a block that was lost meanwhile
                trouble: type[ChainUnavailable] | None = None
                while True:
                    try:
                        progress = await self._look(checkpoint)
                        compared = True
                        if trouble is not None:
                            _log.info("events go on")
                        trouble = None
                    except ChainUnavailable as error:
                        if type(error) is not trouble:
                            _log.warning("events wait: %s", error)
                        progress, trouble = False, type(error)
                    while compared and (entry := checkpoint.waiting()) is not None:
                        position, event = entry
                        self._finished = event.block - 1
                        checkpoint.begin(position)
                        yield event
                        checkpoint.delivered(position)
                    self._finished = checkpoint.next_block(self.first_block) - 1
                    if not progress:
                        await alarm.wait(self.poll_s)

    async def _look(self, checkpoint: Checkpoint) -> bool:
        """Compare what was searched with the chain, and search the next stretch; False if there was nothing to do."""
        head = await self.node.head()
        self._head = head.number
        kept = checkpoint.headers()
        if checkpoint.agreed and kept and kept[0] == (head.number, head.hash):
            return False
        checkpoint.pin(await self._identity())
        if await self._rewound(checkpoint, kept, head):
            return True
        first = checkpoint.next_block(self.first_block)
        confirmed = head.number - self.confirmations
        if confirmed < first:
            return False
        final = head.number - WINDOW
        if first <= final:
            return await self._search_final(checkpoint, first, min(confirmed, final, first + RANGE - 1))
        return await self._search_young(checkpoint, first, confirmed, head)

    async def _identity(self) -> str:
        genesis = await self.node.header(0)
        if genesis is None:
            raise ChainUnavailable(f"the node at {self.node.rpc_url} has no genesis block yet")
        return f"{await self.node.chain_id()}:{genesis.hash}:{','.join(self.addresses)}"

    async def _rewound(self, checkpoint: Checkpoint, kept: Sequence[tuple[int, str]], head: Header) -> bool:
        """Whether what was searched is the chain's no more; if so, goes back to the last block in common."""
        comparable = [each for each in kept if each[0] <= head.number]
        if kept and not comparable:
            raise self._behind(head.number, kept[0][0])
        for number, block_hash in comparable:
            current = head if number == head.number else await self.node.header(number)
            if current is None:
                raise self._behind(number - 1, kept[0][0])
            if current.hash != block_hash:
                continue
            if number == kept[0][0]:
                return False
            if number == head.number:
                raise self._behind(number, kept[0][0])
            _log.warning("the chain was reorganised above block %d", number)
            checkpoint.rewind(number)
            return True
        if not kept:
            return False
        if kept[-1][0] > self.first_block:
            raise ConfigError("chain", "reorganisation", f"at most {WINDOW} blocks deep; this one goes deeper")
        checkpoint.rewind(self.first_block - 1)
        return True

    def _behind(self, head: int, searched: int) -> NodeBehind:
        return NodeBehind(f"the node at {self.node.rpc_url} is behind: at block {head}, followed so far: {searched}")

    async def _search_final(self, checkpoint: Checkpoint, first: int, last: int) -> bool:
        """Blocks that nothing replaces any more: many at a time."""
        logs = await self._logs(first, last)
        header = await self.node.header(last)
        if header is None:
            raise self._behind(last - 1, last)
        checkpoint.advance(last + 1, [header], self._events(logs))
        return True

    async def _search_young(self, checkpoint: Checkpoint, first: int, last: int, head: Header) -> bool:
        """Blocks that may still be replaced: each by its hash, and only if they continue what was searched."""
        parent = next((block_hash for number, block_hash in checkpoint.headers() if number == first - 1), None)
        headers: list[Header] = []
        logs: list[Log] = []
        for number in range(first, last + 1):
            header = head if number == head.number else await self.node.header(number)
            if header is None or parent not in (None, header.parent):
                return False  # reorganised while we read; the next look sorts it out
            headers.append(header)
            logs += await self.node.logs_of_block(self.addresses, header)
            parent = header.hash
        checkpoint.advance(last + 1, headers, self._events(logs))
        return True

    async def _logs(self, first: int, last: int) -> list[Log]:
        """All logs, in halves where the node finds a range too wide."""
        try:
            return await self.node.logs(self.addresses, first, last)
        except NodeRefused:
            if first == last:
                raise
        middle = (first + last) // 2
        return [*await self._logs(first, middle), *await self._logs(middle + 1, last)]

    def _events(self, logs: Sequence[Log]) -> list[ChainEvent]:
        return [event for log in logs if (event := self._event(log)) is not None]

    def _event(self, log: Log) -> ChainEvent | None:
        try:
            decoded = self.decode(log)
        except Malformed as error:
            raise NodeNonsense(
                f"the node at {self.node.rpc_url} answers nonsense: "
                f"log {log.index} of transaction {log.transaction} in block {log.block}: {error}"
            ) from error
        if decoded is None:
            return None
        name, values = decoded
        return ChainEvent(f"{log.block_hash}-{log.index}", name, values, log.block, log.block_hash, log.transaction)
