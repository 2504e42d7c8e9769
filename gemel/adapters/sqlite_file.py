"""One SQLite file, opened for durability and used by one thread of its own.

What is committed survives a power cut, unless NORMAL is asked for (gemel.sqlite). The event loop never waits for the
disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

from gemel.errors import StoreUnavailable
from gemel.migrations import Migration
from gemel.sqlite import connect, transaction

T = TypeVar("T")


class SqliteFile:
    """`async with SqliteFile(path, schema) as file`; the folder must exist, the schema may be applied again.

    Raises StoreUnavailable where the file cannot be opened, read or written, and ConfigError as gemel.sqlite.connect.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        *,
        migrations: Sequence[Migration] = (),
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
    ) -> None:
        """`migrations`, `synchronous`: as gemel.sqlite.connect."""
        self.path, self._schema, self._migrations = path, schema, migrations
        self._synchronous: Literal["FULL", "NORMAL"] = synchronous
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=path.stem)
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        try:
            self._connection = await self._in_thread(
                lambda: connect(self.path, self._schema, migrations=self._migrations, synchronous=self._synchronous)
            )
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._in_thread(connection.close)
        self._thread.shutdown()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, outside any transaction."""
        connection = self._opened()
        return await self._in_thread(lambda: work(connection))

    async def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, in a transaction that is committed then and rolled back when it raises."""
        connection = self._opened()
        return await self._in_thread(lambda: _in_transaction(connection, work))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self.path}: not open")
        return self._connection

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # Shielded: once begun, a change is finished and known, even if the caller is cancelled meanwhile.
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.path}: {error}") from error


class SqliteStore:
    """What a store over one SqliteFile begins with: `async with` opens and closes the file, and the store with it."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        try:
            await self._begin()
        except BaseException:
            await self._file.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._file.__aexit__(exc_type, exc, traceback)

    async def _begin(self) -> None:
        """What is read, or checked, before anything else; what it raises closes the file again."""


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    with transaction(connection):
        return work(connection)
