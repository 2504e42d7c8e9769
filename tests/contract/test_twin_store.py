"""What every TwinStore does. PostgreSQL joins the list of stores when its adapter comes."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gemel.adapters.sqlite_twins import SqliteTwins
from gemel.errors import Refused, StoreUnavailable
from gemel.ports import TwinEntry, TwinStore
from gemel.twin.state import Property, Quality, Twin, blank
from gemel.wire.reasons import Reason

Open = Callable[..., AbstractAsyncContextManager[TwinStore]]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return lambda **bounds: SqliteTwins(tmp_path / "twins.sqlite", **bounds)


def twin(version: int, asset: str = "press-1", heard_ms: int = 0) -> Twin:
    reading = Property(float(version), "degC", heard_ms, heard_ms, Quality.GOOD)
    return replace(blank("north", asset), version=version, properties={"TS1": reading})


async def test_what_was_put_is_there_after_reopening(open_store: Open) -> None:
    async with open_store() as store:
        assert await store.put(twin(1), 100)
        assert await store.put(twin(2), 200)
    async with open_store() as store:
        standing = await store.twin("north", "press-1")
        assert standing is not None
        assert (standing.received_ms, standing.twin) == (200, twin(2))
        assert await store.twins() == [TwinEntry("north", "press-1", 2, 200)]
        assert await store.twin("north", "nobody") is None


async def test_repetitions_and_older_versions_change_nothing(open_store: Open) -> None:
    async with open_store() as store:
        await store.put(twin(5), 100)
        assert not await store.put(twin(5), 200)
        assert not await store.put(twin(4), 300)
        assert [r.twin.version for r in await everything(store)] == [5]


async def test_agent_that_counts_from_the_beginning_again_is_heard(open_store: Open) -> None:
    async with open_store() as store:
        await store.put(twin(500, heard_ms=1_000), 100)
        assert await store.put(twin(1, heard_ms=2_000), 200)
        assert await store.put(twin(2, heard_ms=3_000), 200)
        assert [r.twin.version for r in await everything(store)] == [500, 1, 2]


async def test_history_is_the_half_open_range_oldest_first_and_limited(open_store: Open) -> None:
    async with open_store() as store:
        for version in range(1, 8):
            await store.put(twin(version), version * 100)
            await store.put(twin(version, asset="press-2"), version * 100)
        page = await store.history("north", "press-1", from_ms=200, to_ms=600, limit=3)
        assert [r.received_ms for r in page] == [200, 300, 400]
        page = await store.history("north", "press-1", from_ms=400, to_ms=600, limit=99)
        assert [r.received_ms for r in page] == [400, 500]


async def test_revisions_of_a_machine_are_bounded_and_the_oldest_go(open_store: Open) -> None:
    async with open_store(max_revisions=10) as store:
        for version in range(1, 101):
            await store.put(twin(version), version)
        assert [r.twin.version for r in await everything(store)] == list(range(91, 101))


async def test_machines_beyond_the_bound_are_refused_and_known_ones_go_on(open_store: Open) -> None:
    async with open_store(max_machines=2) as store:
        outcomes = await asyncio.gather(
            *(store.put(twin(1, asset=f"press-{n}"), 1) for n in range(4)), return_exceptions=True
        )
        assert outcomes[:2] == [True, True]
        assert [o.reason for o in outcomes[2:] if isinstance(o, Refused)] == [Reason.TOO_LARGE] * 2
        assert await store.put(twin(2, asset="press-0"), 2)
        for name in ("a", "b", "a"):
            await store.put_agent("north", name, availability="online", received_ms=1)
        with pytest.raises(Refused):
            await store.put_agent("north", "c", availability="online", received_ms=1)


async def test_callers_that_come_together_are_all_stored_in_order(open_store: Open) -> None:
    async with open_store() as store:
        assert all(await asyncio.gather(*(store.put(twin(version), 7) for version in range(1, 1200))))
        assert [r.twin.version for r in await everything(store)] == list(range(1, 1200))


async def test_change_whose_caller_was_cancelled_harms_nobody_else(open_store: Open) -> None:
    async with open_store() as store:
        tasks = [asyncio.create_task(store.put(twin(1, asset=f"press-{n}"), 1)) for n in range(20)]
        await tasks[0]
        await asyncio.sleep(0)  # another caller commits for all who wait
        tasks[1].cancel()
        tasks[7].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [o for n, o in enumerate(outcomes) if n not in (1, 7)] == [True] * 18


async def test_agent_keeps_what_a_later_word_does_not_mention(open_store: Open) -> None:
    async with open_store() as store:
        await store.put_agent("north", "a", availability="online", received_ms=1)
        await store.put_agent("north", "a", status=b'{"examples":3}', received_ms=2)
        await store.put_agent("north", "a", availability="offline", received_ms=3)
        (agent,) = await store.agents()
        assert agent.status is not None
        assert (agent.site, agent.name, agent.availability, agent.received_ms) == ("north", "a", "offline", 3)
        assert msgspec.json.decode(agent.status) == {"examples": 3}


async def test_use_after_closing_says_so(open_store: Open) -> None:
    async with open_store() as store:
        pass
    with pytest.raises(StoreUnavailable):
        await store.twins()
    with pytest.raises(StoreUnavailable):
        await store.put(twin(1), 1)


async def test_sqlite_that_cannot_be_written_is_unavailable_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "twins.sqlite"
    async with SqliteTwins(path) as store:
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE revisions RENAME TO elsewhere")
        with pytest.raises(StoreUnavailable):
            await store.put(twin(1), 1)
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE elsewhere RENAME TO revisions")
        other.close()
        assert await store.put(twin(1), 1)


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "twins.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable, match=str(path)):
        async with SqliteTwins(path):
            pass


async def everything(store: TwinStore) -> list:
    return list(await store.history("north", "press-1", from_ms=0, to_ms=2**53, limit=10_000))
