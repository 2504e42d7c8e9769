"""The stores of a twin registry, by URL: one SQLite file, or one PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemel.adapters import sql_accesses, sql_assets, sql_twins
from gemel.adapters.sql import Commit, Commits, Database
from gemel.adapters.sql_accesses import SqlAccesses
from gemel.adapters.sql_assets import SqlAssets
from gemel.adapters.sql_keep import Keep
from gemel.adapters.sql_twins import SqlTwins
from gemel.adapters.sqlite_database import SqliteDatabase
from gemel.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

SCHEMA = sql_twins.SCHEMA + sql_assets.SCHEMA + sql_accesses.SCHEMA
MIGRATIONS = sql_twins.MIGRATIONS  # of all three; a new one stands at the end
_SQLITE, _POSTGRES = "sqlite:///", ("postgresql://", "postgres://")


@dataclass(frozen=True, slots=True)
class RegistryStores:
    """ports.TwinStore, AssetStore and AccessStore in one database: they share its commits."""

    twins: SqlTwins
    assets: SqlAssets
    accesses: SqlAccesses
    commits: Commits


@asynccontextmanager
async def open_stores(
    url: str, keep: Keep | None = None, tell: Callable[[Commit], None] | None = None
) -> AsyncIterator[RegistryStores]:
    """`url`: sqlite:///path/of/file (its folder must exist; four slashes for an absolute one) or postgresql://….

    A database from before gets what it lacks (gemel.migrations). `tell` hears of every commit. Raises ConfigError for
    another url and for a database of a later version, StoreUnavailable where it cannot be opened.
    """
    keep = keep or Keep()
    async with _database(url) as database:
        commits = Commits(database, tell)
        stores = RegistryStores(
            SqlTwins(database, commits, keep),
            SqlAssets(database, commits, keep.machines),
            SqlAccesses(database, commits),
            commits,
        )
        await stores.twins.load()
        await stores.assets.load()
        await stores.accesses.load()
        try:
            yield stores
        finally:
            await commits.drain()


def _database(url: str) -> AbstractAsyncContextManager[Database]:
    if url.startswith(_SQLITE):
        return SqliteDatabase(Path(url.removeprefix(_SQLITE)), SCHEMA, MIGRATIONS)
    if url.startswith(_POSTGRES):
        from gemel.adapters.postgres_database import PostgresDatabase  # noqa: PLC0415  asyncpg only where it is used

        return PostgresDatabase(url, SCHEMA, MIGRATIONS)
    raise ConfigError("store", "url", f"sqlite:///file or postgresql://…, not {url!r}")
