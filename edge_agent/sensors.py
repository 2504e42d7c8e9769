"""What the plant publishes, and what it means: from topics and payloads to readings of the twin's properties. Pure.

The mapping is a TOML file:

    qos = 1                                   # of the subscriptions; default 1
    max_ahead_s = 86400                       # a source time further ahead of our clock is refused
    subscribe = ["plant/rig1/#"]              # optional; default: the topics below

    [[source]]
    topic = "plant/rig1/sensors"              # `+` stands for any one level
    time = "time"                             # path to the source time: ISO 8601, or milliseconds since 1970

    [source.properties.TS1]                   # the property's name in the twin
    path = "TS1"                              # default: its name; `a.b.0` reaches into objects and lists
    unit = "degC"
    minimum = 0                               # a reading outside is out_of_range
    maximum = 200
    stale_after_s = 10                        # optional

    [inspection]                              # optional: what was found after a cycle
    topic = "plant/rig1/inspection"
    time = "time"                             # the first instant that no longer belongs to the cycle

An inspection names the class of each head of the task (`"cooler": "reduced"`); absent, null or -1 is unknown.

Decoding is total: whatever bytes come, the result is readings, faults or both, and never an exception.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec

from gemel.errors import ConfigError
from gemel.learning.task import UNKNOWN, Head
from gemel.twin.state import Name, Property, Quality

MAX_PAYLOAD_BYTES = 64 * 1024
HUGE = 1e12  # no physical quantity in an engineer's unit reaches it; beyond, float32 windows lose their meaning
_LATEST_MS = 2**53


class Fault(StrEnum):
    """Why a reading, or a whole message, does not count."""

    NOT_A_NUMBER = "not_a_number"
    NAN = "nan"
    OUT_OF_RANGE = "out_of_range"
    HUGE = "huge"
    UNKNOWN_TOPIC = "unknown_topic"
    UNKNOWN_CLASS = "unknown_class"  # an inspection names a class that the task does not have
    MALFORMED = "malformed"
    NO_TIME = "no_time"
    IN_FUTURE = "in_future"
    TOO_OLD = "too_old"  # a younger reading stands
    DUPLICATE = "duplicate"  # a reading of this source time stands


class PropertyMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a property's value stands, its unit and what it may be."""

    unit: str
    path: str = ""
    minimum: float = -HUGE
    maximum: float = HUGE
    stale_after_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of message that carries readings of one instant."""

    topic: Annotated[str, msgspec.Meta(min_length=1)]
    properties: Annotated[dict[Name, PropertyMap], msgspec.Meta(min_length=1)]
    time: str = "time"


class InspectionMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the outcome of a cycle comes from."""

    topic: Annotated[str, msgspec.Meta(min_length=1)]
    time: str = "time"


class SensorMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole mapping file."""

    source: Annotated[tuple[Source, ...], msgspec.Meta(min_length=1)]
    inspection: InspectionMap | None = None
    subscribe: tuple[str, ...] = ()
    qos: Literal[0, 1] = 1
    max_ahead_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0

    @property
    def filters(self) -> tuple[str, ...]:
        """The topic filters to subscribe to."""
        inspection = (self.inspection.topic,) if self.inspection else ()
        return self.subscribe or tuple(dict.fromkeys([*(source.topic for source in self.source), *inspection]))

    @property
    def units(self) -> dict[str, str]:
        """Property → unit."""
        return {name: p.unit for source in self.source for name, p in source.properties.items()}

    @property
    def stale_after_ms(self) -> dict[str, int]:
        """Property → deadline, of those that have one."""
        return {
            name: round(p.stale_after_s * 1000)
            for source in self.source
            for name, p in source.properties.items()
            if p.stale_after_s is not None
        }


def load_sensor_map(data: bytes, source: str) -> SensorMap:
    """Read the mapping file. Raises ConfigError naming the file and the key."""
    try:
        mapping = msgspec.toml.decode(data, type=SensorMap)
    except msgspec.DecodeError as error:
        raise ConfigError(source, "sensor mapping", str(error)) from error
    names = [name for one in mapping.source for name in one.properties]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(source, f"source.properties.{twice[0]}", "each property once, in one source")
    for one in mapping.source:
        for name, p in one.properties.items():
            if not p.minimum < p.maximum:
                raise ConfigError(source, f"source.properties.{name}.minimum", f"below the maximum, {p.maximum}")
    for topic in (
        *(one.topic for one in mapping.source),
        *((mapping.inspection.topic,) if mapping.inspection else ()),
    ):
        if "#" in topic:
            raise ConfigError(source, "topic", f"{topic!r}: levels and `+`; `#` may stand in `subscribe` only")
    return mapping


@dataclass(frozen=True, slots=True)
class Reading:
    """One property's newest reading; with a fault its quality is bad."""

    name: str
    property: Property
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The outcome of a cycle: class numbers in the order of the task's heads, -1 unknown."""

    time_ms: int
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a message says. `fault` concerns it as a whole; `suspects` (property → unit) are then not to be trusted.

    All readings have the same source time.
    """

    readings: tuple[Reading, ...] = ()
    inspection: Inspection | None = None
    fault: Fault | None = None
    suspects: Mapping[str, str] = field(default_factory=dict)


class Decoder:
    """Decodes messages by a mapping; keeps nothing between calls."""

    def __init__(self, mapping: SensorMap, heads: tuple[Head, ...]) -> None:
        self._mapping = mapping
        self._heads = heads
        self._sources = [(_pattern(source.topic), source) for source in mapping.source]
        self._inspection = _pattern(mapping.inspection.topic) if mapping.inspection else None

    def decode(self, topic: str, payload: bytes, now_ms: int) -> Decoded:
        """What `payload` says; `now_ms` is our clock, the ingest time."""
        for pattern, source in self._sources:
            if pattern.fullmatch(topic):
                return self._readings(source, payload, now_ms)
        if self._inspection and self._mapping.inspection and self._inspection.fullmatch(topic):
            return self._outcome(self._mapping.inspection, payload, now_ms)
        return Decoded(fault=Fault.UNKNOWN_TOPIC)

    def _readings(self, source: Source, payload: bytes, now_ms: int) -> Decoded:
        document, time_ms, fault = self._open(payload, source.time, now_ms)
        if fault is not None:
            return Decoded(fault=fault, suspects={name: p.unit for name, p in source.properties.items()})
        readings = []
        for name, wanted in source.properties.items():
            given = _at(document, wanted.path or name)
            if given is not _ABSENT:  # sources that report by exception leave out what did not change
                value, wrong = checked_number(given, wanted)
                quality = Quality.GOOD if wrong is None else Quality.BAD
                readings.append(Reading(name, Property(value, wanted.unit, time_ms, now_ms, quality), wrong))
        return Decoded(tuple(readings))

    def _outcome(self, wanted: InspectionMap, payload: bytes, now_ms: int) -> Decoded:
        document, time_ms, fault = self._open(payload, wanted.time, now_ms)
        if fault is not None:
            return Decoded(fault=fault)
        labels, known = class_numbers(document, self._heads)
        return Decoded(inspection=Inspection(time_ms, labels), fault=None if known else Fault.UNKNOWN_CLASS)

    def _open(self, payload: bytes, time_path: str, now_ms: int) -> tuple[Any, int, Fault | None]:
        """The document and its source time, or the fault that the message as a whole has."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None, 0, Fault.HUGE
        try:
            document = json.loads(payload)  # the standard library's, because it tells NaN from malformed
        except (ValueError, RecursionError):
            return None, 0, Fault.MALFORMED
        if not isinstance(document, dict):
            return None, 0, Fault.MALFORMED
        time_ms = source_time_ms(_at(document, time_path))
        if time_ms is None:
            return None, 0, Fault.NO_TIME
        if time_ms > now_ms + self._mapping.max_ahead_s * 1000:
            return None, 0, Fault.IN_FUTURE  # it would shut out every true reading until then
        return document, time_ms, None


_ABSENT: Final = object()
_UNSAID: Final = (None, "", UNKNOWN, str(UNKNOWN))


def _pattern(topic: str) -> re.Pattern[str]:
    return re.compile("/".join("[^/]+" if level == "+" else re.escape(level) for level in topic.split("/")))


def _at(document: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return _ABSENT
    return document


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


def checked_number(given: Any, wanted: PropertyMap) -> tuple[float | None, Fault | None]:
    """The value, as far as it is one, and what is wrong with it."""
    if isinstance(given, str) and given.strip().lower() == "nan":
        return None, Fault.NAN
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None, Fault.NOT_A_NUMBER
    if isinstance(given, float) and math.isnan(given):
        return None, Fault.NAN
    if not -HUGE <= given <= HUGE:
        return None, Fault.HUGE
    value = float(given)
    return value, None if wanted.minimum <= value <= wanted.maximum else Fault.OUT_OF_RANGE


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
