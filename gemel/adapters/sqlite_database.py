"""sql.Database over one SQLite file: WAL with synchronous FULL, one thread that writes and one that reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gemel.adapters.sql import Value, Write
from gemel.adapters.sqlite_file import SqliteFile
from gemel.migrations import Migration


class SqliteDatabase:
    """`async with SqliteDatabase(path, schema) as database`; the folder must exist."""

    def __init__(self, path: Path, schema: str, migrations: Sequence[Migration] = ()) -> None:
        schema = schema.format(serial="INTEGER", clustered="WITHOUT ROWID")
        self._writer, self._reader = SqliteFile(path, schema, migrations=migrations), SqliteFile(path, "")

    async def __aenter__(self) -> Self:
        await self._writer.__aenter__()
        try:
            await self._reader.__aenter__()
        except BaseException:
            await self._writer.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._reader.__aexit__(exc_type, exc, traceback)
        await self._writer.__aexit__(exc_type, exc, traceback)

    async def fetch(self, statement: str, *values: Value) -> Sequence[Sequence[Any]]:
        """As sql.Database."""
        return await self._reader.read(lambda connection: connection.execute(statement, values).fetchall())

    async def write(self, writes: Sequence[Write]) -> None:
        """As sql.Database."""

        def write(connection: sqlite3.Connection) -> None:
            for statement, rows in writes:
                connection.executemany(statement, rows)

        await self._writer.change(write)
