"""A service's small durable state in one SQLite file: each change is on disk when its method returns."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from gemel.adapters.sqlite_file import SqliteFile, SqliteStore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""


class SqliteRecords(SqliteStore):
    """ports.Records. Open it with `async with SqliteRecords(path)`; the folder must exist.

    Every method raises StoreUnavailable where the file cannot be opened, read or written.
    """

    def __init__(self, path: Path, *, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> None:
        """With NORMAL a power cut may take the last changes (gemel.sqlite): for what is written often."""
        super().__init__(SqliteFile(path, _SCHEMA, synchronous=synchronous))

    async def put(self, kind: str, key: str, value: bytes) -> None:
        """As ports.Records."""
        await self._change("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", kind, key, value)

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        """As ports.Records."""
        return await self._change("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", kind, key, value) == 1

    async def get(self, kind: str, key: str) -> bytes | None:
        """As ports.Records."""
        rows = await self._read("SELECT key, value FROM records WHERE kind = ? AND key = ?", kind, key)
        return rows[0][1] if rows else None

    async def items(self, kind: str) -> Sequence[tuple[str, bytes]]:
        """As ports.Records."""
        return await self._read("SELECT key, value FROM records WHERE kind = ? ORDER BY key", kind)

    async def drop(self, kind: str, key: str) -> None:
        """As ports.Records."""
        await self._change("DELETE FROM records WHERE kind = ? AND key = ?", kind, key)

    async def _change(self, statement: str, *values: str | bytes) -> int:
        """How many rows it changed."""
        return await self._file.change(lambda connection: connection.execute(statement, values).rowcount)

    async def _read(self, statement: str, *values: str) -> list[tuple[str, bytes]]:
        return await self._file.read(lambda connection: connection.execute(statement, values).fetchall())


def read_copy(path: Path, kind: str) -> Sequence[bytes]:
    """All of a kind, by key, from a file that was kept, which is left as it is. Raises sqlite3.Error.

    SQLite writes beside a file even to read it, and its newest changes may stand in the log beside it.
    """
    with TemporaryDirectory() as folder:
        for each in (path, path.with_name(path.name + "-wal")):
            if each.exists():
                shutil.copy(each, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            rows = connection.execute("SELECT value FROM records WHERE kind = ? ORDER BY key", (kind,)).fetchall()
    return [value for (value,) in rows]
