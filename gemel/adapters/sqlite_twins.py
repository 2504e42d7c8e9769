"""Twins and their revisions in one SQLite file.

A revision is on disk when `put` returns (see sqlite_file). Callers that wait together share a commit, because a
commit costs milliseconds and a row microseconds.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from gemel.adapters.sqlite_file import SqliteFile
from gemel.errors import PeerError, Refused, StoreUnavailable
from gemel.ports import AgentEntry, TwinEntry, TwinRevision
from gemel.twin.state import Twin, from_json, supersedes, to_json
from gemel.wire.reasons import Reason

MAX_BATCH = 500
TRIM_EVERY = 64  # revisions of a machine between two removals of its oldest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS twins (
    site TEXT, asset TEXT, version INTEGER NOT NULL, received_ms INTEGER NOT NULL, revisions INTEGER NOT NULL,
    document BLOB NOT NULL, PRIMARY KEY (site, asset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (
    site TEXT, asset TEXT, received_ms INTEGER, number INTEGER, document BLOB NOT NULL,
    PRIMARY KEY (site, asset, received_ms, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agents (
    site TEXT, name TEXT, availability TEXT, status BLOB, received_ms INTEGER NOT NULL,
    PRIMARY KEY (site, name)) WITHOUT ROWID;
"""
_TRIM = """
DELETE FROM revisions WHERE site = ?1 AND asset = ?2 AND (received_ms, number) <= (
    SELECT received_ms, number FROM revisions WHERE site = ?1 AND asset = ?2
    ORDER BY received_ms DESC, number DESC LIMIT 1 OFFSET ?3)
"""
_PUT_AGENT = """
INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
    availability = coalesce(?3, availability), status = coalesce(?4, status), received_ms = ?5
"""


class SqliteTwins:
    """ports.TwinStore. Open it with `async with SqliteTwins(path)`; the folder must exist."""

    def __init__(self, path: Path, *, max_revisions: int = 10_000, max_machines: int = 20_000) -> None:
        self._file = SqliteFile(path, _SCHEMA)
        self._max_revisions, self._max_machines = max_revisions, max_machines
        self._waiting: list[_Change] = []
        self._committing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._file.__aexit__(exc_type, exc, traceback)

    async def put(self, twin: Twin, received_ms: int) -> bool:
        """As ports.TwinStore."""
        document = to_json(twin)
        return bool(await self._change(lambda connection: self._put(connection, twin, document, received_ms)))

    async def twins(self) -> Sequence[TwinEntry]:
        """As ports.TwinStore."""
        rows = await self._read("SELECT site, asset, version, received_ms FROM twins ORDER BY site, asset")
        return [TwinEntry(*row) for row in rows]

    async def twin(self, site: str, asset: str) -> TwinRevision | None:
        """As ports.TwinStore."""
        rows = await self._read("SELECT received_ms, document FROM twins WHERE site = ? AND asset = ?", site, asset)
        return TwinRevision(rows[0][0], from_json(rows[0][1])) if rows else None

    async def history(self, site: str, asset: str, *, from_ms: int, to_ms: int, limit: int) -> Sequence[TwinRevision]:
        """As ports.TwinStore."""
        rows = await self._read(
            "SELECT received_ms, document FROM revisions WHERE site = ? AND asset = ? AND received_ms >= ?"
            " AND received_ms < ? ORDER BY received_ms, number LIMIT ?",
            site,
            asset,
            from_ms,
            to_ms,
            limit,
        )
        return [TwinRevision(received_ms, from_json(document)) for received_ms, document in rows]

    async def put_agent(
        self,
        site: str,
        name: str,
        *,
        availability: str | None = None,
        status: bytes | None = None,
        received_ms: int,
    ) -> None:
        """As ports.TwinStore."""

        def put(connection: sqlite3.Connection) -> None:
            known = connection.execute("SELECT 1 FROM agents WHERE site = ? AND name = ?", (site, name)).fetchone()
            if known is None:
                self._make_room(connection, "SELECT count(*) FROM agents")
            connection.execute(_PUT_AGENT, (site, name, availability, status, received_ms))

        await self._change(put)

    async def agents(self) -> Sequence[AgentEntry]:
        """As ports.TwinStore."""
        rows = await self._read(
            "SELECT site, name, availability, status, received_ms FROM agents ORDER BY site, name"
        )
        return [
            AgentEntry(site, name, availability, None if status is None else msgspec.Raw(status), received_ms)
            for site, name, availability, status, received_ms in rows
        ]

    # --- in the store's thread ------------------------------------------------------------------

    def _put(self, connection: sqlite3.Connection, twin: Twin, document: bytes, received_ms: int) -> bool:
        machine = (twin.site, twin.asset)
        row = connection.execute(
            "SELECT revisions, document FROM twins WHERE site = ? AND asset = ?", machine
        ).fetchone()
        if row is None:
            self._make_room(connection, "SELECT count(*) FROM twins")
        elif not supersedes(twin, from_json(row[1])):
            return False
        number = (row[0] if row else 0) + 1
        connection.execute(
            "INSERT OR REPLACE INTO twins VALUES (?, ?, ?, ?, ?, ?)",
            (*machine, twin.version, received_ms, number, document),
        )
        connection.execute("INSERT INTO revisions VALUES (?, ?, ?, ?, ?)", (*machine, received_ms, number, document))
        if number > self._max_revisions and number % min(TRIM_EVERY, self._max_revisions) == 0:
            connection.execute(_TRIM, (*machine, self._max_revisions))
        return True

    def _make_room(self, connection: sqlite3.Connection, count: str) -> None:
        (machines,) = connection.execute(count).fetchone()
        if machines >= self._max_machines:
            raise Refused(Reason.TOO_LARGE, f"{machines} are kept already")

    # --- in the event loop ----------------------------------------------------------------------

    async def _change(self, make: Callable[[sqlite3.Connection], object]) -> object:
        """Make a change and commit it, together with those of everybody who waits by now."""
        change = _Change(make)
        self._waiting.append(change)
        while not change.done:
            async with self._committing:
                if not change.done:
                    batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                    await asyncio.shield(self._commit(batch))  # the batch is not only its leader's
        if change.error is not None:
            raise change.error
        return change.result

    async def _commit(self, batch: Sequence[_Change]) -> None:
        try:
            await self._file.change(partial(_make_all, batch))
        except StoreUnavailable as error:
            for change in batch:
                change.error = error
        for change in batch:
            change.done = True

    async def _read(self, statement: str, *values: object) -> list[Any]:
        return await self._file.read(lambda connection: connection.execute(statement, values).fetchall())


def _make_all(batch: Sequence[_Change], connection: sqlite3.Connection) -> None:
    for change in batch:
        change.make(connection)


class _Change:
    """One caller's change: what it does in the transaction, and how it went."""

    def __init__(self, make: Callable[[sqlite3.Connection], object]) -> None:
        self._make = make
        self.done = False
        self.result: object = None
        self.error: PeerError | StoreUnavailable | None = None

    def make(self, connection: sqlite3.Connection) -> None:
        """Within the transaction. A refusal is this caller's alone; it comes before anything is written."""
        try:
            self.result = self._make(connection)
        except PeerError as refusal:
            self.error = refusal
