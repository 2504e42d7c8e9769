"""From topics and payloads to readings of twins' properties, by the mapping file (edge_agent/sensing/mapping.py).

Decoding is total: whatever bytes come, the result is readings, faults or both, and never an exception. No I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from edge_agent.sensing.mapping import InspectionMap, SensorMap, Source, topic_pattern
from edge_agent.sensing.values import (
    ABSENT,
    Fault,
    Gauge,
    at,
    class_numbers,
    plain_number,
    said_quality,
    source_time_ms,
)
from gemel.learning.task import Head
from gemel.twin.state import Property, Quality

MAX_PAYLOAD_BYTES = 64 * 1024
_TOPICS_REMEMBERED = 4096
_ASSET = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # as gemel.wire.topics.name


@dataclass(frozen=True, slots=True)
class Reading:
    """One property's newest reading; with a fault its quality is bad or stale."""

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
    """What a message says of one asset.

    `fault` concerns it as a whole, or those properties (property → unit) that are `suspects`: not to be trusted.
    `silenced` are properties whose source is known to have died. What `says_again` counts against a standing value of
    the same source time, too.
    """

    asset: str
    readings: tuple[Reading, ...] = ()
    inspection: Inspection | None = None
    fault: Fault | None = None
    suspects: Mapping[str, str] = field(default_factory=dict)
    silenced: tuple[str, ...] = ()
    says_again: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is to be published."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message brought: of each asset what it says, and what is to be asked for."""

    decoded: tuple[Decoded, ...] = ()
    command: Message | None = None


@dataclass(frozen=True, slots=True)
class _Reader:
    """A source, ready for use."""

    pattern: re.Pattern[str]
    source: Source
    time_path: tuple[str, ...]  # empty where there is no source time
    gauges: Mapping[str, Gauge]  # by what the plant calls them
    units: Mapping[str, str]

    @staticmethod
    def of(source: Source) -> _Reader:
        path = "value" if source.names_property else ""
        return _Reader(
            topic_pattern(source.topic),
            source,
            tuple(source.time.split(".")) if source.time and source.payload == "json" else (),
            {p.called or name: Gauge.of(name, p, path or name) for name, p in source.properties.items()},
            {name: p.unit for name, p in source.properties.items()},
        )


@dataclass(frozen=True, slots=True)
class _Route:
    """What a topic says before its payload is looked at."""

    asset: str
    gauges: tuple[Gauge, ...] = ()
    reader: _Reader | None = None
    inspection: InspectionMap | None = None
    fault: Fault | None = None


