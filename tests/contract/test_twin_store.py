"""What the registry's stores do, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest
from msgspec.structs import astuple, replace

from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.adapters.sql import Commit
from gemel.adapters.sql_keep import Keep
from gemel.adapters.sql_readings import MINUTE_MS
from gemel.adapters.sqlite_database import SqliteDatabase
from gemel.errors import ConfigError, Refused, StoreUnavailable
from gemel.ports import AccessRoot, Sample, TwinEntry, TwinEvent, TwinRevision, TwinStore
from gemel.twin.state import Property, Quality, Twin, blank
from gemel.wire.reasons import Reason
from tests.support.postgres import postgres

OpenAll = Callable[..., AbstractAsyncContextManager[RegistryStores]]
Open = Callable[..., AbstractAsyncContextManager[TwinStore]]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/twins.sqlite"
    url: str = request.getfixturevalue("server")
    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return url


@pytest.fixture
def open_all(url: str) -> OpenAll:
    return lambda **bounds: open_stores(url, Keep(**bounds))


@pytest.fixture
def open_store(open_all: OpenAll) -> Open:
    @asynccontextmanager
    async def opened(**bounds: int) -> AsyncIterator[TwinStore]:
        async with open_all(**bounds) as stores:
            yield stores.twins

    return opened


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
    async with open_store(revisions=10) as store:
        for version in range(1, 101):
            await store.put(twin(version), version)
        assert [r.twin.version for r in await everything(store)] == list(range(91, 101))


async def test_machines_beyond_the_bound_are_refused_and_known_ones_go_on(open_store: Open) -> None:
    async with open_store(machines=2) as store:
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
        await store.put(twin(1), 1)
    with pytest.raises(StoreUnavailable):
        await store.at_time("north", "press-1", 1)
    with pytest.raises(StoreUnavailable):
        await store.put(twin(2), 1)


# --- moments --------------------------------------------------------------------------------------


async def test_twin_at_a_time_and_at_a_revision_is_what_stood_then(open_store: Open) -> None:
    async with open_store(revisions=10) as store:
        for version in range(1, 21):
            await store.put(twin(version), version * 100)
        at_time = await store.at_time("north", "press-1", 1_550)
        at_revision = await store.at_revision("north", "press-1", 15)
        assert at_time == at_revision is not None
        assert (at_time.twin.version, at_time.revision, at_time.received_ms) == (15, 15, 1_500)
        assert await store.at_time("north", "press-1", 1_000) is None  # gone with the oldest
        assert await store.at_revision("north", "press-1", 21) is None
        assert await store.at_time("north", "nobody", 1_550) is None


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
async def test_clock_that_steps_an_hour_loses_nothing_and_history_stays_in_order(
    open_store: Open, step_ms: int
) -> None:
    start_ms = 10_000_000
    async with open_store() as store:
        for version in range(1, 4):
            assert await store.put(twin(version), start_ms + version)
        for version in range(4, 7):
            assert await store.put(twin(version), start_ms + step_ms + version)
        for version in range(7, 10):
            assert await store.put(twin(version), start_ms + version)
        found = await everything(store)
        assert [r.twin.version for r in found] == list(range(1, 10))
        assert [r.received_ms for r in found] == sorted(r.received_ms for r in found)


async def test_changes_are_each_twin_as_it_stands_in_order_and_survive_reopening(open_store: Open) -> None:
    async with open_store() as store:
        for version, asset in ((1, "a"), (1, "b"), (2, "a"), (1, "c")):
            await store.put(twin(version, asset=asset), 1)
        found = await store.changes(0, 10)
        assert [(r.twin.asset, r.twin.version) for r in found] == [("b", 1), ("a", 2), ("c", 1)]
        assert [r.twin.asset for r in await store.changes(found[0].sequence, 1)] == ["a"]
    async with open_store() as store:
        assert await store.changes(0, 10) == found
        waiting = asyncio.create_task(store.changes(found[-1].sequence, 10))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await store.put(twin(2, asset="b"), 2)
        assert [(r.twin.asset, r.twin.version) for r in await waiting] == [("b", 2)]


async def test_twins_events_and_agents_share_one_sequence_and_none_is_passed_over(open_store: Open) -> None:
    async with open_store() as store:
        await store.put(twin(1, asset="a"), 1)
        await store.put_event("north", "a", b'{"id":"raised"}', 1)
        await store.put_agent("north", "gw", availability="online", received_ms=1)
        await store.put(twin(2, asset="a"), 2)
        standing, last = await store.standing()
        assert ([r.sequence for r in standing], last) == ([4], 4)
        assert [c.sequence for c in await store.changes(0, 9)] == [2, 3, 4]
        assert [c.sequence for c in await store.changes(0, 1)] == [2]
        assert not await store.put_event("north", "a", b'{"id":"raised"}', 9)  # known: nobody hears of it again
    async with open_store() as store:
        assert (await store.standing())[1] == 4
        waiting = asyncio.create_task(store.changes(last, 9))
        # Said again, and only the time is new: neither comes nor goes.
        await store.put_agent("north", "gw", availability="online", received_ms=5)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await store.put_agent("north", "gw", availability="offline", received_ms=6)
        (agent,) = await waiting
        assert (agent.sequence, agent.availability, agent) == (5, "offline", (await store.agents())[0])
        await store.put_event("north", "a", b'{"id":"cleared"}', 7)
        (event,) = await store.changes(5, 9)
        assert (event.sequence, bytes(event.document)) == (6, b'{"id":"cleared"}')


async def test_reader_of_changes_hears_everything_while_it_is_written(open_store: Open) -> None:
    count = 150

    async def write() -> None:
        for version in range(1, count + 1):
            await asyncio.gather(
                store.put(twin(version, asset="a"), 1),
                store.put_event("north", "a", b"%d" % version, 1),
                store.put(twin(version, asset="b"), 1),
            )

    async with open_store() as store:
        writing = asyncio.create_task(write())
        events, latest, after = list[int](), dict[str, int](), 0
        async with asyncio.timeout(60):
            while len(events) < count or set(latest.values()) != {count}:
                for change in await store.changes(after, 7):
                    assert change.sequence > after
                    after = change.sequence
                    if isinstance(change, TwinEvent):
                        events.append(int(bytes(change.document)))
                    elif isinstance(change, TwinRevision):
                        latest[change.twin.asset] = change.twin.version
        await writing
        assert events == [*range(1, count + 1)]


# --- readings -------------------------------------------------------------------------------------


async def test_readings_of_revisions_are_a_series_by_source_time(open_store: Open) -> None:
    async with open_store() as store:
        for version, heard_ms in ((1, 1_000), (2, 2_000), (3, 2_000), (4, 3_000)):
            await store.put(twin(version, heard_ms=heard_ms), 9_999)
        found = await store.samples("north", "press-1", "TS1", from_ms=1_000, to_ms=3_000, limit=10)
        assert [(s.time_ms, s.value, s.quality) for s in found] == [(1_000, 1.0, "good"), (2_000, 2.0, "good")]
        assert await store.samples("north", "press-1", "PS1", from_ms=0, to_ms=9_999, limit=10) == []
        assert len(await store.samples("north", "press-1", "TS1", from_ms=0, to_ms=9_999, limit=1)) == 1


async def test_late_revisions_are_found_by_their_times_and_never_stand(open_store: Open) -> None:
    async def versions_at(store: TwinStore, *times_ms: int) -> list[int | None]:
        found = [await store.at_time("north", "press-1", time_ms) for time_ms in times_ms]
        return [one.twin.version if one is not None else None for one in found]

    async with open_store() as store:
        await store.put(twin(1), 100)
        await store.put(twin(9), 500)
        late = [(200, twin(2)), (300, twin(3)), (900, twin(4))]  # the last one by a clock that is ahead of ours
        for _ in range(2):
            await store.put_late("north", "press-1", late)
        await store.put_late("north", "press-1", [])
        with pytest.raises(KeyError):
            await store.put_late("north", "nobody", late)
    async with open_store() as store:
        assert await versions_at(store, 99, 100, 250, 499, 500, 1000) == [None, 1, 2, 3, 9, 9]
        standing = await store.twin("north", "press-1")
        assert standing is not None
        assert (standing.twin.version, standing.received_ms) == (9, 500)
        await store.put(twin(10), 1000)
        kept = await everything(store)
        assert [(r.revision, r.received_ms, r.twin.version) for r in kept] == [
            (1, 100, 1),
            (2, 500, 9),
            (3, 200, 2),
            (4, 300, 3),
            (5, 900, 4),
            (6, 1000, 10),
        ]
        third = await store.at_revision("north", "press-1", 3)
        assert third is not None
        assert third.twin.version == 2
        await store.put_late("north", "press-1", [(400, twin(5))])  # after it has been opened again
        assert [one.twin.version for one in await store.changes(0, 10)] == [10]  # nothing that readers live must hear


async def test_late_revisions_count_for_the_bound_and_what_stands_outlives_them(open_store: Open) -> None:
    async with open_store(revisions=10, revisions_ms=1000) as store:
        await store.put(twin(100), 5000)
        for batch in range(3):
            await store.put_late("north", "press-1", [(batch * 10 + n, twin(batch * 10 + n)) for n in range(10)])
        kept = await everything(store)
        assert [r.twin.version for r in kept] == [100, *range(20, 30)]
        await store.tidy(5000)  # the late ones are older than is kept
        assert [r.twin.version for r in await everything(store)] == [100]
    async with open_store(revisions=10) as store:
        standing = await store.twin("north", "press-1")
        assert standing is not None
        assert standing.twin.version == 100


async def test_late_readings_join_history_and_leave_the_twin_as_it_is(open_store: Open) -> None:
    async with open_store() as store:
        await store.put(twin(7, heard_ms=90_000), 90_000)
        late = {"TS1": [Sample(t, t / 1000, Quality.GOOD) for t in (30_000, 10_000, 20_000)]}
        await store.put_samples("north", "press-1", late)
        await store.put_samples("north", "press-1", late)
        found = await store.samples("north", "press-1", "TS1", from_ms=0, to_ms=99_000, limit=10)
        assert [s.time_ms for s in found] == [10_000, 20_000, 30_000, 90_000]
        standing = await store.twin("north", "press-1")
        assert standing is not None
        assert standing.twin == twin(7, heard_ms=90_000)
        with pytest.raises(KeyError):
            await store.put_samples("north", "nobody", late)


@pytest.mark.parametrize("tidy_first", [False, True])
async def test_buckets_are_what_the_readings_say_before_and_after_they_were_gathered(
    open_store: Open, tidy_first: bool
) -> None:
    async with open_store() as store:
        await store.put(twin(1), 1)
        readings = [Sample(t * 1000, float(t % 7), Quality.GOOD) for t in range(0, 600, 2)]
        unusable = [Sample(1, None, Quality.GOOD), Sample(3, 99.0, Quality.BAD), Sample(5, 99.0, Quality.STALE)]
        far = Sample(100 * MINUTE_MS + 5, 3.0, Quality.UNCERTAIN)
        await store.put_samples("north", "press-1", {"TS1": [*readings, *unusable, far], "PS1": readings[:3]})
        if tidy_first:
            await store.tidy(1000 * MINUTE_MS)
            await store.put_samples("north", "press-1", {"TS1": [Sample(61_001, 50.0, Quality.GOOD)]})  # late
        else:
            await store.put_samples("north", "press-1", {"TS1": [Sample(61_001, 50.0, Quality.GOOD)]})
        readings.append(Sample(61_001, 50.0, Quality.GOOD))

        def expected(step_ms: int, start_ms: int) -> tuple[int, int, float, float, float, float]:
            inside = [s for s in readings if start_ms <= s.time_ms < start_ms + step_ms]
            values = [s.value for s in inside if s.value is not None]
            last = max(inside, key=lambda s: s.time_ms).value or 0.0
            return start_ms, len(values), min(values), sum(values) / len(values), max(values), last

        for step_minutes in (1, 5):
            step_ms = step_minutes * MINUTE_MS
            found = await store.buckets(
                "north", "press-1", "TS1", step_ms=step_ms, from_ms=0, to_ms=200 * MINUTE_MS, limit=1000
            )
            starts = range(0, 600_000, step_ms)
            assert [pytest.approx(expected(step_ms, start)) for start in starts] == [astuple(b) for b in found[:-1]]
            assert astuple(found[-1]) == (100 * MINUTE_MS, 1, 3.0, 3.0, 3.0, 3.0)
        page = await store.buckets(
            "north", "press-1", "TS1", step_ms=MINUTE_MS, from_ms=0, to_ms=200 * MINUTE_MS, limit=11
        )
        assert [b.time_ms // MINUTE_MS for b in page] == [*range(10), 100]
        part = await store.buckets(
            "north", "press-1", "TS1", step_ms=MINUTE_MS, from_ms=MINUTE_MS, to_ms=3 * MINUTE_MS, limit=3
        )
        assert [b.time_ms // MINUTE_MS for b in part] == [1, 2]
        with pytest.raises(ValueError, match="whole minutes"):
            await store.buckets("north", "press-1", "TS1", step_ms=90_000, from_ms=0, to_ms=1, limit=1)


async def test_age_and_number_bound_what_is_kept_and_minutes_outlive_readings(open_store: Open) -> None:
    hour_ms = 3_600_000
    async with open_store(samples_ms=hour_ms, samples=40, revisions_ms=hour_ms, minutes_ms=10 * hour_ms) as store:
        for version, heard_ms in enumerate(range(0, 4 * hour_ms, MINUTE_MS), 1):
            await store.put(twin(version, heard_ms=heard_ms + 1), heard_ms + 1)
        await store.tidy(4 * hour_ms)
        samples = await store.samples("north", "press-1", "TS1", from_ms=0, to_ms=9 * hour_ms, limit=9999)
        assert [s.time_ms for s in samples] == [t + 1 for t in range(200 * MINUTE_MS, 4 * hour_ms, MINUTE_MS)]
        assert [r.twin.version for r in await everything(store)] == list(range(181, 241))
        # A reading older than those that are kept cannot be gathered any more: what is known stays.
        await store.put_samples("north", "press-1", {"TS1": [Sample(90_000, 1e9, Quality.GOOD)]})
        await store.tidy(4 * hour_ms)
        minutes = await store.buckets(
            "north", "press-1", "TS1", step_ms=MINUTE_MS, from_ms=0, to_ms=4 * hour_ms, limit=999
        )
        assert [b.mean for b in minutes] == [float(v) for v in range(1, 241)]
        await store.put(twin(999, heard_ms=20 * hour_ms), 20 * hour_ms)
        await store.tidy(99 * hour_ms)
        assert len(await everything(store)) == 1  # what stands is never dropped
        assert await store.buckets(
            "north", "press-1", "TS1", step_ms=MINUTE_MS, from_ms=0, to_ms=9 * hour_ms, limit=9
        ) == []  # fmt: skip


# --- events, assets, the log of reads -------------------------------------------------------------


async def test_events_are_kept_once_and_found_by_place_and_time(open_store: Open) -> None:
    async with open_store(events=3) as store:
        for number, asset in enumerate(("a", "b", "a", "c")):
            assert await store.put_event("north", asset, b'{"id":"%d"}' % number, 100 + number)
        assert not await store.put_event("north", "a", b'{"id":"0"}', 200)
        found = await store.events(site="north", asset="a", from_ms=0, to_ms=999, limit=10)
        assert [(e.received_ms, bytes(e.document)) for e in found] == [(100, b'{"id":"0"}'), (102, b'{"id":"2"}')]
        assert len(await store.events(site=None, asset=None, from_ms=101, to_ms=103, limit=10)) == 2
        page = await store.events(site=None, asset=None, from_ms=0, to_ms=999, limit=1)
        assert [e.asset for e in page] == ["a"]
        page = await store.events(site=None, asset=None, from_ms=0, to_ms=999, limit=2, after=page[0].sequence)
        assert [e.asset for e in page] == ["b", "a"]
        last = (await store.events(site=None, asset="c", from_ms=0, to_ms=999, limit=2))[0].sequence
        assert await store.events(site=None, asset=None, from_ms=0, to_ms=999, limit=2, after=last) == []
        await store.tidy(300)
        assert [e.asset for e in await store.events(site=None, asset=None, from_ms=0, to_ms=999, limit=9)] == list(
            "bac"
        )


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
async def test_clock_that_steps_an_hour_leaves_events_in_their_order(open_store: Open, step_ms: int) -> None:
    start_ms = 10_000_000
    async with open_store() as store:
        for number, received_ms in enumerate((start_ms, start_ms + step_ms, start_ms + 1)):
            await store.put_event("north", "a", b"%d" % number, received_ms)
        found, after = list[bytes](), 0
        while page := await store.events(site=None, asset=None, from_ms=0, to_ms=2**53, limit=1, after=after):
            found, after = [*found, bytes(page[0].document)], page[0].sequence
        assert found == [b"0", b"1", b"2"]


async def test_asset_document_changes_only_from_the_revision_that_was_looked_at(open_all: OpenAll) -> None:
    async with open_all(machines=2) as stores:
        put = stores.assets.put_asset
        assert await put("north", "a", b"{}", expected=0) == 1
        assert await put("north", "a", b"{}", expected=0) is None
        assert await put("north", "a", b'{"x":1}', expected=1) == 2
        assert await asyncio.gather(*(put("north", "b", b"{}", expected=0) for _ in range(3))) == [1, None, None]
        assert await put("north", "b", b"{}", expected=None) == 2
        with pytest.raises(Refused):
            await put("north", "c", b"{}", expected=None)
    async with open_all() as stores:
        record = await stores.assets.asset("north", "a")
        assert record is not None
        assert (record.revision, bytes(record.document)) == (2, b'{"x":1}')
        assert [r.asset for r in await stores.assets.assets()] == ["a", "b"]
        assert await stores.assets.asset("north", "c") is None


async def test_log_of_reads_counts_without_a_gap_and_its_roots_join(open_all: OpenAll) -> None:
    async with open_all() as stores:
        entries = await asyncio.gather(*(stores.accesses.log_access(n, "wallboard", f"/{n}") for n in range(5)))
        assert [e.sequence for e in entries] == [1, 2, 3, 4, 5]
        assert await stores.accesses.accesses(after=1, limit=2) == list(entries[1:3])
        await stores.accesses.put_access_root(AccessRoot(1, 3, 10, "ab" * 32))
        for wrong in (
            AccessRoot(1, 4, 11, "ab" * 32),
            AccessRoot(5, 5, 11, "ab" * 32),
            AccessRoot(4, 6, 11, "ab" * 32),
        ):
            with pytest.raises(ValueError, match="begins at 4"):
                await stores.accesses.put_access_root(wrong)
        await stores.accesses.drop_accesses(10)  # sealed then, not before
        assert len(await stores.accesses.accesses(after=0, limit=99)) == 5
        await stores.accesses.drop_accesses(99)
    async with open_all() as stores:
        assert await stores.accesses.access_state() == (5, 3)
        assert await stores.accesses.accesses(after=0, limit=99) == list(entries[3:])
        assert (await stores.accesses.log_access(6, "x", "/")).sequence == 6
        await stores.accesses.put_access_root(AccessRoot(4, 6, 12, "cd" * 32))
        assert [r.first for r in await stores.accesses.access_roots(after=0, limit=9)] == [1, 4]
        assert [r.first for r in await stores.accesses.access_roots(after=1, limit=9)] == [4]
        await stores.accesses.drop_accesses(99)
    async with open_all() as stores:  # what was forgotten is not counted again
        assert (await stores.accesses.log_access(7, "x", "/")).sequence == 7


async def test_every_commit_is_told_with_what_it_cost(url: str) -> None:
    told = list[Commit]()
    async with open_stores(url, tell=told.append) as stores:
        await asyncio.gather(*(stores.twins.put(twin(1, asset=f"press-{n}", heard_ms=1), 1) for n in range(10)))
        assert stores.commits.waiting_s == 0
    assert sum(commit.changes for commit in told) == 10
    assert sum(commit.rows for commit in told) == 10 * 4  # machine, revision, reading, and its minute
    assert all(0 < commit.took_s <= commit.waited_s for commit in told)


# --- what only one of them can suffer -------------------------------------------------------------


async def test_sqlite_that_cannot_be_written_is_unavailable_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "twins.sqlite"
    async with open_stores(f"sqlite:///{path}") as stores:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("ALTER TABLE samples RENAME TO elsewhere")
        with pytest.raises(StoreUnavailable):
            await stores.twins.put(twin(1, heard_ms=1), 1)
        assert await stores.twins.twin("north", "press-1") is None
        other.execute("ALTER TABLE elsewhere RENAME TO samples")
        other.close()
        assert await stores.twins.put(twin(1, heard_ms=1), 1)


async def test_sqlite_waits_for_the_disk_before_a_commit_counts(tmp_path: Path) -> None:
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        database = stores.commits._database
        assert isinstance(database, SqliteDatabase)
        writer = database._writer
        assert await writer.read(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL
        assert await writer.read(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


async def test_postgres_waits_for_the_disk_before_a_commit_counts(server: str) -> None:
    async with open_stores(server) as stores:
        ((setting,),) = await stores.commits._database.fetch("SHOW synchronous_commit")
        assert setting == "on"


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "twins.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable, match=str(path)):
        async with open_stores(f"sqlite:///{path}"):
            pass


async def test_postgres_whose_connections_are_cut_recovers(server: str) -> None:
    async with open_stores(server) as stores:
        connection = await asyncpg.connect(server)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'gemel%'"
        )
        await connection.close()
        async with asyncio.timeout(10):
            while True:  # each connection finds out for itself
                with contextlib.suppress(StoreUnavailable):
                    await stores.twins.put(twin(2, asset="cut", heard_ms=2), 2)
                    break
        standing = await stores.twins.at_time("north", "cut", 2)
        assert standing is not None
        assert standing.twin.version == 2


async def test_postgres_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        async with open_stores(f"postgresql://gemel@/postgres?host={tmp_path}"):
            pass


async def test_url_of_another_database_is_a_mistake_of_configuration() -> None:
    with pytest.raises(ConfigError, match="sqlite:///file or postgresql"):
        async with open_stores("mysql://localhost"):
            pass


async def everything(store: TwinStore) -> list:
    return list(await store.history("north", "press-1", from_ms=0, to_ms=2**53, limit=10_000))
