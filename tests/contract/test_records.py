"""ports.Records on SQLite."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import StoreUnavailable
from gemel.ports import Records


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    async with SqliteRecords(tmp_path / "records.db") as records:
        yield records


async def test_put_replaces_and_get_of_nothing_is_none(records: Records) -> None:
    assert await records.get("round", "1") is None
    await records.put("round", "1", b"open")
    await records.put("round", "1", b"")
    assert await records.get("round", "1") == b""


async def test_put_once_keeps_the_first(records: Records) -> None:
    assert await records.put_once("opened", "1", b"first")
    assert not await records.put_once("opened", "1", b"second")
    assert await records.get("opened", "1") == b"first"


async def test_put_once_has_one_winner_among_many(records: Records) -> None:
    won = await asyncio.gather(*(records.put_once("opened", "1", b"%d" % i) for i in range(20)))
    assert sum(won) == 1


async def test_items_are_those_of_the_kind_by_key(records: Records) -> None:
    for key in ("b", "a", "c"):
        await records.put("one", key, key.encode())
    await records.put("other", "x", b"x")
    await records.drop("one", "c")
    await records.drop("one", "never there")
    assert list(await records.items("one")) == [("a", b"a"), ("b", b"b")]
    assert list(await records.items("none")) == []


async def test_change_survives_a_process_that_is_killed_at_once(tmp_path: Path) -> None:
    program = """
import asyncio, os, pathlib, sys
from gemel.adapters.sqlite_records import SqliteRecords
async def main():
    async with SqliteRecords(pathlib.Path(sys.argv[1])) as records:
        await records.put("kind", "key", b"value")
        os._exit(9)
asyncio.run(main())
"""
    path = tmp_path / "records.db"
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(path)], check=False, env={**os.environ, "PYTHONPATH": "."}
    )
    assert ended.returncode == 9
    async with SqliteRecords(path) as records:
        assert await records.get("kind", "key") == b"value"


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"no database, only text" * 100)
    with pytest.raises(StoreUnavailable, match=r"records\.db"):
        await SqliteRecords(path).__aenter__()


async def test_closed_records_are_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not open"):
        await SqliteRecords(tmp_path / "records.db").get("kind", "key")
