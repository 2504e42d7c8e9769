"""ports.TwinStore in SQL, for every sql.Database.

Where things stand, and why:

- `revisions` holds whole documents, appended, so that a batch of many machines touches few pages. Those told later
  (`late`) never stand.
- What changed in them are readings (sql_readings.py), which are asked for by property and time.
- Events (sql_events.py) and agents (sql_agents.py) share one sequence with the revisions (sql_numbering.py).
- What stands (each machine's latest document, the agents) is in memory as well (sql_standing.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter

from gemel.adapters import sql_agents, sql_events, sql_readings
from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_agents import SqlAgents
from gemel.adapters.sql_events import SqlEvents
from gemel.adapters.sql_keep import Keep
from gemel.adapters.sql_numbering import Numbering
from gemel.adapters.sql_readings import SqlReadings, check_step
from gemel.adapters.sql_standing import Standing
from gemel.migrations import Migration
from gemel.ports import AgentEntry, Bucket, Change, Sample, TwinEntry, TwinEvent, TwinRevision
from gemel.twin.state import Twin, from_json, supersedes, to_json

SWEPT_AT_ONCE = 200  # machines in one transaction
TRIM_EVERY = 64  # revisions of a machine between two removals of its oldest

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS twins (
    twin BIGINT PRIMARY KEY, site TEXT NOT NULL, asset TEXT NOT NULL, UNIQUE (site, asset));
CREATE TABLE IF NOT EXISTS revisions (
    sequence {serial} PRIMARY KEY, twin BIGINT NOT NULL, number BIGINT NOT NULL, received_ms BIGINT NOT NULL,
    document TEXT NOT NULL, late INTEGER NOT NULL, UNIQUE (twin, number));
CREATE INDEX IF NOT EXISTS revisions_by_time ON revisions (twin, received_ms);
"""
    + sql_readings.SCHEMA
    + sql_agents.SCHEMA
    + sql_events.SCHEMA
)
MIGRATIONS = (  # of all these tables, in the order in which they came to be: a database counts them
    Migration("revisions", "late", ("ALTER TABLE revisions ADD COLUMN late INTEGER NOT NULL DEFAULT 0",)),
    Migration("agents", "sequence", ("ALTER TABLE agents ADD COLUMN sequence BIGINT NOT NULL DEFAULT 0",)),
    Migration(  # numbered in the order in which they came in
        "events",
        "sequence",
        (
            "ALTER TABLE events RENAME TO unnumbered_events",
            "CREATE TABLE events ("
            "id TEXT PRIMARY KEY, sequence BIGINT NOT NULL UNIQUE, site TEXT NOT NULL, asset TEXT NOT NULL, "
            "received_ms BIGINT NOT NULL, document TEXT NOT NULL)",
            "INSERT INTO events SELECT id, row_number() OVER (ORDER BY received_ms, id), site, asset, received_ms, "
            "document FROM unnumbered_events",
            "DROP TABLE unnumbered_events",  # and its index, which the schema makes anew
        ),
    ),
)

_LOAD = """
SELECT t.twin, t.site, t.asset, r.number, r.sequence, r.received_ms, r.document,
    (SELECT max(number) FROM revisions WHERE twin = t.twin)
FROM twins t JOIN revisions r ON r.twin = t.twin
    AND r.number = (SELECT max(number) FROM revisions WHERE twin = t.twin AND late = 0)
ORDER BY r.sequence
"""
_REVISIONS = "SELECT received_ms, document, number, sequence FROM revisions WHERE twin = ?1 AND "
_ADD_REVISION = "INSERT INTO revisions VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
_OLD_REVISIONS = "DELETE FROM revisions WHERE twin = ?1 AND received_ms < ?2 AND number <> ?3"
_MORE_REVISIONS = "DELETE FROM revisions WHERE twin = ?1 AND number <= ?2 AND number <> ?3"


@dataclass(frozen=True, slots=True)
class _Head:
    """A machine's latest revision. It is kept decoded: every update is compared with it."""

    machine: int  # its number in the tables
    revision: int
    sequence: int
    received_ms: int
    twin: Twin


