"""What inspections found, from a CSV file of the form that `edge-agent import-history` takes:

    time,cooler,valve,…      the end of a cycle and the class of each head; empty or -1 is unknown

Times are ISO 8601 (UTC where they name no zone) or milliseconds since 1970; further columns are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gemel.errors import ConfigError
from gemel.learning.task import UNKNOWN, Head
from gemel.wire.types import Millis
from validator.what_if import Inspection

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999
_UNSAID = ("", "-1")


def read_inspections(path: Path, heads: Sequence[Head]) -> list[Inspection]:
    """Every line of the file. Raises ConfigError naming the file, the line and what is allowed there."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            missing = {"time", *(head.name for head in heads)} - set(reader.fieldnames or ())
            if missing:
                raise ConfigError(str(path), "header", f"also {', '.join(sorted(missing))}")
            return [_inspection(row, heads, f"{path}: line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), "--inspections", f"a readable CSV file ({error})") from error


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


def _inspection(row: dict[str, str], heads: Sequence[Head], where: str) -> Inspection:
    time_ms = time_ms_of(row["time"])
    if time_ms is None:
        raise ConfigError(where, "time", "ISO 8601 or milliseconds since 1970")
    return time_ms, tuple(_label(row[head.name], head, where) for head in heads)


def _label(text: str, head: Head, where: str) -> int:
    if text in _UNSAID:
        return UNKNOWN
    if text not in head.classes:
        raise ConfigError(where, head.name, f"one of {', '.join(head.classes)}, empty or -1")
    return head.classes.index(text)
