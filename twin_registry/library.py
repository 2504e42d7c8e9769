"""What can be asked of the registry, whichever way the question came: over HTTP or over the bus.

A twin whose agent is offline is shown as stale: the registry cannot know what has become of the machine since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from gemel import ports
from gemel.ports import AgentEntry, Bucket, Sample, TwinEvent, TwinRevision, TwinStore
from gemel.twin.agent import AgentStatus
from gemel.twin.state import Diagnosis, Property, Quality, Twin
from gemel.wire.types import Count, Millis
from twin_registry.where import Condition, fulfils

MAX_PAGE_PROPERTIES = 50_000  # of a page of revisions together: some 10 MB
LOOKED_AT_ONCE = 100  # twins between two turns of the event loop

_Known = TypeVar("_Known", Property, Diagnosis)
Granted = Callable[[str, str], bool]  # (site, asset)


class Shown(msgspec.Struct, frozen=True):
    """A twin as it stands, or stood. `stale`: its agent is offline, so every quality in it says so."""

    received_ms: Millis
    revision: Count
    sequence: Count
    stale: bool
    twin: Twin


class Line(msgspec.Struct, frozen=True):
    """One line of the list of twins."""

    site: str
    asset: str
    version: Count
    received_ms: Millis
    revision: Count
    stale: bool


class Lines(msgspec.Struct, frozen=True):
    """A page of the list. `next`: where the next page begins (`after`), or null."""

    twins: Sequence[Line]
    next: str | None


class Revisions(msgspec.Struct, frozen=True):
    """A page of a twin's revisions. `next`: where the next page begins (`after`), or null."""

    revisions: Sequence[TwinRevision]
    next: Count | None


class Series(msgspec.Struct, frozen=True):
    """A page of one property's readings, as they came (`samples`) or in steps (`buckets`).

    `next`: where the next page begins (`from`), or null.
    """

    samples: Sequence[Sample]
    buckets: Sequence[Bucket]
    next: Millis | None


class Events(msgspec.Struct, frozen=True):
    """A page of events, oldest first. `next`: where the next page begins (`after`), or null."""

    events: Sequence[TwinEvent]
    next: Count | None


class Agents(msgspec.Struct, frozen=True):
    """What agents last said of themselves."""

    agents: Sequence[AgentEntry]


class Change(NamedTuple):
    """Something that happened: an event, a twin that changed, or the twins of an agent that came or went."""

    sequence: int
    told: Sequence[Shown | TwinEvent]


