"""What plants say of one asset, on its way into the asset's twin.

Age is measured by a clock that never steps: neither our wall clock nor the machine's makes a value stale or keeps one
from becoming it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_agent.sensing.decoding import Decoded
from edge_agent.sensing.mapping import PropertyMap
from edge_agent.sensing.sieve import Sieve, Verdict
from edge_agent.sensing.values import Fault
from gemel.twin.state import Property, Quality, Twin, distrust, hold, mark_stale

_REFUSED: Final = {Verdict.TOO_OLD: Fault.TOO_OLD, Verdict.DUPLICATE: Fault.DUPLICATE}
_PASSED: Final = (Verdict.PASSES, Verdict.SET_BACK)
_log = structlog.get_logger("gemel.agent.intake")

Count = Callable[[Verdict | Fault], None]


@dataclass(slots=True)
class Values:
    """Readings of one instant that may enter a training window; some are `uncertain` by their source's word."""

    by_name: dict[str, float] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Taken:
    """What a message did: the twin after it, and what windows may have of it, by source time."""

    twin: Twin
    values: dict[int, Values] = field(default_factory=dict)
    clock_set_back: bool = False


class Intake:
    """One asset's. `count` hears what became of each reading."""

    def __init__(
        self, properties: Mapping[str, PropertyMap], twin: Twin, now_ms: int, monotonic_s: float, count: Count
    ):
        self._properties, self._count = properties, count
        self._sieves = {name: Sieve(p, twin.properties.get(name)) for name, p in properties.items()}
        self._heard_s = {  # of what was heard before a restart our wall clock is all there is
            name: monotonic_s - max(0, now_ms - standing.ingest_time_ms) / 1000
            for name, standing in twin.properties.items()
        }

    def take(self, twin: Twin, decoded: Decoded, now_ms: int, monotonic_s: float) -> Taken:
        """The twin after a message, and what windows may have of it: late readings too, bad ones not.

        A dead band or a maximum rate keeps a reading from the twin, never from the windows.
        """
        taken = Taken(distrust(twin, decoded.suspects, now_ms))
        self._doubt(decoded.suspects)
        if decoded.silenced:
            taken.twin = mark_stale(taken.twin, decoded.silenced)
            self._doubt(decoded.silenced)
        for name in decoded.suspects:
            self._heard_s[name] = monotonic_s
        passed: dict[str, Property] = {}
        set_back = []
        for reading in decoded.readings:
            name, came = reading.name, reading.property
            verdict = self._sieves[name].sift(came, monotonic_s, says_again=decoded.says_again)
            if verdict not in _REFUSED:
                self._heard_s[name] = monotonic_s
            if verdict in _PASSED:
                passed[name] = came
            if verdict is Verdict.SET_BACK:
                set_back.append(name)
            self._count(reading.fault or _REFUSED.get(verdict) or verdict)
            if reading.fault is None and came.value is not None and verdict is not Verdict.DUPLICATE:
                values = taken.values.setdefault(came.source_time_ms, Values())
                values.by_name[name] = came.value
                if came.quality is Quality.UNCERTAIN:
                    values.uncertain.add(name)
        taken.twin = hold(taken.twin, passed)
        if set_back:
            taken.clock_set_back = True
            _log.warning("the clock of a source was set back", asset=twin.asset, properties=set_back)
        return taken

    def tend(self, twin: Twin, monotonic_s: float) -> Twin:
        """The twin after what time alone does: readings that waited pass, and what is overdue is stale."""
        due = {name: sieve.due(monotonic_s) for name, sieve in self._sieves.items()}
        twin = hold(twin, {name: waited for name, waited in due.items() if waited is not None})
        overdue = [
            name
            for name, heard_s in self._heard_s.items()
            if (p := self._properties.get(name)) is not None
            and p.stale_after_s is not None
            and monotonic_s - heard_s > p.stale_after_s
        ]
        aged = mark_stale(twin, overdue)
        if aged is not twin:
            self._doubt(overdue)
        return aged

    def _doubt(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._sieves:
                self._sieves[name].doubted()
