"""A service's small durable state in one SQLite file.

WAL with synchronous=FULL: each change is on disk when its method returns. One connection, used by one thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from gemel.errors import StoreUnavailable

T = TypeVar("T")

_TABLE = "CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key)) \
WITHOUT ROWID"


class SqliteRecords:
    """ports.Records. Open it with `async with SqliteRecords(path)`; the folder must exist.

    Every method raises StoreUnavailable where the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        try:
            self._connection = await self._in_thread(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._in_thread(self._connection.close)
        self._thread.shutdown()

    async def put(self, kind: str, key: str, value: bytes) -> None:
        """Insert or replace."""
        await self._run("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", kind, key, value)

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        """Insert; False, and nothing changed, if there is one already."""
        _, changed = await self._run("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", kind, key, value)
        return changed == 1

    async def get(self, kind: str, key: str) -> bytes | None:
        """The value, or None."""
        rows, _ = await self._run("SELECT key, value FROM records WHERE kind = ? AND key = ?", kind, key)
        return rows[0][1] if rows else None

    async def items(self, kind: str) -> Sequence[tuple[str, bytes]]:
        """All of a kind, by key."""
        rows, _ = await self._run("SELECT key, value FROM records WHERE kind = ? ORDER BY key", kind)
        return rows

    async def drop(self, kind: str, key: str) -> None:
        """Remove; missing is fine."""
        await self._run("DELETE FROM records WHERE kind = ? AND key = ?", kind, key)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)  # autocommit
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_TABLE)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _run(self, statement: str, *values: str | bytes) -> tuple[list[tuple[str, bytes]], int]:
        connection = self._connection
        if connection is None:
            raise StoreUnavailable(f"{self._path}: not open")

        def execute() -> tuple[list[tuple[str, bytes]], int]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall(), cursor.rowcount

        return await self._in_thread(execute)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # Shielded: once begun, a change is finished and known, even if the caller is cancelled meanwhile.
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
