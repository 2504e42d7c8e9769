"""The readings of a registry's machines in SQL: as they came, and gathered by the minute.

- `samples` holds one row a reading, by machine and source time: the rows of one update lie together. `minutes`
  gathers them later, by machine and property, which is how they are asked for.
- `dirty_minutes` names the minutes that `minutes` does not hold yet, or no longer rightly; queries gather those from
  the readings themselves, so an answer is never behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_keep import Keep
from gemel.ports import Bucket, Sample
from gemel.twin.state import Quality

MINUTE_MS = 60_000
SETTLE_MS = MINUTE_MS  # a minute is gathered when it has been over for so long
GATHERED_AT_ONCE = 500  # minutes in one transaction
COUNTED_AT_ONCE = 20  # machines whose readings are counted in one tidying: counting walks over them
MAX_KNOWN_DIRTY = 100_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    twin BIGINT, time_ms BIGINT, property TEXT, value DOUBLE PRECISION, quality TEXT NOT NULL,
    PRIMARY KEY (twin, time_ms, property)) {clustered};
CREATE TABLE IF NOT EXISTS minutes (
    twin BIGINT, property TEXT, minute_ms BIGINT, readings BIGINT NOT NULL, low DOUBLE PRECISION NOT NULL,
    high DOUBLE PRECISION NOT NULL, total DOUBLE PRECISION NOT NULL, latest DOUBLE PRECISION NOT NULL,
    latest_ms BIGINT NOT NULL, PRIMARY KEY (twin, property, minute_ms)) {clustered};
CREATE TABLE IF NOT EXISTS dirty_minutes (twin BIGINT, minute_ms BIGINT, PRIMARY KEY (twin, minute_ms)) {clustered};
"""

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
_OLD_SAMPLES = "DELETE FROM samples WHERE twin = ?1 AND time_ms < ?2"
_MORE_SAMPLES = """
DELETE FROM samples WHERE twin = ?1 AND time_ms <= (
    SELECT time_ms FROM samples WHERE twin = ?1 ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)
"""
_OLD_MINUTES = "DELETE FROM minutes WHERE twin = ?1 AND minute_ms < ?2"


class SqlReadings:
    """The readings of SqlTwins, by the number that a machine has in the tables."""

    def __init__(self, database: Database, commits: Commits, keep: Keep) -> None:
        self._database, self._commits, self._keep = database, commits, keep
        self._known_dirty: set[tuple[int, int]] = set()  # so that each is written once, not once a reading
        self._dirty_in: Batch | None = None
        self._uncounted: dict[int, None] = {}  # machines with new readings, longest waiting first
        self._swept_ms = 0

    def load(self, machines: Iterable[int]) -> None:
        """All machines there are: none has been counted yet."""
        self._uncounted = dict.fromkeys(machines)

    async def samples(self, machine: int, name: str, *, from_ms: int, to_ms: int, limit: int) -> Sequence[Sample]:
        """Of that machine, as ports.TwinStore."""
        rows = await self._database.fetch(
            "SELECT time_ms, value, quality FROM samples WHERE twin = ?1 AND time_ms >= ?2 AND time_ms < ?3"
            " AND property = ?4 ORDER BY time_ms LIMIT ?5",
            machine,
            from_ms,
            to_ms,
            name,
            limit,
        )
        return [Sample(time_ms, value, Quality(quality)) for time_ms, value, quality in rows]

    async def buckets(
        self, machine: int, name: str, *, step_ms: int, from_ms: int, to_ms: int, limit: int
    ) -> Sequence[Bucket]:
        """Of that machine, as ports.TwinStore, in steps of whole minutes."""
        found: list[Bucket] = []
        from_ms = -(-from_ms // MINUTE_MS) * MINUTE_MS
        while len(found) < limit:
            # Gaps are leapt over, and no more is gathered than a page can hold.
            ((first_ms,),) = await self._database.fetch(_FIRST_MINUTE, machine, name, from_ms)
            if first_ms is None or first_ms >= to_ms:
                break
            end_ms = min(to_ms, (first_ms // step_ms + limit - len(found)) * step_ms)
            rows = await self._database.fetch(_BUCKETS, machine, name, step_ms, first_ms, end_ms)
            found += [
                Bucket(start_ms, int(count), low, total / int(count), high, latest)
                for start_ms, count, low, total, high, latest in rows
            ]
            from_ms = end_ms
        return found

    def add(self, batch: Batch, machine: int, samples: Iterable[tuple[str, Sample]]) -> None:
        """Readings by property; the same again changes nothing, and what is too old to be kept is not stored."""
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

    async def gather(self, now_ms: int) -> None:
        """Gather every minute that is over."""
        while await self._gather(now_ms - SETTLE_MS) == GATHERED_AT_ONCE:
            pass
        self._swept_ms = now_ms

    def drop_old(self, batch: Batch, machine: int, now_ms: int) -> None:
        """What is kept no longer goes."""
        batch.add(_OLD_SAMPLES, machine, now_ms - self._keep.samples_ms)

    def uncounted(self) -> Sequence[int]:
        """The next few machines to be counted; they are asked for once."""
        machines = tuple(islice(self._uncounted, COUNTED_AT_ONCE))
        for machine in machines:
            del self._uncounted[machine]
        return machines

    def drop_more(self, batch: Batch, machine: int, now_ms: int) -> None:
        """Count a machine's readings; more than are kept go, and its old minutes."""
        batch.add(_MORE_SAMPLES, machine, self._keep.samples)
        batch.add(_OLD_MINUTES, machine, now_ms - self._keep.minutes_ms)

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


def check_step(step_ms: int) -> None:
    """Raises ValueError for a step that is not whole minutes."""
    if step_ms < MINUTE_MS or step_ms % MINUTE_MS:
        raise ValueError(f"a step of whole minutes, not {step_ms} ms")
