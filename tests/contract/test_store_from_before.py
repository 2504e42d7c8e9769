"""A registry's database from before, SQLite and PostgreSQL: opened by today's registry, nothing is lost.

SCHEMA is, to the letter, what the registry made before late revisions, numbered agents and numbered events.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from gemel.adapters.registry_stores import MIGRATIONS, open_stores
from gemel.errors import ConfigError
from gemel.twin.state import Property, Quality, Twin, blank, to_json
from tests.support.postgres import postgres

SCHEMA = """
CREATE TABLE IF NOT EXISTS twins (
    twin BIGINT PRIMARY KEY, site TEXT NOT NULL, asset TEXT NOT NULL, UNIQUE (site, asset));
CREATE TABLE IF NOT EXISTS revisions (
    sequence {serial} PRIMARY KEY, twin BIGINT NOT NULL, number BIGINT NOT NULL, received_ms BIGINT NOT NULL,
    document TEXT NOT NULL, UNIQUE (twin, number));
CREATE INDEX IF NOT EXISTS revisions_by_time ON revisions (twin, received_ms);
CREATE TABLE IF NOT EXISTS samples (
    twin BIGINT, time_ms BIGINT, property TEXT, value DOUBLE PRECISION, quality TEXT NOT NULL,
    PRIMARY KEY (twin, time_ms, property)) {clustered};
CREATE TABLE IF NOT EXISTS minutes (
    twin BIGINT, property TEXT, minute_ms BIGINT, readings BIGINT NOT NULL, low DOUBLE PRECISION NOT NULL,
    high DOUBLE PRECISION NOT NULL, total DOUBLE PRECISION NOT NULL, latest DOUBLE PRECISION NOT NULL,
    latest_ms BIGINT NOT NULL, PRIMARY KEY (twin, property, minute_ms)) {clustered};
CREATE TABLE IF NOT EXISTS dirty_minutes (twin BIGINT, minute_ms BIGINT, PRIMARY KEY (twin, minute_ms)) {clustered};
CREATE TABLE IF NOT EXISTS agents (
    site TEXT, name TEXT, availability TEXT, status TEXT, received_ms BIGINT NOT NULL,
    PRIMARY KEY (site, name)) {clustered};
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, site TEXT NOT NULL, asset TEXT NOT NULL, received_ms BIGINT NOT NULL,
    document TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (received_ms, id);
CREATE TABLE IF NOT EXISTS assets (
    site TEXT, asset TEXT, revision BIGINT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (site, asset)) {clustered};
CREATE TABLE IF NOT EXISTS accesses (
    sequence {serial} PRIMARY KEY, time_ms BIGINT NOT NULL, reader TEXT NOT NULL, what TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS access_roots (
    first_sequence {serial} PRIMARY KEY, last_sequence BIGINT NOT NULL, sealed_ms BIGINT NOT NULL,
    root TEXT NOT NULL);
"""


def twin(version: int) -> Twin:
    reading = Property(float(version), "degC", version * 100, version * 100, Quality.GOOD)
    return replace(blank("north", "press-1"), version=version, properties={"TS1": reading})


CONTENT = [
    "INSERT INTO twins VALUES (1, 'north', 'press-1')",
    *(f"INSERT INTO revisions VALUES ({10 + n}, 1, {n}, {n * 100}, '{to_json(twin(n)).decode()}')" for n in (1, 2)),
    "INSERT INTO samples VALUES (1, 100, 'TS1', 1.0, 'good')",
    "INSERT INTO agents VALUES ('north', 'gateway-1', 'online', NULL, 150)",
    "INSERT INTO agents VALUES ('north', 'gateway-2', 'offline', NULL, 160)",
    "INSERT INTO events VALUES ('b', 'north', 'press-1', 120, '{\"n\":1}')",
    "INSERT INTO events VALUES ('a', 'north', 'press-1', 180, '{\"n\":2}')",
]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


async def _make(url: str, script: str) -> None:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script.format(serial="INTEGER", clustered="WITHOUT ROWID"))
        return
    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.execute(script.format(serial="BIGINT", clustered=""))
    await connection.close()


async def _remove(url: str) -> None:
    if url.startswith("sqlite"):
        for file in Path(url.removeprefix("sqlite:///")).parent.glob("twins.sqlite*"):
            file.unlink()


async def _columns(url: str) -> list[tuple[str, str]]:
    """(table, column), each table's in their order."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(
                "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' "
                "ORDER BY t.name, c.cid"
            ).fetchall()
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "ORDER BY table_name, ordinal_position"
    )
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/twins.sqlite"
    url: str = request.getfixturevalue("server")
    return url


async def test_database_from_before_gets_what_it_lacks_and_keeps_what_it_has(url: str) -> None:
    await _make(url, SCHEMA + ";\n".join(line.replace("{", "{{").replace("}", "}}") for line in CONTENT))
    async with open_stores(url) as stores:
        standing = await stores.twins.twin("north", "press-1")
        assert standing is not None
        assert (standing.sequence, standing.twin) == (12, twin(2))
        assert [agent.name for agent in await stores.twins.agents()] == ["gateway-1", "gateway-2"]
        events = await stores.twins.events(site=None, asset=None, from_ms=0, to_ms=1000, limit=10)
        assert [(event.id, event.received_ms) for event in events] == [("b", 120), ("a", 180)]
        assert await stores.twins.put(twin(3), 300)
    async with open_stores(url) as stores:
        standing = await stores.twins.twin("north", "press-1")
        assert standing is not None
        assert (standing.sequence, standing.twin) == (13, twin(3))


async def test_tables_from_before_end_with_the_columns_of_new_ones_in_their_order(url: str) -> None:
    """Rows are inserted by place. A column that is new in the schema, and in no migration, shows here."""
    tables = []
    for script in (SCHEMA, "SELECT 1"):
        await _remove(url)
        await _make(url, script)
        async with open_stores(url):
            pass
        tables.append(await _columns(url))
    from_before, new = tables
    assert from_before == new
    assert ("events", "sequence") in new


async def test_database_of_a_later_version_is_refused_with_what_to_do(url: str) -> None:
    later = len(MIGRATIONS) + 1
    note = f"PRAGMA user_version = {later};"
    if url.startswith("postgres"):
        note = f"CREATE TABLE gemel_schema (version INTEGER NOT NULL); INSERT INTO gemel_schema VALUES ({later});"
    await _make(url, note)
    with pytest.raises(
        ConfigError, match=f"at most {later - 1}, found {later}: a later version of Gemel has used it"
    ):
        async with open_stores(url):
            pass


async def test_new_database_has_had_every_migration_and_needs_none(url: str) -> None:
    await _make(url, "SELECT 1")
    for _ in ("new", "again"):
        async with open_stores(url) as stores:
            assert await stores.twins.twins() == []
