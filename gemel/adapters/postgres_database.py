"""sql.Database over PostgreSQL (asyncpg)."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from gemel.adapters.sql import Value, Write
from gemel.errors import StoreUnavailable
from gemel.migrations import Migration, due

READERS = 4
TIMEOUT_S = 30.0
CLOSE_S = 5.0
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresDatabase:
    """`async with PostgresDatabase(url, schema) as database`."""

    def __init__(self, url: str, schema: str, migrations: Sequence[Migration] = ()) -> None:
        self._url, self._migrations = url, migrations
        self._schema = schema.format(serial="BIGINT", clustered="")
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=READERS + 1,
                timeout=TIMEOUT_S,
                command_timeout=TIMEOUT_S,
                server_settings={"application_name": "gemel-twin-registry", "synchronous_commit": "on"},
            )
        except (OSError, ValueError, *_FAILURES) as error:
            raise StoreUnavailable(f"PostgreSQL: {error}") from error
        try:
            async with self._connection() as connection, connection.transaction():
                await _migrate(connection, self._migrations)
                await connection.execute(self._schema)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CLOSE_S)
            except TimeoutError:
                pool.terminate()

    async def fetch(self, statement: str, *values: Value) -> Sequence[Sequence[Any]]:
        """As sql.Database."""
        async with self._connection() as connection:
            rows: Sequence[Sequence[Any]] = await connection.fetch(_numbered(statement), *values)
            return rows

    async def write(self, writes: Sequence[Write]) -> None:
        """As sql.Database."""
        async with self._connection() as connection, connection.transaction():
            for statement, rows in writes:
                await connection.executemany(_numbered(statement), rows)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        if self._pool is None:
            raise StoreUnavailable("PostgreSQL: not open")
        try:
            async with self._pool.acquire(timeout=TIMEOUT_S) as connection:
                yield connection
        except (OSError, TimeoutError, *_FAILURES) as error:
            raise StoreUnavailable(f"PostgreSQL: {error or type(error).__name__}") from error


async def _migrate(connection: PoolConnectionProxy[asyncpg.Record], migrations: Sequence[Migration]) -> None:
    # With two openers at once the second waits here, and then finds everything done.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('gemel_schema'))")
    await connection.execute("CREATE TABLE IF NOT EXISTS gemel_schema (version INTEGER NOT NULL)")
    had: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM gemel_schema")
    found = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    )
    columns: dict[str, set[str]] = {}
    for table, column in found:
        columns.setdefault(table, set()).add(column)
    for migration in due(migrations, had, columns, "PostgreSQL"):
        for statement in migration.statements:
            await connection.execute(statement)
    if had != len(migrations):
        await connection.execute("INSERT INTO gemel_schema VALUES ($1)", len(migrations))


@functools.cache
def _numbered(statement: str) -> str:
    return re.sub(r"\?(\d+)", r"$\1", statement)
