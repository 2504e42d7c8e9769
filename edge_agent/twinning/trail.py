"""What became of a twin since it was last published: a revision for each interval, whatever disk and link do.

The loop that publishes a twin is held up by a broker that does not answer and by a disk that takes long. The twin
goes on changing; what it was meanwhile is history, and must not depend on how soon that loop comes round again.
"""

from __future__ import annotations

from collections import deque

from msgspec.structs import replace

from gemel.twin.backfill import Kept

MOST = 1000  # revisions; beyond that the newest takes the place of the one before it


class Trail:
    """Of each interval the last revision, and all events."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._revisions: deque[Kept] = deque()
        self._begun_s = float("-inf")  # the interval of the newest

    def add(self, kept: Kept, now_s: float) -> None:
        """The twin has become this, at monotonic time `now_s`."""
        if self._revisions and (now_s - self._begun_s < self._interval_s or len(self._revisions) == MOST):
            self._revisions[-1] = replace(kept, events=(*self._revisions[-1].events, *kept.events))
            return
        self._revisions.append(kept)
        self._begun_s = now_s

    def published(self, version: int) -> None:
        """Whoever reads the twin knows it up to this version."""
        while self._revisions and self._revisions[0].twin.version <= version:
            self._revisions.popleft()

    def take(self) -> tuple[Kept, ...]:
        """All that nobody knows yet, oldest first; it is the caller's from now on."""
        taken = tuple(self._revisions)
        self._revisions.clear()
        return taken
