"""ports.TwinStore in SQL, for every sql.Database.

Where things stand, and why:

- `revisions` holds whole documents, appended, so that a batch of many machines touches few pages. Those told later
  (`late`) never stand.
- `samples` holds what changed in them, one row a reading, by machine and source time: the rows of one update lie
  together. `minutes` gathers them later, by machine and property, which is how they are asked for.
- `dirty_minutes` names the minutes that `minutes` does not hold yet, or no longer rightly; queries gather those from
  the readings themselves, so an answer is never behind.
- What stands (each machine's latest document, the agents) is in memory as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_standing import Standing
from gemel.errors import Refused
from gemel.migrations import Migration
from gemel.ports import AgentEntry, Bucket, Change, Sample, TwinEntry, TwinEvent, TwinRevision
from gemel.twin.state import Quality, Twin, from_json, supersedes, to_json
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

MINUTE_MS = 60_000
SETTLE_MS = MINUTE_MS  # a minute is gathered when it has been over for so long
GATHERED_AT_ONCE = 500  # minutes in one transaction
SWEPT_AT_ONCE = 200  # machines in one transaction
COUNTED_AT_ONCE = 20  # machines whose readings are counted in one tidying: counting walks over them
TRIM_EVERY = 64  # revisions of a machine between two removals of its oldest
MAX_KNOWN_DIRTY = 100_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS twins (
    twin BIGINT PRIMARY KEY, site TEXT NOT NULL, asset TEXT NOT NULL, UNIQUE (site, asset));
CREATE TABLE IF NOT EXISTS revisions (
    sequence {serial} PRIMARY KEY, twin BIGINT NOT NULL, number BIGINT NOT NULL, received_ms BIGINT NOT NULL,
    document TEXT NOT NULL, late INTEGER NOT NULL, UNIQUE (twin, number));
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
    site TEXT, name TEXT, availability TEXT, status TEXT, received_ms BIGINT NOT NULL, sequence BIGINT NOT NULL,
    PRIMARY KEY (site, name)) {clustered};
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, sequence BIGINT NOT NULL UNIQUE, site TEXT NOT NULL, asset TEXT NOT NULL,
    received_ms BIGINT NOT NULL, document TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (received_ms, sequence);
"""
MIGRATIONS = (
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
_GATHER = """
INSERT INTO minutes
SELECT g.twin, g.property, CAST(?2 AS BIGINT), g.readings, g.low, g.high, g.total, s.value, g.latest_ms FROM (
    SELECT twin, property, count(*) AS readings, min(value) AS low, max(value) AS high, sum(value) AS total,
        max(time_ms) AS latest_ms
    FROM samples WHERE twin = ?1 AND time_ms >= ?2 AND time_ms < ?2 + 60000
        AND value IS NOT NULL AND quality IN ('good', 'uncertain') GROUP BY twin, property) g
JOIN samples s ON s.twin = g.twin AND s.time_ms = g.latest_ms AND s.property = g.property WHERE true
ON CONFLICT (twin, property, minute_ms) DO UPDATE SET readings = excluded.readings, low = excluded.low,
    high = excluded.high, total = excluded.total, latest = excluded.latest, latest_ms = excluded.latest_ms
WHERE excluded.readings >= minutes.readings
"""  # fewer than before: readings of that minute have gone already, and what was gathered from them stays
_BUCKETS = """
WITH parts AS (
    SELECT minute_ms / ?3 * ?3 AS bucket, readings, low, high, total, latest, latest_ms FROM minutes m
    WHERE twin = ?1 AND property = ?2 AND minute_ms >= ?4 AND minute_ms < ?5
        AND NOT EXISTS (SELECT 1 FROM dirty_minutes d WHERE d.twin = m.twin AND d.minute_ms = m.minute_ms)
    UNION ALL
    SELECT g.minute_ms / ?3 * ?3, g.readings, g.low, g.high, g.total, s.value, g.latest_ms FROM (
        SELECT d.minute_ms, count(*) AS readings, min(value) AS low, max(value) AS high, sum(value) AS total,
            max(time_ms) AS latest_ms
        FROM dirty_minutes d JOIN samples r
            ON r.twin = d.twin AND r.time_ms >= d.minute_ms AND r.time_ms < d.minute_ms + 60000
        WHERE d.twin = ?1 AND d.minute_ms >= ?4 AND d.minute_ms < ?5 AND r.property = ?2
            AND r.value IS NOT NULL AND r.quality IN ('good', 'uncertain') GROUP BY d.minute_ms) g
    JOIN samples s ON s.twin = ?1 AND s.time_ms = g.latest_ms AND s.property = ?2),
sums AS (
    SELECT bucket, sum(readings) AS readings, min(low) AS low, sum(total) AS total, max(high) AS high,
        max(latest_ms) AS latest_ms FROM parts GROUP BY bucket)
SELECT s.bucket, s.readings, s.low, s.total, s.high, p.latest
FROM sums s JOIN parts p ON p.bucket = s.bucket AND p.latest_ms = s.latest_ms ORDER BY s.bucket
"""
_FIRST_MINUTE = """
SELECT min(minute_ms) FROM (
    SELECT min(minute_ms) AS minute_ms FROM minutes WHERE twin = ?1 AND property = ?2 AND minute_ms >= ?3
    UNION ALL SELECT min(minute_ms) FROM dirty_minutes WHERE twin = ?1 AND minute_ms >= ?3) firsts
"""
_QUALITY = {quality: quality.value for quality in Quality}  # plain text, which databases take faster
_ADD_SAMPLE = "INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING"
_ADD_DIRTY = "INSERT INTO dirty_minutes VALUES (?1, ?2) ON CONFLICT DO NOTHING"
_PUT_AGENT = """
INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (site, name) DO UPDATE SET
    availability = excluded.availability, status = excluded.status, received_ms = excluded.received_ms,
    sequence = excluded.sequence
"""
_PUT_EVENT = "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"
_LAST_EVENT = """
SELECT (SELECT coalesce(max(sequence), 0) FROM events), (SELECT coalesce(max(received_ms), 0) FROM events)
"""
_EVENTS_SINCE = """
SELECT id, site, asset, received_ms, document, sequence FROM events
WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3
"""
_EVENTS_BETWEEN = """
SELECT id, site, asset, received_ms, document, sequence FROM events
WHERE received_ms >= ?1 AND received_ms < ?2
    AND site = coalesce(CAST(?3 AS TEXT), site) AND asset = coalesce(CAST(?4 AS TEXT), asset) AND sequence > ?5
    AND received_ms >= (SELECT e.received_ms FROM events e WHERE e.sequence > ?5 ORDER BY e.sequence LIMIT 1)
ORDER BY received_ms, sequence LIMIT ?6
"""  # the last condition lets a later page begin where it begins, and not at the first event
_OLD_SAMPLES = "DELETE FROM samples WHERE twin = ?1 AND time_ms < ?2"
_MORE_SAMPLES = """
DELETE FROM samples WHERE twin = ?1 AND time_ms <= (
    SELECT time_ms FROM samples WHERE twin = ?1 ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)
"""
_OLD_MINUTES = "DELETE FROM minutes WHERE twin = ?1 AND minute_ms < ?2"
_OLD_REVISIONS = "DELETE FROM revisions WHERE twin = ?1 AND received_ms < ?2 AND number <> ?3"
_MORE_REVISIONS = "DELETE FROM revisions WHERE twin = ?1 AND number <= ?2 AND number <> ?3"
_MORE_EVENTS = """
DELETE FROM events WHERE received_ms < ?1 OR sequence <= (
    SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1 OFFSET ?2)
"""


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept: how much, and for how long."""

    machines: int = 20_000  # twins, and agents
    revisions: int = 10_000  # whole documents of each machine
    samples: int = 10_000_000  # readings of each machine
    events: int = 1_000_000
    revisions_ms: int = 30 * 86_400_000
    samples_ms: int = 30 * 86_400_000
    minutes_ms: int = 5 * 366 * 86_400_000
    events_ms: int = 366 * 86_400_000


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
        self._agents: Standing[tuple[str, str], AgentEntry] = Standing()
        self._sequence = self._last_twin = 0
        self._last_number: dict[int, int] = {}  # of each machine's revisions, late ones included
        self._stored = 0  # the last sequence that is committed
        self._last_event = self._last_event_ms = 0
        self._changed = asyncio.Event()  # set, once, by the next commit that gave a sequence
        self._numbered: Batch | None = None
        self._known_dirty: set[tuple[int, int]] = set()  # so that each is written once, not once a reading
        self._dirty_in: Batch | None = None
        self._uncounted: dict[int, None] = {}  # machines with new readings, longest waiting first
        self._swept_ms = 0

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
        self._uncounted = dict.fromkeys(head.machine for head in self._heads.committed.values())
        agents = await self._database.fetch(
            "SELECT site, name, availability, status, received_ms, sequence FROM agents"
        )
        self._agents.load(
            {
                (site, name): AgentEntry(
                    site, name, availability, None if status is None else msgspec.Raw(status.encode()), *more
                )
                for site, name, availability, status, *more in agents
            }
        )
        ((self._last_event, self._last_event_ms),) = await self._database.fetch(_LAST_EVENT)
        ((last_revision,),) = await self._database.fetch("SELECT coalesce(max(sequence), 0) FROM revisions")
        last_agent = max((agent.sequence for agent in self._agents.committed.values()), default=0)
        self._sequence = self._stored = max(last_revision, last_agent, self._last_event)

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
        return [_standing(head) for head in self._heads.committed.values()], self._stored

    async def changes(self, after: int, limit: int) -> Sequence[Change]:
        """As ports.TwinStore."""
        while True:
            while self._stored <= after:
                await self._changed.wait()
            # What is read next may have moved on by the time it is there; so all of it ends at one sequence.
            until, twins, agents = self._stored, self._twins_since(after), self._agents_since(after)
            events: Sequence[TwinEvent] = ()
            if self._last_event > after:
                events = _events(await self._database.fetch(_EVENTS_SINCE, after, until, limit))
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

    def _agents_since(self, after: int) -> list[AgentEntry]:
        return [agent for agent in self._agents.committed.values() if agent.sequence > after]

    def _number(self, batch: Batch) -> int:
        """The next sequence. Whoever waits for changes hears of it when the batch is committed."""
        if batch is not self._numbered:
            batch.when_ended(self._tell)
            self._numbered = batch
        self._sequence += 1
        return self._sequence

    def _tell(self, committed: bool) -> None:  # noqa: FBT001  it is the answer to one question
        if committed:
            self._stored = self._sequence
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

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
            _make_room(self._heads, self._keep.machines)
            self._last_twin += 1
            batch.add("INSERT INTO twins VALUES (?1, ?2, ?3)", self._last_twin, *key)
            previous, machine = None, self._last_twin
        else:
            previous = head.twin
            if not supersedes(twin, previous):
                return False
            machine, received_ms = head.machine, max(received_ms, head.received_ms)
        revision, sequence = self._next_number(machine), self._number(batch)
        self._heads.plan(batch, key, _Head(machine, revision, sequence, received_ms, twin))
        batch.add(_ADD_REVISION, sequence, machine, revision, received_ms, document.decode(), 0)
        self._add_samples(batch, machine, _readings(previous, twin))
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
            batch.add(_ADD_REVISION, self._number(batch), head.machine, number, at_ms, document, 1)
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
        await self._commits.change(lambda batch: self._add_samples(batch, machine, rows))

    async def samples(
        self, site: str, asset: str, name: str, *, from_ms: int, to_ms: int, limit: int
    ) -> Sequence[Sample]:
        """As ports.TwinStore."""
        head = self._heads.committed.get((site, asset))
        if head is None:
            return []
        rows = await self._database.fetch(
            "SELECT time_ms, value, quality FROM samples WHERE twin = ?1 AND time_ms >= ?2 AND time_ms < ?3"
            " AND property = ?4 ORDER BY time_ms LIMIT ?5",
            head.machine,
            from_ms,
            to_ms,
            name,
            limit,
        )
        return [Sample(time_ms, value, Quality(quality)) for time_ms, value, quality in rows]

    async def buckets(
        self, site: str, asset: str, name: str, *, step_ms: int, from_ms: int, to_ms: int, limit: int
    ) -> Sequence[Bucket]:
        """As ports.TwinStore. Raises ValueError for a step that is not whole minutes."""
        if step_ms < MINUTE_MS or step_ms % MINUTE_MS:
            raise ValueError(f"a step of whole minutes, not {step_ms} ms")
        head = self._heads.committed.get((site, asset))
        found: list[Bucket] = []
        from_ms = -(-from_ms // MINUTE_MS) * MINUTE_MS
        while head is not None and len(found) < limit:
            # Gaps are leapt over, and no more is gathered than a page can hold.
            ((first_ms,),) = await self._database.fetch(_FIRST_MINUTE, head.machine, name, from_ms)
            if first_ms is None or first_ms >= to_ms:
                break
            end_ms = min(to_ms, (first_ms // step_ms + limit - len(found)) * step_ms)
            rows = await self._database.fetch(_BUCKETS, head.machine, name, step_ms, first_ms, end_ms)
            found += [
                Bucket(start_ms, int(count), low, total / int(count), high, latest)
                for start_ms, count, low, total, high, latest in rows
            ]
            from_ms = end_ms
        return found

    def _add_samples(self, batch: Batch, machine: int, samples: Iterable[tuple[str, Sample]]) -> None:
        oldest_ms, rows = self._swept_ms - self._keep.samples_ms, batch.rows(_ADD_SAMPLE)
        for name, sample in samples:
            if sample.time_ms < oldest_ms:
                continue
            rows.append((machine, sample.time_ms, name, sample.value, _QUALITY[sample.quality]))
            dirty = (machine, sample.time_ms // MINUTE_MS * MINUTE_MS)
            if dirty not in self._known_dirty:
                if batch is not self._dirty_in:
                    batch.when_ended(self._forget_dirty_unless)
                    self._dirty_in = batch
                self._known_dirty.add(dirty)
                batch.add(_ADD_DIRTY, *dirty)
        self._uncounted[machine] = None

    def _forget_dirty_unless(self, committed: bool) -> None:  # noqa: FBT001  it is the answer to one question
        if not committed or len(self._known_dirty) > MAX_KNOWN_DIRTY:
            self._known_dirty.clear()

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

        def plan(batch: Batch) -> None:
            known = self._agents.get((site, name))
            if known is None:
                _make_room(self._agents, self._keep.machines)
                known = AgentEntry(site, name, None, None, received_ms)
            said = known.status if status is None else msgspec.Raw(status)
            # With its first status it is known which machine comes or goes with it.
            moved = availability not in (None, known.availability) or (known.status is None and said is not None)
            sequence = self._number(batch) if moved else known.sequence
            agent = AgentEntry(site, name, availability or known.availability, said, received_ms, sequence)
            self._agents.plan(batch, (site, name), agent)
            text = None if said is None else bytes(said).decode()
            batch.add(_PUT_AGENT, site, name, agent.availability, text, received_ms, sequence)

        await self._commits.change(plan)

    async def agents(self) -> Sequence[AgentEntry]:
        """As ports.TwinStore."""
        return [agent for _, agent in sorted(self._agents.committed.items(), key=lambda item: item[0])]

    async def put_event(self, site: str, asset: str, document: bytes, received_ms: int) -> bool:
        """As ports.TwinStore."""
        event_id = sha256(f"{site}/{asset}\n".encode() + document)
        if await self._database.fetch("SELECT 1 FROM events WHERE id = ?1", event_id):
            return False

        def plan(batch: Batch) -> None:
            self._last_event, self._last_event_ms = self._number(batch), max(received_ms, self._last_event_ms)
            text = document.decode()
            batch.add(_PUT_EVENT, event_id, self._last_event, site, asset, self._last_event_ms, text)

        await self._commits.change(plan)
        return True

    async def events(
        self, *, site: str | None, asset: str | None, from_ms: int, to_ms: int, limit: int, after: int = 0
    ) -> Sequence[TwinEvent]:
        """As ports.TwinStore."""
        return _events(await self._database.fetch(_EVENTS_BETWEEN, from_ms, to_ms, site, asset, after, limit))

    # --- tidying ----------------------------------------------------------------------------------

    async def tidy(self, now_ms: int) -> None:
        """As ports.TwinStore."""
        while await self._gather(now_ms - SETTLE_MS) == GATHERED_AT_ONCE:
            pass
        self._swept_ms = now_ms
        heads = iter([*self._heads.committed.values()])
        while some := tuple(islice(heads, SWEPT_AT_ONCE)):
            await self._commits.change(partial(self._plan_sweep, some, now_ms))
        counted = tuple(islice(self._uncounted, COUNTED_AT_ONCE))
        for machine in counted:
            del self._uncounted[machine]
        await self._commits.change(partial(self._plan_count, counted, now_ms))

    async def _gather(self, before_ms: int) -> int:
        """Gather some dirty minutes; how many."""
        dirty = [
            (int(machine), int(minute_ms))
            for machine, minute_ms in await self._database.fetch(
                "SELECT twin, minute_ms FROM dirty_minutes WHERE minute_ms + 60000 <= ?1"
                " ORDER BY twin, minute_ms LIMIT ?2",
                before_ms,
                GATHERED_AT_ONCE,
            )
        ]

        def plan(batch: Batch) -> None:
            self._known_dirty.difference_update(dirty)
            for minute in dirty:
                batch.add(_GATHER, *minute)
                batch.add("DELETE FROM dirty_minutes WHERE twin = ?1 AND minute_ms = ?2", *minute)

        if dirty:
            await self._commits.change(plan, alone=True)
        return len(dirty)

    def _plan_sweep(self, heads: Iterable[_Head], now_ms: int, batch: Batch) -> None:
        for head in heads:
            batch.add(_OLD_SAMPLES, head.machine, now_ms - self._keep.samples_ms)
            batch.add(_OLD_REVISIONS, head.machine, now_ms - self._keep.revisions_ms, head.revision)

    def _plan_count(self, machines: Iterable[int], now_ms: int, batch: Batch) -> None:
        for machine in machines:
            batch.add(_MORE_SAMPLES, machine, self._keep.samples)
            batch.add(_OLD_MINUTES, machine, now_ms - self._keep.minutes_ms)
        batch.add(_MORE_EVENTS, now_ms - self._keep.events_ms, self._keep.events)


def _standing(head: _Head) -> TwinRevision:
    return TwinRevision(head.received_ms, head.twin, head.revision, head.sequence)


def _events(rows: Iterable[Sequence[Any]]) -> Sequence[TwinEvent]:
    return [
        TwinEvent(event_id, site, asset, received_ms, msgspec.Raw(document.encode()), sequence)
        for event_id, site, asset, received_ms, document, sequence in rows
    ]


def _readings(previous: Twin | None, twin: Twin) -> Iterable[tuple[str, Sample]]:
    """What a document tells that the one before it did not."""
    known = previous.properties if previous is not None else {}
    for name, reading in twin.properties.items():
        before = known.get(name)
        if reading.source_time_ms and (before is None or before.source_time_ms != reading.source_time_ms):
            yield name, Sample(reading.source_time_ms, reading.value, reading.quality)


def _make_room(standing: Standing[tuple[str, str], _Head] | Standing[tuple[str, str], AgentEntry], most: int) -> None:
    if len(standing) >= most:
        raise Refused(Reason.TOO_LARGE, f"{len(standing)} are kept already, and no more than {most}: max_machines")
