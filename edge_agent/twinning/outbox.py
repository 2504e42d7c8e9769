"""Revisions of twins that could not be published, on disk until a registry has them: bounded, coarser with age.

When the outbox is full, every second revision of its older half goes. So the past loses detail before it is lost, and
what stays still spans the whole outage. How many went is counted, and told with what is sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gemel.adapters.sqlite_file import SqliteFile, SqliteStore
from gemel.migrations import Migration
from gemel.twin.alerts import AlertEvent
from gemel.twin.backfill import Kept
from gemel.twin.state import Twin, from_json, to_json

_SCHEMA = """
CREATE TABLE IF NOT EXISTS revisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, asset TEXT NOT NULL, at_ms INTEGER NOT NULL, document BLOB NOT NULL,
    events BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_asset ON revisions (asset, number);
CREATE TABLE IF NOT EXISTS dropped (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL);
INSERT OR IGNORE INTO dropped VALUES (1, 0);
"""
_NO_EVENTS = b"[]".hex()
_MIGRATIONS = (
    Migration(
        "revisions", "events", (f"ALTER TABLE revisions ADD COLUMN events BLOB NOT NULL DEFAULT x'{_NO_EVENTS}'",)
    ),
)
_COARSEN = """
DELETE FROM revisions WHERE number IN (
    SELECT number FROM (
        SELECT number, row_number() OVER (ORDER BY asset, number) AS place FROM revisions
        WHERE number <= (SELECT number FROM revisions ORDER BY number LIMIT 1 OFFSET ?))
    WHERE place % 2 = 0)
"""


class Batch(NamedTuple):
    """Some revisions of one twin, oldest first, and their numbers here."""

    asset: str
    numbers: tuple[int, ...]
    revisions: tuple[Kept, ...]


class Outbox(SqliteStore):
    """`async with Outbox(path, capacity) as outbox`; the folder must exist. Raises StoreUnavailable as SqliteFile."""

    def __init__(self, path: Path, capacity: int) -> None:
        super().__init__(SqliteFile(path, _SCHEMA, migrations=_MIGRATIONS))
        self._capacity = capacity
        self.depth = 0  # revisions that wait
        self.dropped = 0  # revisions that there was no room for, ever
        self.attended_s = float("inf")  # monotonic time at which its sender last looked; never, until one begins

    async def _begin(self) -> None:
        self.depth, self.dropped = await self._file.read(_counts)

    async def keep(self, revisions: Sequence[Kept]) -> None:
        """Store revisions durably, in one commit; the same again changes nothing."""
        rows = [(one.twin.asset, one.at_ms, to_json(one.twin), msgspec.json.encode(one.events)) for one in revisions]

        def insert(connection: sqlite3.Connection) -> tuple[int, int]:
            depth, dropped = self.depth, self.dropped
            for asset, at_ms, document, events in rows:
                if _newest(connection, asset) == document:
                    continue
                connection.execute(
                    "INSERT INTO revisions (asset, at_ms, document, events) VALUES (?, ?, ?, ?)",
                    (asset, at_ms, document, events),
                )
                depth += 1
                if depth > self._capacity:
                    self._make_room(connection)
                    depth, dropped = _counts(connection)
            return depth, dropped

        self.depth, self.dropped = await self._file.change(insert)

    async def oldest(self, most: int, most_bytes: int, but_of: Collection[str] = ()) -> Batch | None:
        """The oldest revisions of one twin, but of none of these assets.

        At most so many, and so many bytes unless one alone is larger.
        """
        others = f"WHERE asset NOT IN ({', '.join('?' * len(but_of))})"

        def select(connection: sqlite3.Connection) -> list[tuple[str, int, int, bytes, bytes]]:
            return connection.execute(
                "SELECT asset, number, at_ms, document, events FROM revisions WHERE asset ="  # noqa: S608  question marks alone
                f" (SELECT asset FROM revisions {others} ORDER BY number LIMIT 1) ORDER BY number LIMIT ?",
                (*but_of, most),
            ).fetchall()

        rows = await self._file.read(select)
        fitting: list[tuple[str, int, int, bytes, bytes]] = []
        size = 0
        for row in rows:
            size += len(row[3]) + len(row[4])
            if fitting and size > most_bytes:
                break
            fitting.append(row)
        if not fitting:
            return None
        numbers = tuple(number for _, number, *_ in fitting)
        revisions = (
            Kept(at_ms, from_json(document), msgspec.json.decode(events, type=tuple[AlertEvent, ...]))
            for _, _, at_ms, document, events in fitting
        )
        return Batch(fitting[0][0], numbers, tuple(revisions))

    async def newest(self, asset: str) -> Twin | None:
        """The latest revision of a twin that waits here."""
        document = await self._file.read(lambda connection: _newest(connection, asset))
        return None if document is None else from_json(document)

    async def forget(self, numbers: Sequence[int]) -> None:
        """They are in the history."""

        def delete(connection: sqlite3.Connection) -> tuple[int, int]:
            connection.executemany("DELETE FROM revisions WHERE number = ?", [(number,) for number in numbers])
            return _counts(connection)

        self.depth, self.dropped = await self._file.change(delete)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        gone = connection.execute(_COARSEN, (self._capacity // 2,)).rowcount
        connection.execute("UPDATE dropped SET count = count + ?", (gone,))


def _newest(connection: sqlite3.Connection, asset: str) -> bytes | None:
    row = connection.execute(
        "SELECT document FROM revisions WHERE asset = ? ORDER BY number DESC LIMIT 1", (asset,)
    ).fetchone()
    return None if row is None else row[0]


def _counts(connection: sqlite3.Connection) -> tuple[int, int]:
    depth, dropped = connection.execute("SELECT (SELECT count(*) FROM revisions), count FROM dropped").fetchone()
    return depth, dropped
