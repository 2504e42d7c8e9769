"""Single values: numbers, times, qualities and classes as plants write them, and what can be wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from edge_agent.sensing.mapping import HUGE, PropertyMap
from edge_agent.sensing.units import SAME, Line, conversion
from gemel.learning.task import UNKNOWN, Head
from gemel.twin.state import Quality

ABSENT: Final = object()
_LATEST_MS = 2**53
_UNSAID: Final = (None, "", UNKNOWN, str(UNKNOWN))
_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DIGITS: Final = 12  # of a converted value: 158 degF is 70 degC, not 70.00000000000004
_GOOD_CODE, _UNCERTAIN_CODE, _STALE_CODE = 192, 64, 500  # OPC's, and Sparkplug's for stale


class Fault(StrEnum):
    """Why a reading, or a whole message, does not count."""

    NOT_A_NUMBER = "not_a_number"
    NAN = "nan"
    OUT_OF_RANGE = "out_of_range"
    HUGE = "huge"
    SAID_BAD = "said_bad"  # the source itself says that the value is bad or stale
    UNKNOWN_TOPIC = "unknown_topic"
    UNKNOWN_PROPERTY = "unknown_property"  # the topic names a property that the mapping does not have
    UNKNOWN_CLASS = "unknown_class"  # an inspection names a class that the task does not have
    MALFORMED = "malformed"
    NO_TIME = "no_time"
    IN_FUTURE = "in_future"
    TOO_OLD = "too_old"  # a younger reading stands
    DUPLICATE = "duplicate"  # a reading of this source time stands
    BAD_NAME = "bad_name"  # a topic names an asset by what cannot be a topic level of Gemel
    OVER_BOUND = "over_bound"  # one asset, edge node or metric more than is kept
    NOT_BORN = "not_born"  # Sparkplug data without the birth that says what it means
    SEQUENCE_GAP = "sequence_gap"  # Sparkplug messages are missing
    OLD_DEATH = "old_death"  # the death of a Sparkplug session that a younger one has followed


@dataclass(frozen=True, slots=True)
class Gauge:
    """How one property is read, ready for use."""

    name: str
    unit: str
    path: tuple[str, ...]
    quality_path: tuple[str, ...]
    line: Line
    minimum: float
    maximum: float

    @classmethod
    def of(cls, name: str, p: PropertyMap, path: str) -> Self:
        """From a mapping that was checked; `path` where the mapping names none."""
        line = conversion(p.source_unit or p.unit, p.unit)
        quality_path = tuple(p.quality.split(".")) if p.quality else ()
        return cls(name, p.unit, tuple((p.path or path).split(".")), quality_path, line, p.minimum, p.maximum)

    def read(self, given: Any) -> tuple[float | None, Fault | None]:
        """The value in the twin's unit, as far as it is one, and what is wrong with it."""
        return checked_number(given, self.minimum, self.maximum, self.line)


def checked_number(
    given: Any, minimum: float, maximum: float, line: Line = SAME
) -> tuple[float | None, Fault | None]:
    """The converted value, as far as it is one, and what is wrong with it. Limits are in the unit converted to."""
    if isinstance(given, str) and given.strip().lower() == "nan":
        return None, Fault.NAN
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None, Fault.NOT_A_NUMBER
    if isinstance(given, float) and math.isnan(given):
        return None, Fault.NAN
    if not -HUGE <= given <= HUGE:
        return None, Fault.HUGE
    value = given * line.factor + line.offset
    if line != SAME:
        value = float(f"{value:.{_DIGITS}g}")
    return value, None if minimum <= value <= maximum else Fault.OUT_OF_RANGE


def plain_number(payload: bytes) -> Any:
    """The number that a text payload is; what is none comes back as it is, for `Gauge.read` to say why.

    Raises UnicodeDecodeError where it is not UTF-8.
    """
    text = payload.strip()
    return float(text) if _NUMBER.fullmatch(text) else payload.decode()


def at(document: Any, path: tuple[str, ...]) -> Any:
    """What stands at `path` in objects and lists, or ABSENT."""
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and len(step) < 10 and int(step) < len(document):
            document = document[int(step)]
        else:
            return ABSENT
    return document


def source_time_ms(given: Any) -> int | None:
    """Milliseconds since 1970 from ISO 8601 (UTC where it names no zone) or from a number of milliseconds."""
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given)
            given = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
        except (ValueError, OverflowError):
            return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    if isinstance(given, float) and not math.isfinite(given):
        return None
    return round(given) if 0 <= given <= _LATEST_MS else None


def said_quality(given: Any) -> Quality:
    """What a source says of its own value: one of our words, or OPC's number. What is not understood is uncertain."""
    if given is ABSENT:
        return Quality.GOOD
    if isinstance(given, str) and given.lower() in set(Quality):
        return Quality(given.lower())
    if isinstance(given, int) and not isinstance(given, bool):
        return quality_of_code(given)
    return Quality.UNCERTAIN


def quality_of_code(code: int) -> Quality:
    """192 to 255 is good, 64 to 191 uncertain, 500 stale, everything else bad."""
    if code == _STALE_CODE:
        return Quality.STALE
    if _GOOD_CODE <= code < 256:
        return Quality.GOOD
    return Quality.UNCERTAIN if _UNCERTAIN_CODE <= code < _GOOD_CODE else Quality.BAD


def class_numbers(document: Mapping[str, Any], heads: tuple[Head, ...]) -> tuple[tuple[int, ...], bool]:
    """The class numbers that an inspection names, and whether all that it says is a class of the task."""
    labels, known = [], True
    for head in heads:
        given = document.get(head.name)
        if isinstance(given, str) and given in head.classes:
            labels.append(head.classes.index(given))
        else:
            labels.append(UNKNOWN)
            known = known and given in _UNSAID
    return tuple(labels), known
