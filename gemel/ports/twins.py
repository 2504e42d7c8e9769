"""The registry's twins: as they stand, their revisions, readings and events, and the agents that tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from gemel.twin.state import Quality, Twin
from gemel.wire.types import Count, Digest, Millis


class TwinEntry(msgspec.Struct, frozen=True):
    """One line of the list of twins."""

    site: str
    asset: str
    version: Count
    received_ms: Millis


class TwinRevision(msgspec.Struct, frozen=True):
    """A twin as it stood when the registry received it.

    `revision` counts what the registry stored of this machine: it rises even where an agent counts its versions from
    the beginning again. `sequence` counts what the registry stored at all.
    """

    received_ms: Millis
    twin: Twin
    revision: Count = 0
    sequence: Count = 0


class Sample(msgspec.Struct, frozen=True):
    """One reading of one property, at its source time."""

    time_ms: Millis
    value: float | None
    quality: Quality


class Bucket(msgspec.Struct, frozen=True):
    """The usable readings (good or uncertain, with a value) of one property within one step."""

    time_ms: Millis  # where the step begins
    count: Count
    low: float
    mean: float
    high: float
    last: float


class AgentEntry(msgspec.Struct, frozen=True):
    """What an agent last said of itself: `online` or `offline`, and its status document.

    `sequence` (see TwinRevision) is that of its latest coming or going.
    """

    site: str
    name: str
    availability: str | None
    status: msgspec.Raw | None
    received_ms: Millis
    sequence: Count = 0


class TwinEvent(msgspec.Struct, frozen=True):
    """Something that happened to a machine, as its agent told it. `id` is the digest of its document."""

    id: Digest
    site: str
    asset: str
    received_ms: Millis
    document: msgspec.Raw
    sequence: Count = 0  # see TwinRevision


Change = TwinRevision | TwinEvent | AgentEntry


class TwinStore(Protocol):
    """Every twin as it stands, its revisions, its readings and its events. What `put` has returned from is committed.

    Calls that come together share one commit, so many callers at once are cheap. One process writes. Every method
    raises StoreUnavailable where the store cannot be reached, read or written.
    """

    async def put(self, twin: Twin, received_ms: Millis) -> bool:
        """Store a revision; False, and nothing changed, where it does not supersede what stands.

        `received_ms` never steps back within a machine: where it would, the latest stands. Raises Refused(too_large)
        for a new machine beyond the store's bound. The oldest revisions beyond the bound of a machine go.
        """
        ...

    async def twins(self) -> Sequence[TwinEntry]:
        """All twins, by site and asset."""
        ...

    async def twin(self, site: str, asset: str) -> TwinRevision | None:
        """The twin as it stands."""
        ...

    async def at_time(self, site: str, asset: str, time_ms: Millis) -> TwinRevision | None:
        """The twin as it stood at that time of our clock."""
        ...

    async def at_revision(self, site: str, asset: str, revision: Count) -> TwinRevision | None:
        """That revision, where it is kept."""
        ...

    async def history(
        self, site: str, asset: str, *, from_ms: Millis, to_ms: Millis, limit: int, after: Count = 0
    ) -> Sequence[TwinRevision]:
        """At most `limit` revisions received in [from_ms, to_ms) and numbered above `after`, by their numbers."""
        ...

    async def standing(self) -> tuple[Sequence[TwinRevision], Count]:
        """Every twin as it stands, in the order of their sequence, and the sequence after which `changes` goes on."""
        ...

    async def changes(self, after: Count, limit: int) -> Sequence[Change]:
        """What has happened since sequence `after`, in that order: at most `limit`, and at least one, for it waits.

        Twins that have changed, each as it stands; every event; agents that came or went, each as it is now.
        """
        ...

    async def put_late(self, site: str, asset: str, revisions: Sequence[tuple[Millis, Twin]]) -> None:
        """Add revisions to the past of a known twin, each with the time at which it arose. What stands stays.

        They are numbered as they come, and `at_time` and `history` find them by their times. The same again changes
        nothing. Raises KeyError for a machine that no twin is known of.
        """
        ...

    async def put_samples(self, site: str, asset: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Add readings, by property, to the history of a known twin; what stands does not change.

        The same reading again changes nothing. Raises KeyError for a machine that no twin is known of.
        """
        ...

    async def samples(
        self, site: str, asset: str, name: str, *, from_ms: Millis, to_ms: Millis, limit: int
    ) -> Sequence[Sample]:
        """At most `limit` readings of a property with source times in [from_ms, to_ms), oldest first."""
        ...

    async def buckets(
        self, site: str, asset: str, name: str, *, step_ms: int, from_ms: Millis, to_ms: Millis, limit: int
    ) -> Sequence[Bucket]:
        """The same, gathered in steps: whole minutes. Steps without a usable reading are left out."""
        ...

    async def put_agent(
        self,
        site: str,
        name: str,
        *,
        availability: str | None = None,
        status: bytes | None = None,
        received_ms: Millis,
    ) -> None:
        """Keep what an agent says of itself; what is None stays as it was. Raises as `put`."""
        ...

    async def agents(self) -> Sequence[AgentEntry]:
        """All agents, by site and name."""
        ...

    async def put_event(self, site: str, asset: str, document: bytes, received_ms: Millis) -> bool:
        """Store an event, a JSON document; False where it is known. `received_ms` never steps back, as in `put`."""
        ...

    async def events(
        self, *, site: str | None, asset: str | None, from_ms: Millis, to_ms: Millis, limit: int, after: Count = 0
    ) -> Sequence[TwinEvent]:
        """At most `limit` events received in [from_ms, to_ms) and of a sequence above `after`, oldest first.

        None means any.
        """
        ...

    async def tidy(self, now_ms: Millis) -> None:
        """Gather finished minutes and drop what is older, or more, than is to be kept. Call it now and then."""
        ...
