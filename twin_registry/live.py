"""What happens, as it happens: Server-Sent Events, as browsers and curl read them.

    event: twin        a twin as it stands: first each that was asked for, later each that has changed
    event: standing    everything that stands has been told; what follows is change
    event: alert       an alert was raised or cleared
    : still here       a comment, where nothing has happened for a while

From `standing` on every event has an id, and whoever comes again with the last one (Last-Event-ID) gets what has
happened since, across restarts of the registry: each twin that has changed, once, and every alert. An id that the
registry does not know, because its store was replaced, begins at the beginning. A twin is told again, as stale,
when its agent goes offline. A slow reader costs no memory: it gets each twin as it stands when its turn has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client import Gauge

from gemel.ports import TwinEvent
from twin_registry.library import LOOKED_AT_ONCE, Change, Granted, Library, Shown

EVERY_S: Final = 0.1  # changes that come closer together reach a reader as one
AT_ONCE: Final = 500
HEARTBEAT_S: Final = 15.0
MAX_READERS: Final = 256


class Standing(msgspec.Struct, frozen=True):
    """The sequence up to which everything has been told."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader wants to hear of, and may."""

    twin: Callable[[Shown], bool]
    alert: Granted


class Live:
    """Everybody who is listening."""

    def __init__(self, library: Library, shown: Gauge | None = None) -> None:
        """`shown`: the metric that tells how many they are."""
        self._library, self._metric, self._readers = library, shown, 0

    @property
    def full(self) -> bool:
        """Whether one more is too many."""
        return self._readers >= MAX_READERS

    async def events(self, wish: Wish, after: int | None) -> AsyncIterator[bytes]:
        """The stream: what stands, or what has happened since `after`; then everything that happens."""
        self._count(1)
        try:
            standing, last = await self._library.standing()
            if after is None or after > last:
                async for event in _told(wish, standing):
                    yield event
                yield _event("standing", Standing(last), last)
                after = last
            async for event in self._changes(wish, after):
                yield event
        finally:
            self._count(-1)

    async def _changes(self, wish: Wish, after: int) -> AsyncIterator[bytes]:
        while True:
            try:
                changes = await asyncio.wait_for(self._library.changes(after, AT_ONCE), HEARTBEAT_S)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            for change in changes:
                for event in _wanted(wish, change):
                    yield event
            after = changes[-1].sequence
            if len(changes) < AT_ONCE:
                await asyncio.sleep(EVERY_S)

    def _count(self, more: int) -> None:
        self._readers += more
        if self._metric is not None:
            self._metric.set(self._readers)


def _wanted(wish: Wish, change: Change) -> Iterator[bytes]:
    told = [
        one for one in change.told if (wish.twin(one) if isinstance(one, Shown) else wish.alert(one.site, one.asset))
    ]
    for number, one in enumerate(told, 1):
        # The id comes with the last of them: who leaves before that hears all of them again.
        sequence = change.sequence if number == len(told) else None
        yield _event("twin" if isinstance(one, Shown) else "alert", one, sequence)


async def _told(wish: Wish, standing: Iterable[Shown]) -> AsyncIterator[bytes]:
    for number, shown in enumerate(standing, 1):
        if wish.twin(shown):
            yield _event("twin", shown)
        if number % LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)  # others have their turn


def _event(name: str, data: Shown | TwinEvent | Standing, sequence: int | None = None) -> bytes:
    numbered = b"" if sequence is None else b"id: %d\n" % sequence
    return b"%bevent: %b\ndata: %b\n\n" % (numbered, name.encode(), msgspec.json.encode(data))
