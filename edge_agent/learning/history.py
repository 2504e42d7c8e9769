"""Cycles from before the agent came, out of a historian's export.

A folder with sensors.csv and inspections.csv (gemel/learning/exports.py), both ascending in time. The first has one
column for each input of the task, and an empty field is no reading.

Values are in the twin's units (`unit` of the sensor mapping). Readings that the sensor mapping would refuse count as
missing, so that the same rules hold as for live data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.sensing.mapping import PropertyMap, SensorMap
from edge_agent.sensing.values import checked_number
from gemel.learning import exports
from gemel.learning.task import Head
from gemel.twin.window import Collected, Example, Shape, Windower

_ANY = PropertyMap(unit="")


@dataclass(slots=True)
class History:
    """What an export gave."""

    examples: list[Example] = field(default_factory=list)
    readings: int = 0
    refused: int = 0  # readings that the mapping would refuse
    dropped: int = 0  # windows with a gap too long to fill
    unmatched: int = 0  # readings and inspections that belong to no window


def read_history(folder: Path, mapping: SensorMap, heads: tuple[Head, ...], shape: Shape) -> History:
    """Gather the export's windows. Raises ConfigError naming the file, the line and what is allowed there."""
    windower, history = Windower(shape), History()
    ranges = mapping.properties
    inspections = exports.inspections(folder / "inspections.csv", heads)
    pending = next(inspections, None)
    for time_ms, row in exports.rows(folder / "sensors.csv", shape.inputs):
        while pending is not None and pending[0] <= time_ms:
            _take(history, windower.inspect(*pending))
            pending = next(inspections, None)
        values = {}
        for name in shape.inputs:
            if not row[name]:
                continue
            history.readings += 1
            wanted = ranges.get(name, _ANY)
            value, fault = checked_number(_parsed(row[name]), wanted.minimum, wanted.maximum)
            if value is None or fault is not None:
                history.refused += 1
            else:
                values[name] = value
        _take(history, windower.add(time_ms, values))
    while pending is not None:
        _take(history, windower.inspect(*pending))
        pending = next(inspections, None)
    return history


def _take(history: History, collected: Collected) -> None:
    history.examples += collected.examples
    history.dropped += collected.dropped
    history.unmatched += collected.unmatched


def _parsed(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
