"""Where a series of numbers changes, for the worker process: river's import takes 1.5 s and 108 MB.

ADWIN (Bifet and Gavaldà, SDM 2007) says that there is a change; the split of what it saw that explains it best says
when. A series is looked through anew each time, so nothing is kept between calls and a restart changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLIP = 6.0  # standard deviations: one wild sample is no change
SHORTEST = 5  # samples on either side of a change
REFERENCE = 20  # samples that say what is usual
ERROR_UNIT = 2.0  # measured: sees a change sooner than 0 and 1 do, and raises no false alarm


@dataclass(frozen=True, slots=True)
class Series:
    """One stream. `scale`: the least standard deviation that is taken for real, or None for errors (0 and 1).

    `least`: how strong a change must be, in standard deviations; of errors in shares, and only to more.
    """

    values: tuple[float, ...]
    scale: float | None
    least: float


def find_changes(series: dict[str, Series], delta: float, grace: int) -> dict[str, tuple[int, int]]:
    """Name → index of the first sample before the change, and of the first after it, for each series that has one."""
    found = {name: _first_change(one, delta, grace) for name, one in series.items()}
    return {name: indices for name, indices in found.items() if indices is not None}


def _first_change(series: Series, delta: float, grace: int) -> tuple[int, int] | None:
    from river.drift import ADWIN  # noqa: PLC0415  only where drift is looked for

    if len(series.values) < 2 * SHORTEST:
        return None
    values, unit = _standardised(series)
    detector = ADWIN(delta=delta, clock=1, min_window_length=SHORTEST, grace_period=grace)
    begin = 0
    for index, value in enumerate(values):
        detector.update(float(value))
        if not detector.drift_detected or index + 1 - begin < 2 * SHORTEST:
            continue
        split = begin + _split(values[begin : index + 1])
        rise = float(values[split : index + 1].mean() - values[begin:split].mean()) / unit
        if (rise if series.scale is None else abs(rise)) >= series.least:
            return begin, split
        if series.scale is None and rise < 0:
            begin = split  # fewer errors are the new normal
    return None


def _standardised(series: Series) -> tuple[NDArray[np.float64], float]:
    """The values in units of what is usual, for ADWIN's bound expects numbers of the order of one; and that unit."""
    values = np.array(series.values, np.float64)
    if series.scale is None:
        return values * ERROR_UNIT, ERROR_UNIT
    usual = values[:REFERENCE]
    return np.clip((values - usual.mean()) / max(usual.std(), series.scale), -CLIP, CLIP), 1.0


def _split(values: NDArray[np.float64]) -> int:
    """The index that divides the values into the two most different parts (the CUSUM statistic)."""
    count = len(values)
    index = np.arange(SHORTEST, count - SHORTEST + 1)
    sums = np.cumsum(values)
    difference = sums[index - 1] / index - (sums[-1] - sums[index - 1]) / (count - index)
    return int(index[np.argmax(np.abs(difference) * np.sqrt(index * (count - index)))])
