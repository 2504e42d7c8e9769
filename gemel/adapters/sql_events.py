"""What happened to machines, as their agents told it, in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_keep import Keep
from gemel.adapters.sql_numbering import Numbering
from gemel.ports import TwinEvent
from gemel.wire.types import sha256

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, sequence BIGINT NOT NULL UNIQUE, site TEXT NOT NULL, asset TEXT NOT NULL,
    received_ms BIGINT NOT NULL, document TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (received_ms, sequence);
"""
_PUT = "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"
_LAST = """
SELECT (SELECT coalesce(max(sequence), 0) FROM events), (SELECT coalesce(max(received_ms), 0) FROM events)
"""
_SINCE = """
SELECT id, site, asset, received_ms, document, sequence FROM events
WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3
"""
_BETWEEN = """
SELECT id, site, asset, received_ms, document, sequence FROM events
WHERE received_ms >= ?1 AND received_ms < ?2
    AND site = coalesce(CAST(?3 AS TEXT), site) AND asset = coalesce(CAST(?4 AS TEXT), asset) AND sequence > ?5
    AND received_ms >= (SELECT e.received_ms FROM events e WHERE e.sequence > ?5 ORDER BY e.sequence LIMIT 1)
ORDER BY received_ms, sequence LIMIT ?6
"""  # the last condition lets a later page begin where it begins, and not at the first event
_MORE = """
DELETE FROM events WHERE received_ms < ?1 OR sequence <= (
    SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1 OFFSET ?2)
"""


class SqlEvents:
    """The events of SqlTwins."""

    def __init__(self, database: Database, commits: Commits, numbering: Numbering, keep: Keep) -> None:
        self._database, self._commits, self._numbering, self._keep = database, commits, numbering, keep
        self._last = self._last_ms = 0

    async def load(self) -> int:
        """Read what stands; the last sequence among it."""
        ((self._last, self._last_ms),) = await self._database.fetch(_LAST)
        return self._last

    async def put(self, site: str, asset: str, document: bytes, received_ms: int) -> bool:
        """As ports.TwinStore.put_event."""
        event_id = sha256(f"{site}/{asset}\n".encode() + document)
        if await self._database.fetch("SELECT 1 FROM events WHERE id = ?1", event_id):
            return False

        def plan(batch: Batch) -> None:
            self._last, self._last_ms = self._numbering.next(batch), max(received_ms, self._last_ms)
            text = document.decode()
            batch.add(_PUT, event_id, self._last, site, asset, self._last_ms, text)

        await self._commits.change(plan)
        return True

    async def between(
        self, *, site: str | None, asset: str | None, from_ms: int, to_ms: int, limit: int, after: int = 0
    ) -> Sequence[TwinEvent]:
        """As ports.TwinStore.events."""
        return _events(await self._database.fetch(_BETWEEN, from_ms, to_ms, site, asset, after, limit))

    async def since(self, sequence: int, until: int, limit: int) -> Sequence[TwinEvent]:
        """At most `limit` with sequences in (sequence, until], in their order."""
        if self._last <= sequence:
            return ()
        return _events(await self._database.fetch(_SINCE, sequence, until, limit))

    def drop_old(self, batch: Batch, now_ms: int) -> None:
        """What is kept no longer goes, and more than are kept."""
        batch.add(_MORE, now_ms - self._keep.events_ms, self._keep.events)


def _events(rows: Iterable[Sequence[Any]]) -> Sequence[TwinEvent]:
    return [
        TwinEvent(event_id, site, asset, received_ms, msgspec.Raw(document.encode()), sequence)
        for event_id, site, asset, received_ms, document, sequence in rows
    ]
