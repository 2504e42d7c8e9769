"""The windows whose outcome is known, on disk: what the agent trains from.

An example is committed before the message that completed it is acknowledged. The oldest go when the store is full.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gemel.adapters.sqlite_file import SqliteFile, SqliteStore
from gemel.errors import ConfigError
from gemel.learning.task import Task, Windows
from gemel.twin.window import Example

_SCHEMA = """
CREATE TABLE IF NOT EXISTS examples (
    start_ms INTEGER PRIMARY KEY, end_ms INTEGER NOT NULL, filled INTEGER NOT NULL,
    inputs BLOB NOT NULL, labels BLOB NOT NULL);
"""


class Examples(SqliteStore):
    """Labelled windows of one task. `async with Examples(path, task, capacity)`; the folder must exist.

    Raises StoreUnavailable as SqliteFile does, and ConfigError for a file with windows of another shape.
    """

    def __init__(self, path: Path, task: Task, capacity: int) -> None:
        super().__init__(SqliteFile(path, _SCHEMA))
        self._shape = (task.window_s, len(task.inputs))
        self._heads, self._capacity = len(task.heads), capacity

    async def add(self, examples: Sequence[Example]) -> int:
        """Store them durably; returns how many were new. One that begins at the same time stands already."""
        rows = [
            (
                example.window.start_ms,
                example.window.end_ms,
                example.window.filled,
                example.window.values.astype("<f4").tobytes(),
                np.array(example.labels, "<i8").tobytes(),
            )
            for example in examples
        ]

        def insert(connection: sqlite3.Connection) -> int:
            new = connection.executemany("INSERT OR IGNORE INTO examples VALUES (?, ?, ?, ?, ?)", rows).rowcount
            connection.execute(
                "DELETE FROM examples WHERE start_ms <="
                " (SELECT start_ms FROM examples ORDER BY start_ms DESC LIMIT 1 OFFSET ?)",
                (self._capacity,),
            )
            return new

        return await self._file.change(insert) if rows else 0

    async def until(self, data_until_ms: int) -> Windows:
        """The windows that ended by then, oldest first: inputs (n, window length, inputs), labels (n, heads)."""
        rows = await self._file.read(
            lambda connection: connection.execute(
                "SELECT inputs, labels FROM examples WHERE end_ms <= ? ORDER BY start_ms", (data_until_ms,)
            ).fetchall()
        )
        return self._windows(rows)

    async def newest(self, count: int) -> Windows:
        """The newest windows, at most so many, oldest first."""
        rows = await self._file.read(
            lambda connection: connection.execute(
                "SELECT inputs, labels FROM examples ORDER BY start_ms DESC LIMIT ?", (count,)
            ).fetchall()
        )
        return self._windows(rows[::-1])

    def _windows(self, rows: Sequence[tuple[bytes, bytes]]) -> Windows:
        inputs = np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(-1, *self._shape)
        labels = np.frombuffer(b"".join(row[1] for row in rows), "<i8").reshape(-1, self._heads)
        return Windows(inputs.astype(np.float32), labels.astype(np.int64))

    async def count(self, since_ms: int = 0) -> int:
        """How many windows there are that began then or later."""
        statement = "SELECT count(*) FROM examples WHERE start_ms >= ?"
        return await self._file.read(lambda c: int(c.execute(statement, (since_ms,)).fetchone()[0]))

    async def _begin(self) -> None:
        row = await self._file.read(
            lambda c: c.execute("SELECT length(inputs), length(labels) FROM examples LIMIT 1").fetchone()
        )
        length, inputs = self._shape
        if row is not None and tuple(row) != (length * inputs * 4, self._heads * 8):
            raise ConfigError(
                str(self._file.path), "task", "the one whose windows the store holds, or a new state_dir"
            )