class Decoder:
    """Decodes messages by a mapping; keeps nothing between calls but the routes of topics and its last arrival time.

    `asset` is the agent's own: what topics without `{asset}` speak of.
    """

    def __init__(self, mapping: SensorMap, heads: tuple[Head, ...], asset: str) -> None:
        self._mapping, self._heads, self._own = mapping, heads, asset
        self._readers = [_Reader.of(source) for source in mapping.source]
        self._inspection = topic_pattern(mapping.inspection.topic) if mapping.inspection else None
        self._route = lru_cache(_TOPICS_REMEMBERED)(self._find_route)
        self._arrived_ms = 0

    def decode(self, topic: str, payload: bytes, now_ms: int) -> Decoded:
        """What `payload` says; `now_ms` is our clock, the ingest time."""
        route = self._route(topic)
        if route.fault is not None:
            return Decoded(route.asset, fault=route.fault)
        if route.reader is not None:
            return self._readings(route, route.reader, payload, now_ms)
        assert route.inspection is not None
        return self._outcome(route.inspection, payload, now_ms)

    def _find_route(self, topic: str) -> _Route:
        for reader in self._readers:
            if found := reader.pattern.fullmatch(topic):
                named = found.groupdict()
                asset = self.asset_called(named["asset"]) if "asset" in named else self._own
                if asset is None:
                    return _Route(self._own, fault=Fault.BAD_NAME)
                if "property" not in named:
                    return _Route(asset, tuple(reader.gauges.values()), reader)
                if named["property"] not in reader.gauges:
                    return _Route(asset, fault=Fault.UNKNOWN_PROPERTY)
                return _Route(asset, (reader.gauges[named["property"]],), reader)
        if self._inspection and (found := self._inspection.fullmatch(topic)):
            named = found.groupdict()
            if "asset" not in named or self.asset_called(named["asset"]) == self._own:
                return _Route(self._own, inspection=self._mapping.inspection)
        return _Route(self._own, fault=Fault.UNKNOWN_TOPIC)

    def asset_called(self, name: str) -> str | None:
        """The asset that the plant calls so, or None where that is no name for one."""
        asset = self._mapping.assets.get(name, name)
        return asset if _ASSET.fullmatch(asset) else None

    def _readings(self, route: _Route, reader: _Reader, payload: bytes, now_ms: int) -> Decoded:
        if reader.source.payload == "number":
            document, time_ms, fault = self._number(payload, now_ms)
        else:
            document, time_ms, fault = self._open(payload, reader.time_path, now_ms)
        if fault is not None:
            return Decoded(route.asset, fault=fault, suspects={gauge.name: gauge.unit for gauge in route.gauges})
        readings = []
        for gauge in route.gauges:
            given = document if reader.source.payload == "number" else at(document, gauge.path)
            if given is not ABSENT:  # sources that report by exception leave out what did not change
                quality = said_quality(at(document, gauge.quality_path)) if gauge.quality_path else Quality.GOOD
                readings.append(reading(gauge, given, time_ms, now_ms, quality))
        return Decoded(route.asset, tuple(readings))

    def _outcome(self, wanted: InspectionMap, payload: bytes, now_ms: int) -> Decoded:
        document, time_ms, fault = self._open(payload, tuple(wanted.time.split(".")), now_ms)
        if fault is not None:
            return Decoded(self._own, fault=fault)
        labels, known = class_numbers(document, self._heads)
        inspection = Inspection(time_ms, labels)
        return Decoded(self._own, inspection=inspection, fault=None if known else Fault.UNKNOWN_CLASS)

    def _number(self, payload: bytes, now_ms: int) -> tuple[Any, int, Fault | None]:
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None, 0, Fault.HUGE
        try:
            return plain_number(payload), self._arrival_ms(now_ms), None
        except UnicodeDecodeError:
            return None, 0, Fault.MALFORMED

    def _open(self, payload: bytes, time_path: tuple[str, ...], now_ms: int) -> tuple[Any, int, Fault | None]:
        """The document and its source time, or the fault that the message as a whole has."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None, 0, Fault.HUGE
        try:
            document = json.loads(payload)  # the standard library's, because it tells NaN from malformed
        except (ValueError, RecursionError):
            return None, 0, Fault.MALFORMED
        if not isinstance(document, dict):
            return None, 0, Fault.MALFORMED
        if not time_path:
            return document, self._arrival_ms(now_ms), None
        time_ms = source_time_ms(at(document, time_path))
        return document, time_ms or 0, self._wrong_time(time_ms, now_ms)

    def _wrong_time(self, time_ms: int | None, now_ms: int) -> Fault | None:
        if time_ms is None:
            return Fault.NO_TIME
        return Fault.IN_FUTURE if in_future(time_ms, now_ms, self._mapping) else None

    def _arrival_ms(self, now_ms: int) -> int:
        """Now, and a little later for a second message within one millisecond: it is no duplicate of the first."""
        just_before = self._arrived_ms - 1000 < now_ms <= self._arrived_ms
        self._arrived_ms = self._arrived_ms + 1 if just_before else now_ms
        return self._arrived_ms


def in_future(time_ms: int, now_ms: int, mapping: SensorMap) -> bool:
    """Whether a source time is so far ahead that it would shut out every true reading until then."""
    return time_ms > now_ms + mapping.max_ahead_s * 1000


def reading(gauge: Gauge, given: Any, time_ms: int, now_ms: int, said: Quality) -> Reading:
    """A reading from what the source gives as its value, and what it says of the value's quality."""
    value, fault = gauge.read(given)
    if said in (Quality.BAD, Quality.STALE):
        return Reading(gauge.name, Property(value, gauge.unit, time_ms, now_ms, said), fault or Fault.SAID_BAD)
    quality = said if fault is None else Quality.BAD
    return Reading(gauge.name, Property(value, gauge.unit, time_ms, now_ms, quality), fault)
