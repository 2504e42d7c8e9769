"""ports.AccessStore in SQL, for every sql.Database."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.adapters.sql import Batch, Commits, Database
from gemel.ports import Access, AccessRoot

SCHEMA = """
CREATE TABLE IF NOT EXISTS accesses (
    sequence {serial} PRIMARY KEY, time_ms BIGINT NOT NULL, reader TEXT NOT NULL, what TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS access_roots (
    first_sequence {serial} PRIMARY KEY, last_sequence BIGINT NOT NULL, sealed_ms BIGINT NOT NULL,
    root TEXT NOT NULL);
"""
_STATE = """
SELECT (SELECT coalesce(max(sequence), 0) FROM accesses), (SELECT coalesce(max(last_sequence), 0) FROM access_roots)
"""
_DROP = "DELETE FROM accesses WHERE sequence <= (SELECT max(last_sequence) FROM access_roots WHERE sealed_ms < ?1)"


class SqlAccesses:
    """ports.AccessStore over an open database that holds SCHEMA. Call `load` once before anything else."""

    def __init__(self, database: Database, commits: Commits) -> None:
        self._database, self._commits = database, commits
        self._committed = self._planned = self._sealed = 0

    async def load(self) -> None:
        """Read where the log ends."""
        ((last, sealed),) = await self._database.fetch(_STATE)
        self._sealed = sealed
        self._committed = self._planned = max(last, sealed)  # entries under a root may have been dropped

    async def log_access(self, time_ms: int, reader: str, what: str) -> Access:
        """As ports.AccessStore."""

        def plan(batch: Batch) -> Access:
            if self._planned == self._committed:
                batch.when_ended(self._end)
            self._planned += 1
            batch.add("INSERT INTO accesses VALUES (?1, ?2, ?3, ?4)", self._planned, time_ms, reader, what)
            return Access(self._planned, time_ms, reader, what)

        return await self._commits.change(plan)

    def _end(self, committed: bool) -> None:  # noqa: FBT001  it is the answer to one question
        if committed:
            self._committed = self._planned
        else:
            self._planned = self._committed

    async def accesses(self, *, after: int, limit: int) -> Sequence[Access]:
        """As ports.AccessStore."""
        rows = await self._database.fetch(
            "SELECT sequence, time_ms, reader, what FROM accesses WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            after,
            limit,
        )
        return [Access(*row) for row in rows]

    async def put_access_root(self, root: AccessRoot) -> None:
        """As ports.AccessStore. Raises ValueError for a gap or an overlap."""

        def plan(batch: Batch) -> None:
            if root.first != self._sealed + 1 or not root.first <= root.last <= self._committed:
                raise ValueError(f"the next root begins at {self._sealed + 1} and ends by {self._committed}")
            batch.add(
                "INSERT INTO access_roots VALUES (?1, ?2, ?3, ?4)", root.first, root.last, root.sealed_ms, root.root
            )

        await self._commits.change(plan)
        self._sealed = root.last

    async def access_roots(self, *, after: int, limit: int) -> Sequence[AccessRoot]:
        """As ports.AccessStore."""
        rows = await self._database.fetch(
            "SELECT first_sequence, last_sequence, sealed_ms, root FROM access_roots WHERE first_sequence > ?1"
            " ORDER BY first_sequence LIMIT ?2",
            after,
            limit,
        )
        return [AccessRoot(*row) for row in rows]

    async def access_state(self) -> tuple[int, int]:
        """As ports.AccessStore."""
        return self._committed, self._sealed

    async def drop_accesses(self, before_ms: int) -> None:
        """As ports.AccessStore."""
        await self._commits.change(lambda batch: batch.add(_DROP, before_ms))