class SqlTwins:
    """ports.TwinStore over an open database that holds SCHEMA. Call `load` once before anything else."""

    def __init__(self, database: Database, commits: Commits, keep: Keep) -> None:
        self._database, self._commits, self._keep = database, commits, keep
        self._heads: Standing[tuple[str, str], _Head] = Standing()
        self._numbering = Numbering()
        self._readings = SqlReadings(database, commits, keep)
        self._agents = SqlAgents(database, commits, self._numbering, keep.machines)
        self._events = SqlEvents(database, commits, self._numbering, keep)
        self._last_twin = 0
        self._last_number: dict[int, int] = {}  # of each machine's revisions, late ones included

    async def load(self) -> None:
        """Read what stands."""
        heads = await self._database.fetch(_LOAD)
        self._heads.load(
            {
                (site, asset): _Head(machine, number, sequence, received_ms, from_json(document.encode()))
                for machine, site, asset, number, sequence, received_ms, document, _ in heads
            }
        )
        self._last_number = {machine: last for machine, *_, last in heads}
        self._last_twin = max((head.machine for head in self._heads.committed.values()), default=0)
        self._readings.load(head.machine for head in self._heads.committed.values())
        ((last_revision,),) = await self._database.fetch("SELECT coalesce(max(sequence), 0) FROM revisions")
        self._numbering.load(max(last_revision, await self._agents.load(), await self._events.load()))

    # --- twins ------------------------------------------------------------------------------------

    async def put(self, twin: Twin, received_ms: int) -> bool:
        """As ports.TwinStore."""
        return await self._commits.change(partial(self._plan_put, twin, to_json(twin), received_ms))

    async def twins(self) -> Sequence[TwinEntry]:
        """As ports.TwinStore."""
        return [
            TwinEntry(site, asset, head.twin.version, head.received_ms)
            for (site, asset), head in sorted(self._heads.committed.items(), key=lambda item: item[0])
        ]

    async def twin(self, site: str, asset: str) -> TwinRevision | None:
        """As ports.TwinStore."""
        head = self._heads.committed.get((site, asset))
        return None if head is None else _standing(head)

    async def at_time(self, site: str, asset: str, time_ms: int) -> TwinRevision | None:
        """As ports.TwinStore."""
        head = self._heads.committed.get((site, asset))
        # What was told later, by a clock that may be ahead, never takes the place of what stands.
        found = await self._revisions(
            site,
            asset,
            "received_ms <= ?2 AND (late = 0 OR ?2 < ?3) ORDER BY received_ms DESC, number DESC LIMIT 1",
            time_ms,
            0 if head is None else head.received_ms,
        )
        return found[0] if found else None

    async def at_revision(self, site: str, asset: str, revision: int) -> TwinRevision | None:
        """As ports.TwinStore."""
        found = await self._revisions(site, asset, "number = ?2", revision)
        return found[0] if found else None

    async def history(
        self, site: str, asset: str, *, from_ms: int, to_ms: int, limit: int, after: int = 0
    ) -> Sequence[TwinRevision]:
        """As ports.TwinStore."""
        return await self._revisions(
            site,
            asset,
            "received_ms >= ?2 AND received_ms < ?3 AND number > ?4 ORDER BY number LIMIT ?5",
            from_ms,
            to_ms,
            after,
            limit,
        )

    async def standing(self) -> tuple[Sequence[TwinRevision], int]:
        """As ports.TwinStore."""
        return [_standing(head) for head in self._heads.committed.values()], self._numbering.committed

    async def changes(self, after: int, limit: int) -> Sequence[Change]:
        """As ports.TwinStore."""
        while True:
            await self._numbering.passes(after)
            # What is read next may have moved on by the time it is there; so all of it ends at one sequence.
            until, twins, agents = self._numbering.committed, self._twins_since(after), self._agents.since(after)
            events = await self._events.since(after, until, limit)
            found: list[Change] = sorted([*twins[:limit], *agents, *events], key=attrgetter("sequence"))
            if found:
                return found[:limit]
            after = until  # an event that was known already, or whose time to be kept is over

    def _twins_since(self, after: int) -> list[TwinRevision]:
        found = []
        for head in reversed(self._heads.committed.values()):
            if head.sequence <= after:
                break
            found.append(_standing(head))
        return found[::-1]

    async def _revisions(self, site: str, asset: str, condition: str, *values: int) -> Sequence[TwinRevision]:
        head = self._heads.committed.get((site, asset))
        if head is None:
            return []
        rows = await self._database.fetch(_REVISIONS + condition, head.machine, *values)
        return [
            TwinRevision(received_ms, from_json(document.encode()), number, sequence)
            for received_ms, document, number, sequence in rows
        ]

    def _plan_put(self, twin: Twin, document: bytes, received_ms: int, batch: Batch) -> bool:
        key = (twin.site, twin.asset)
        head = self._heads.get(key)
        if head is None:
            self._heads.make_room(self._keep.machines)
            self._last_twin += 1
            batch.add("INSERT INTO twins VALUES (?1, ?2, ?3)", self._last_twin, *key)
            previous, machine = None, self._last_twin
        else:
            previous = head.twin
            if not supersedes(twin, previous):
                return False
            machine, received_ms = head.machine, max(received_ms, head.received_ms)
        revision, sequence = self._next_number(machine), self._numbering.next(batch)
        self._heads.plan(batch, key, _Head(machine, revision, sequence, received_ms, twin))
        batch.add(_ADD_REVISION, sequence, machine, revision, received_ms, document.decode(), 0)
        self._readings.add(batch, machine, _readings(previous, twin))
        if revision % min(TRIM_EVERY, self._keep.revisions) == 0:
            self._plan_trim(machine, revision, batch)
        return True

    async def put_late(self, site: str, asset: str, revisions: Sequence[tuple[int, Twin]]) -> None:
        """As ports.TwinStore."""
        head = self._heads.committed[site, asset]
        told = {(at_ms, to_json(twin).decode()): None for at_ms, twin in revisions}
        times = [at_ms for at_ms, _ in told]
        known = await self._database.fetch(
            "SELECT received_ms, document FROM revisions WHERE twin = ?1 AND received_ms >= ?2 AND received_ms <= ?3",
            head.machine,
            min(times, default=0),
            max(times, default=0),
        )
        new = told.keys() - {(received_ms, document) for received_ms, document in known}
        if new:
            rows = [row for row in told if row in new]
            await self._commits.change(partial(self._plan_late, (site, asset), rows))

    def _plan_late(self, key: tuple[str, str], rows: Iterable[tuple[int, str]], batch: Batch) -> None:
        head = self._heads.get(key)
        assert head is not None
        for at_ms, document in rows:
            number = self._next_number(head.machine)
            batch.add(_ADD_REVISION, self._numbering.next(batch), head.machine, number, at_ms, document, 1)
        self._plan_trim(head.machine, head.revision, batch)

    def _next_number(self, machine: int) -> int:
        number = self._last_number[machine] = self._last_number.get(machine, 0) + 1
        return number

    def _plan_trim(self, machine: int, standing: int, batch: Batch) -> None:
        if (oldest := self._last_number[machine] - self._keep.revisions) > 0:
            batch.add(_MORE_REVISIONS, machine, oldest, standing)

    # --- readings ---------------------------------------------------------------------------------

    async def put_samples(self, site: str, asset: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """As ports.TwinStore."""
        machine = self._heads.committed[site, asset].machine
        rows = [(name, sample) for name, found in samples.items() for sample in found]
        await self._commits.change(lambda batch: self._readings.add(batch, machine, rows))

    async def samples(
        self, site: str, asset: str, name: str, *, from_ms: int, to_ms: int, limit: int
    ) -> Sequence[Sample]:
        """As ports.TwinStore."""
        head = self._heads.committed.get((site, asset))
        if head is None:
            return []
        return await self._readings.samples(head.machine, name, from_ms=from_ms, to_ms=to_ms, limit=limit)

    async def buckets(
        self, site: str, asset: str, name: str, *, step_ms: int, from_ms: int, to_ms: int, limit: int
    ) -> Sequence[Bucket]:
        """As ports.TwinStore. Raises ValueError for a step that is not whole minutes."""
        check_step(step_ms)
        head = self._heads.committed.get((site, asset))
        if head is None:
            return []
        return await self._readings.buckets(
            head.machine, name, step_ms=step_ms, from_ms=from_ms, to_ms=to_ms, limit=limit
        )

    # --- agents and events ------------------------------------------------------------------------

    async def put_agent(
        self,
        site: str,
        name: str,
        *,
        availability: str | None = None,
        status: bytes | None = None,
        received_ms: int,
    ) -> None:
        """As ports.TwinStore."""
        await self._agents.put(site, name, availability=availability, status=status, received_ms=received_ms)

    async def agents(self) -> Sequence[AgentEntry]:
        """As ports.TwinStore."""
        return self._agents.all()

    async def put_event(self, site: str, asset: str, document: bytes, received_ms: int) -> bool:
        """As ports.TwinStore."""
        return await self._events.put(site, asset, document, received_ms)

    async def events(
        self, *, site: str | None, asset: str | None, from_ms: int, to_ms: int, limit: int, after: int = 0
    ) -> Sequence[TwinEvent]:
        """As ports.TwinStore."""
        return await self._events.between(
            site=site, asset=asset, from_ms=from_ms, to_ms=to_ms, limit=limit, after=after
        )

    # --- tidying ----------------------------------------------------------------------------------

    async def tidy(self, now_ms: int) -> None:
        """As ports.TwinStore."""
        await self._readings.gather(now_ms)
        heads = iter([*self._heads.committed.values()])
        while some := tuple(islice(heads, SWEPT_AT_ONCE)):
            await self._commits.change(partial(self._plan_sweep, some, now_ms))
        await self._commits.change(partial(self._plan_count, self._readings.uncounted(), now_ms))

    def _plan_sweep(self, heads: Iterable[_Head], now_ms: int, batch: Batch) -> None:
        for head in heads:
            self._readings.drop_old(batch, head.machine, now_ms)
            batch.add(_OLD_REVISIONS, head.machine, now_ms - self._keep.revisions_ms, head.revision)

    def _plan_count(self, machines: Iterable[int], now_ms: int, batch: Batch) -> None:
        for machine in machines:
            self._readings.drop_more(batch, machine, now_ms)
        self._events.drop_old(batch, now_ms)


def _standing(head: _Head) -> TwinRevision:
    return TwinRevision(head.received_ms, head.twin, head.revision, head.sequence)


def _readings(previous: Twin | None, twin: Twin) -> Iterable[tuple[str, Sample]]:
    """What a document tells that the one before it did not."""
    known = previous.properties if previous is not None else {}
    for name, reading in twin.properties.items():
        before = known.get(name)
        if reading.source_time_ms and (before is None or before.source_time_ms != reading.source_time_ms):
            yield name, Sample(reading.source_time_ms, reading.value, reading.quality)