class Library:
    """The questions."""

    def __init__(self, store: TwinStore) -> None:
        self._store = store

    async def lines(
        self, granted: Granted, *, site: str | None, conditions: Sequence[Condition], after: str, limit: int
    ) -> Lines:
        """The twins that fulfil every condition, by place, from the one after `after` (`site/asset`) on."""
        silent, found, last = await self._silent(), list[Line](), tuple(after.split("/", 1))
        for number, entry in enumerate(await self._store.twins()):
            if number % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
                await asyncio.sleep(0)
            place = (entry.site, entry.asset)
            if site not in (None, entry.site) or place <= last or not granted(*place):
                continue
            if len(found) == limit:
                return Lines(found, f"{found[-1].site}/{found[-1].asset}")
            revision = await self._store.twin(*place)
            if revision is None:
                continue
            shown = _shown(revision, place in silent)
            if fulfils(shown.twin, conditions):
                found.append(Line(*place, shown.twin.version, shown.received_ms, shown.revision, shown.stale))
        return Lines(found, None)

    async def twin(self, site: str, asset: str) -> Shown | None:
        """The twin now."""
        revision = await self._store.twin(site, asset)
        return None if revision is None else _shown(revision, (site, asset) in await self._silent())

    async def past(self, site: str, asset: str, *, at_ms: int | None, number: int | None) -> Shown | None:
        """The twin as it stood at a time, or at a revision."""
        if number is not None:
            revision = await self._store.at_revision(site, asset, number)
        else:
            revision = await self._store.at_time(site, asset, at_ms or 0)
        return None if revision is None else _shown(revision, False)

    async def revisions(
        self, site: str, asset: str, *, from_ms: int, to_ms: int, after: int, limit: int
    ) -> Revisions | None:
        """A page of history, shorter where the twin is wide; None for a twin that nobody knows."""
        standing = await self._store.twin(site, asset)
        if standing is None:
            return None
        limit = min(limit, max(1, MAX_PAGE_PROPERTIES // max(1, len(standing.twin.properties))))
        found = await self._store.history(site, asset, from_ms=from_ms, to_ms=to_ms, limit=limit, after=after)
        return Revisions(found, found[-1].revision if len(found) == limit else None)

    async def series(
        self, site: str, asset: str, name: str, *, step_ms: int, from_ms: int, to_ms: int, limit: int
    ) -> Series | None:
        """A page of one property's readings; `step_ms` 0 means as they came. None for a twin that nobody knows."""
        if await self._store.twin(site, asset) is None:
            return None
        if step_ms:
            buckets = await self._store.buckets(
                site, asset, name, step_ms=step_ms, from_ms=from_ms, to_ms=to_ms, limit=limit
            )
            return Series((), buckets, buckets[-1].time_ms + step_ms if len(buckets) == limit else None)
        samples = await self._store.samples(site, asset, name, from_ms=from_ms, to_ms=to_ms, limit=limit)
        return Series(samples, (), samples[-1].time_ms + 1 if len(samples) == limit else None)

    async def events(
        self,
        granted: Granted,
        *,
        site: str | None,
        asset: str | None,
        from_ms: int,
        to_ms: int,
        after: int,
        limit: int,
    ) -> Events:
        """A page of events: those of the assets that were granted, so there may be fewer than `limit`."""
        found = await self._store.events(
            site=site, asset=asset, from_ms=from_ms, to_ms=to_ms, after=after, limit=limit
        )
        shown = [event for event in found if granted(event.site, event.asset)]
        return Events(shown, found[-1].sequence if len(found) == limit else None)

    async def agents(self, granted: Granted) -> Agents:
        """The agents whose machines were granted. Of one that has not said which, nobody hears but who sees all."""
        found = []
        for agent in await self._store.agents():
            machines = _machines(agent) or [(agent.site, "*")]
            if all(granted(*machine) for machine in machines):
                found.append(agent)
        return Agents(found)

    async def standing(self) -> tuple[Iterator[Shown], int]:
        """Every twin as it stands, and the sequence after which `changes` goes on."""
        revisions, last = await self._store.standing()
        silent = await self._silent()
        return (_shown(one, (one.twin.site, one.twin.asset) in silent) for one in revisions), last

    async def changes(self, after: int, limit: int) -> Sequence[Change]:
        """What has happened since sequence `after`; waits for it."""
        found = await self._store.changes(after, limit)
        silent = await self._silent()
        return [Change(one.sequence, await self._told(one, silent)) for one in found]

    async def _told(self, change: ports.Change, silent: set[tuple[str, str]]) -> Sequence[Shown | TwinEvent]:
        if isinstance(change, TwinEvent):
            return [change]
        if isinstance(change, TwinRevision):
            return [_shown(change, (change.twin.site, change.twin.asset) in silent)]
        twins = [(machine, await self._store.twin(*machine)) for machine in _machines(change)]
        return [_shown(twin, machine in silent) for machine, twin in twins if twin is not None]

    async def _silent(self) -> set[tuple[str, str]]:
        """The machines whose agents are offline."""
        offline = (agent for agent in await self._store.agents() if agent.availability == "offline")
        return {machine for agent in offline for machine in _machines(agent)}


def _machines(agent: AgentEntry) -> Sequence[tuple[str, str]]:
    """Those that it keeps twins of, where it has said so."""
    if agent.status is None:
        return []
    status = msgspec.json.decode(agent.status, type=AgentStatus)
    return [(agent.site, asset) for asset in (status.asset, *status.further)]


def _shown(revision: TwinRevision, stale: bool) -> Shown:  # noqa: FBT001  private, and its name says it
    twin = revision.twin
    if stale:
        properties = {name: _distrusted(reading) for name, reading in twin.properties.items()}
        twin = replace(twin, properties=properties, health={n: _distrusted(d) for n, d in twin.health.items()})
    return Shown(revision.received_ms, revision.revision, revision.sequence, stale, twin)


def _distrusted(known: _Known) -> _Known:
    return known if known.quality is Quality.BAD else replace(known, quality=Quality.STALE)
