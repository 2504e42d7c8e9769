"""Cycles from before the agent came, out of a historian's export.

A folder with two CSV files, each with a header line, UTF-8, ascending in time; further columns are ignored:

    sensors.csv        time,TS1,TS2,…         one column for each input of the task; an empty field is no reading
    inspections.csv    time,cooler,valve,…    the end of a cycle and the class of each head; empty or -1 is unknown

Values are in the twin's units (`unit` of the sensor mapping).
Times are ISO 8601 (UTC where they name no zone) or milliseconds since 1970. Readings that the sensor mapping would
refuse count as missing, so that the same rules hold as for live data.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.sensing.mapping import PropertyMap, SensorMap
from edge_agent.sensing.values import checked_number, class_numbers, source_time_ms
from gemel.errors import ConfigError
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
    inspections = _inspections(folder / "inspections.csv", heads)
    pending = next(inspections, None)
    for time_ms, row in _rows(folder / "sensors.csv", shape.inputs):
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


def _inspections(path: Path, heads: tuple[Head, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    for time_ms, row in _rows(path, tuple(head.name for head in heads)):
        labels, known = class_numbers(row, heads)
        if not known:
            classes = "; ".join(f"{head.name}: {', '.join(head.classes)}" for head in heads)
            raise ConfigError(str(path), f"inspection of {row['time']}", f"names of classes ({classes}), empty or -1")
        yield time_ms, labels


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Source time and fields of each line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            missing = {"time", *columns} - set(reader.fieldnames or ())
            if missing:
                raise ConfigError(str(path), "header", f"also {', '.join(sorted(missing))}")
            for row in reader:
                text = row["time"]
                time_ms = source_time_ms(int(text) if text.isdecimal() and len(text) < 20 else text)
                if time_ms is None:
                    raise ConfigError(
                        str(path), f"time in line {reader.line_num}", "ISO 8601 or milliseconds since 1970"
                    )
                yield time_ms, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), "history", f"a readable CSV file ({error})") from error


def _parsed(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
