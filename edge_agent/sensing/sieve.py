"""What of one property's readings may reach the twin: in order of source time, beyond the dead band, not too often.

A change of quality passes at once. A reading within the dead band does not pass, unless nothing has for HEARTBEAT_S
or half the staleness deadline: whoever reads the twin may tell its age from it. A reading that comes too soon waits,
and gives way to a younger one; the youngest passes when its time has come.

A source's clock that was set back would make all its readings too old for as long as the step. So when SETTLED
readings in a row, over SETTLED_S or more, have source times that rise among themselves at the pace of ours or slower,
the clock was set back, and they are taken. A backfill after an outage rises faster, and is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edge_agent.sensing.mapping import PropertyMap
from gemel.twin.state import Property

HEARTBEAT_S = 60.0
SETTLED, SETTLED_S, PACE = 5, 10.0, 1.5


class Verdict(StrEnum):
    """What becomes of a reading."""

    PASSES = "passes"
    SET_BACK = "set_back"  # passes, and so does what follows: the source's clock was set back
    UNCHANGED = "unchanged"  # within the dead band
    WAITS = "waits"  # for the maximum rate; a younger one may take its place
    TOO_OLD = "too_old"
    DUPLICATE = "duplicate"


@dataclass(slots=True)
class _Behind:
    """Readings in a row that are older than what stands."""

    first_ms: int
    last_ms: int
    since_s: float
    count: int = 1

    def goes_on(self, time_ms: int, monotonic_s: float) -> bool:
        """Whether one more reading rises at the pace of a clock."""
        pace_ms = PACE * (monotonic_s - self.since_s) * 1000 + 1000
        return self.last_ms < time_ms <= self.first_ms + pace_ms


class Sieve:
    """One property's. `standing` is what the twin has of it."""

    def __init__(self, p: PropertyMap, standing: Property | None) -> None:
        self._band, self._every_s = p.band, 1 / p.max_rate_hz if p.max_rate_hz else 0.0
        self._heartbeat_s = min(HEARTBEAT_S, p.stale_after_s / 2) if p.stale_after_s else HEARTBEAT_S
        self._newest_ms = standing.source_time_ms if standing else -1
        self._passed: Property | None = None
        self._passed_s = float("-inf")
        self._waiting: Property | None = None
        self._behind: _Behind | None = None

    def sift(self, reading: Property, monotonic_s: float, *, says_again: bool = False) -> Verdict:
        """Decide on a reading that came in at `monotonic_s`."""
        time_ms, set_back = reading.source_time_ms, False
        if time_ms == self._newest_ms and not says_again:
            return Verdict.DUPLICATE
        if time_ms < self._newest_ms:
            if not self._was_set_back(time_ms, monotonic_s):
                return Verdict.TOO_OLD
            set_back = True
        self._behind = None
        self._newest_ms = time_ms
        if set_back:
            self._pass(reading, monotonic_s)
            return Verdict.SET_BACK
        return self._hold(reading, monotonic_s, says_again=says_again)

    def due(self, monotonic_s: float) -> Property | None:
        """The reading that waited, if its time has come."""
        if self._waiting is None or monotonic_s < self._passed_s + self._every_s:
            return None
        return self._pass(self._waiting, monotonic_s)

    def doubted(self) -> None:
        """The twin's value was marked bad or stale: the next reading passes, whatever it is, and none from before."""
        self._passed = self._waiting = None

    def _hold(self, reading: Property, monotonic_s: float, *, says_again: bool) -> Verdict:
        if self._passed is None or reading.quality is not self._passed.quality or says_again:
            self._pass(reading, monotonic_s)
            return Verdict.PASSES
        quiet_s = monotonic_s - self._passed_s
        if self._within_band(reading) and quiet_s < self._heartbeat_s:
            self._waiting = None  # it went, and came back
            return Verdict.UNCHANGED
        if quiet_s < self._every_s:
            self._waiting = reading
            return Verdict.WAITS
        self._pass(reading, monotonic_s)
        return Verdict.PASSES

    def _within_band(self, reading: Property) -> bool:
        if not self._band or self._passed is None or reading.value is None or self._passed.value is None:
            return False
        return abs(reading.value - self._passed.value) <= self._band

    def _pass(self, reading: Property, monotonic_s: float) -> Property:
        self._passed, self._passed_s, self._waiting = reading, monotonic_s, None
        return reading

    def _was_set_back(self, time_ms: int, monotonic_s: float) -> bool:
        if self._behind is None or not self._behind.goes_on(time_ms, monotonic_s):
            self._behind = _Behind(time_ms, time_ms, monotonic_s)
            return False
        self._behind.last_ms = time_ms
        self._behind.count += 1
        return self._behind.count >= SETTLED and monotonic_s - self._behind.since_s >= SETTLED_S
