"""What a historian exports, as CSV files with a header line, in UTF-8; columns that nobody asked for are ignored.

    sensors.csv        time,TS1,TS2,…
    inspections.csv    time,cooler,valve,…    the end of a cycle and the class of each head; empty or -1 is unknown

Times are ISO 8601 (UTC where they name no zone) or milliseconds since 1970.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gemel.errors import ConfigError
from gemel.learning.task import UNKNOWN, Head
from gemel.wire.types import Millis

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999
_UNSAID = ("", str(UNKNOWN))


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Millis, dict[str, str]]]:
    """Time and fields of each line. Raises ConfigError naming the file, the line and what is allowed there."""
    for _, time_ms, row in _lines(path, columns):
        yield time_ms, row


def inspections(path: Path, heads: Sequence[Head]) -> Iterator[tuple[Millis, tuple[int, ...]]]:
    """Each line's time and class numbers in the order of the heads, -1 unknown. Raises as `rows`."""
    for where, time_ms, row in _lines(path, [head.name for head in heads]):
        yield time_ms, tuple(_label(row[head.name], head, where) for head in heads)


def time_ms_of(text: str) -> Millis | None:
    """Milliseconds since 1970; None for what is no time from 1970 on."""
    try:
        if text.isascii() and text.isdecimal():
            time_ms = int(text) if len(text) < 20 else -1
        else:
            moment = datetime.fromisoformat(text)
            time_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return time_ms if 0 <= time_ms <= _LATEST_MS else None


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Millis, dict[str, str]]]:
    """Where each line stands, its time and its fields."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            missing = {"time", *columns} - set(reader.fieldnames or ())
            if missing:
                raise ConfigError(str(path), "header", f"also {', '.join(sorted(missing))}")
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if (time_ms := time_ms_of(row["time"])) is None:
                    raise ConfigError(where, "time", "ISO 8601 or milliseconds since 1970")
                yield where, time_ms, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), "export", f"a readable CSV file ({error})") from error


def _label(text: str, head: Head, where: str) -> int:
    if text in _UNSAID:
        return UNKNOWN
    if text not in head.classes:
        raise ConfigError(where, head.name, f"one of {', '.join(head.classes)}, empty or -1")
    return head.classes.index(text)
