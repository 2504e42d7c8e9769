"""Readings gathered into windows of equal length, and windows with labels gathered into examples.

Everything goes by source time. A window has `length` slots of `step_ms`, and a reading falls into the slot whose
beginning is nearest. The first slot begins where the previous window ended, if a reading comes within `max_fill`
slots of that, and otherwise at the first reading. A window closes

- when all its slots are full,
- or at the first reading past its end, or past the end of its cycle as an inspection gave it: then gaps of at most
  `max_fill` slots are filled from the slot before (at the head: from the slot after); with a longer gap the window is
  dropped and counted.

An inspection says what was found at the end of a cycle: its time is the first instant that no longer belongs to the
cycle. It labels the window that ends nearest to it, half a window away at most, whether that window has closed
already or is still filling. Window and labels together are an example. Nothing here grows without bound: one window
fills, and at most `KEPT` closed windows wait for their labels.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What a window looks like: its columns, its number of slots, and the longest gap that may be filled."""

    inputs: tuple[str, ...]
    length: int
    step_ms: int = 1000
    max_fill: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One closed window: float32 (length, inputs), all finite.

    `filled` counts the values that were made up, `uncertain` those that their source itself calls so.
    """

    start_ms: int
    end_ms: int
    values: NDArray[np.float32]
    filled: int
    uncertain: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A window whose outcome is known. `labels`: class numbers in the order of the task's heads, -1 unknown."""

    window: Window
    labels: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Collected:
    """What one reading or inspection brought about."""

    windows: Sequence[Window] = ()
    examples: Sequence[Example] = ()
    dropped: int = 0  # windows with a gap too long to fill
    unmatched: int = 0  # readings or inspections that belong to no window any more


class Windower:
    """Collects the readings of one machine. Not thread-safe; deterministic in the order of calls."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._columns = {name: column for column, name in enumerate(shape.inputs)}
        self._open: _Open | None = None
        self._previous_end_ms: int | None = None
        self._closed: deque[Window] = deque(maxlen=KEPT)

    def add(self, time_ms: int, values: Mapping[str, float], uncertain: Collection[str] = ()) -> Collected:
        """Readings of one instant, some of them `uncertain`; names that are no input of the window are ignored."""
        wanted = {self._columns[name]: value for name, value in values.items() if name in self._columns}
        if not wanted:
            return Collected()
        collected = Collected()
        if self._open is not None and self._open.ends_before(time_ms):
            collected = self._close(self._open)
        if self._open is None:
            self._open = _Open(self.shape, self._start_for(time_ms))
        if not self._open.put(time_ms, wanted):
            collected.unmatched += 1
            return collected
        self._open.uncertain += sum(name in self._columns for name in uncertain)
        if self._open.full:
            finished = self._close(self._open)
            collected.windows = (*collected.windows, *finished.windows)
            collected.examples = (*collected.examples, *finished.examples)
        return collected

    def begin_anew(self) -> Collected:
        """Let the window that is filling go: the machine's clock was set back, so nothing would reach it."""
        collected = Collected(dropped=0 if self._open is None else 1)
        self._open = self._previous_end_ms = None
        return collected

    def inspect(self, time_ms: int, labels: tuple[int, ...]) -> Collected:
        """The outcome of the cycle that ended at `time_ms`."""
        reach_ms = self.shape.length * self.shape.step_ms // 2
        ends = [window.end_ms for window in self._closed] + ([self._open.full_end_ms] if self._open else [])
        nearest = min(ends, key=lambda end_ms: abs(end_ms - time_ms), default=None)
        if nearest is None or abs(nearest - time_ms) > reach_ms:
            return Collected(unmatched=1)
        if self._open is not None and nearest == self._open.full_end_ms:
            self._open.labels = labels
            self._open.end_ms = min(self._open.full_end_ms, time_ms)
            return Collected()
        window = next(window for window in self._closed if window.end_ms == nearest)
        self._closed.remove(window)
        return Collected(examples=(Example(window, labels),))

    def _start_for(self, time_ms: int) -> int:
        """Go on from the previous window, unless there was a pause or the clock went back."""
        if self._previous_end_ms is not None:
            gap_ms = time_ms - self._previous_end_ms
            if -self.shape.step_ms // 2 <= gap_ms <= self.shape.max_fill * self.shape.step_ms:
                return self._previous_end_ms
        return time_ms

    def _close(self, draft: _Open) -> Collected:
        self._open, self._previous_end_ms = None, draft.end_ms
        window = draft.finish()
        if window is None:
            return Collected(dropped=1)
        if draft.labels is None:
            self._closed.append(window)
            return Collected(windows=(window,))
        return Collected(windows=(window,), examples=(Example(window, draft.labels),))


class _Open:
    """The window that is filling."""

    def __init__(self, shape: Shape, start_ms: int) -> None:
        self._shape = shape
        self._values = np.full((shape.length, len(shape.inputs)), np.nan, np.float32)
        self._start_ms = start_ms
        self._missing = self._values.size
        self.full_end_ms = start_ms + shape.length * shape.step_ms
        self.end_ms = self.full_end_ms  # earlier, where an inspection ended the cycle
        self.labels: tuple[int, ...] | None = None
        self.uncertain = 0

    @property
    def full(self) -> bool:
        """Every slot of every input has its reading."""
        return self._missing == 0

    def ends_before(self, time_ms: int) -> bool:
        """Whether a reading of that instant belongs to a later window."""
        return time_ms + self._shape.step_ms // 2 >= self.end_ms

    def put(self, time_ms: int, values: Mapping[int, float]) -> bool:
        """False for readings from before the window. A second reading in a slot replaces the first."""
        slot = (time_ms - self._start_ms + self._shape.step_ms // 2) // self._shape.step_ms
        if slot < 0:
            return False
        for column, value in values.items():
            self._missing -= bool(np.isnan(self._values[slot, column]))
            self._values[slot, column] = value
        return True

    def finish(self) -> Window | None:
        """The window with its gaps filled, or None where one is too long."""
        filled = self._missing
        for column in self._values.T if filled else ():
            if not _fill(column, self._shape.max_fill):
                return None
        return Window(self._start_ms, self.end_ms, self._values, filled, self.uncertain)


def _fill(column: NDArray[np.float32], max_fill: int) -> bool:
    """Fill gaps in place from the value before, at the head from the value after. False where one is too long."""
    present = np.flatnonzero(~np.isnan(column))
    if present.size == 0:
        return False
    if present[0] > max_fill or any(
        after - before - 1 > max_fill for before, after in itertools.pairwise([*present, column.size])
    ):
        return False
    source = np.maximum.accumulate(np.where(np.isnan(column), 0, np.arange(column.size)))
    column[:] = column[np.maximum(source, present[0])]
    return True
