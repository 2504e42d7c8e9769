"""The mapping file: what the plant publishes, and what it means. Asset and property names are the plant's own.

    qos = 1                                   # of the subscriptions; default 1
    max_ahead_s = 86400                       # a source time further ahead of our clock is refused
    subscribe = ["plant/rig1/#"]              # optional; default: the topics below

    [assets]                                  # optional: the plant's name of a machine → its name in twin topics
    "Press 1" = "press-1"

    [[source]]
    topic = "plant/rig1/sensors"              # `+` stands for any one level
    payload = "json"                          # default; or "number": the payload is one number as text
    time = "time"                             # path to the source time: ISO 8601, or milliseconds since 1970;
                                              # "" where there is none: then the time of arrival counts
    [source.properties.TS1]                   # the property's name in the twin
    path = "TS1"                              # default: its name, or `value` where the topic names the property;
                                              # `a.b.0` reaches into objects and lists
    quality = "q"                             # optional path: good, uncertain, bad, stale, or 192, 64, 0, 500
    unit = "degC"                             # of the twin, and of all limits below
    source_unit = "degF"                      # what the source measures in; default: the same
    minimum = 0                               # a reading outside is out_of_range
    maximum = 200
    stale_after_s = 10                        # optional: without a reading for so long it is stale
    dead_band = 0.2                           # a change no larger than that does not reach the twin…
    dead_band_percent = 1                     # …or in percent of maximum - minimum
    max_rate_hz = 2                           # the twin takes no more; the newest reading is kept and follows

    [[source]]
    topic = "plant/{asset}/{property}/value"  # levels that name the machine and the property
    payload = "number"
    [source.properties.flow]
    called = "FS-1"                           # the plant's name, here in `{property}`; default: its name
    unit = "l/min"

    [[sparkplug]]                             # Sparkplug B: spBv1.0/<group>/+/<node>/#
    group = "hall-7"
    node = "+"                                # a name, `+` or `{asset}`
    device = "{asset}"                        # a name, `+`, `{asset}`, or "" for the node's own metrics
    [sparkplug.properties.TS1]
    called = "Temperature/Oil"                # the metric's name (a template's member: `instance/member`);
                                              # default: the property's. Booleans are 1 and 0
    unit = "degC"

    [inspection]                              # optional: what was found after a cycle of the agent's own asset
    topic = "plant/rig1/inspection"
    time = "time"                             # the first instant that no longer belongs to the cycle

An inspection names the class of each head of the task (`"cooler": "reduced"`); absent, null or -1 is unknown.

Topics without `{asset}` speak of the agent's own asset. With it they may speak of others: the agent keeps twins of as
many machines as `max_assets` allows (edge_agent/settings.py), learns from its own and diagnoses only that one.

An agent that hears Sparkplug B asks edge nodes to say their births again: at the broker it must be allowed to write
spBv1.0/<group>/NCMD/+ (`commands` of gemel/wire/rights.py).

Dead band and rate bound what reaches the twin and its history. Training windows get every good reading.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from edge_agent.sensing.units import SAME, conversion
from gemel.errors import ConfigError
from gemel.learning.task import Input
from gemel.twin.state import Name
from gemel.wire.topics import TopicLevel

HUGE = 1e12  # no physical quantity in an engineer's unit reaches it; beyond, float32 windows lose their meaning
ASSET, PROPERTY, ANY = "{asset}", "{property}", "+"
SPARKPLUG = "spBv1.0"
_GROUPS = {ASSET: "(?P<asset>[^/]+)", PROPERTY: "(?P<property>[^/]+)", ANY: "[^/]+"}
_SECONDS = Annotated[float, msgspec.Meta(gt=0)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Level = Annotated[str, msgspec.Meta(pattern=r"^([^+#/{}]+|\+|\{asset\})\Z")]


class PropertyMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a property's value stands, its unit, what it may be, and how much of it reaches the twin."""

    unit: str
    source_unit: str = ""
    path: str = ""
    called: str = ""
    quality: str = ""
    minimum: float = -HUGE
    maximum: float = HUGE
    stale_after_s: _SECONDS | None = None
    dead_band: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    dead_band_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    max_rate_hz: _SECONDS | None = None

    @property
    def band(self) -> float:
        """The dead band in the twin's unit."""
        return self.dead_band or (self.maximum - self.minimum) * self.dead_band_percent / 100


_Properties = Annotated[dict[Name, PropertyMap], msgspec.Meta(min_length=1)]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of message that carries readings of one instant."""

    topic: _Text
    properties: _Properties
    payload: Literal["json", "number"] = "json"
    time: str = "time"

    @property
    def topic_filter(self) -> str:
        """What to subscribe to."""
        return topic_filter(self.topic)

    @property
    def names_property(self) -> bool:
        """Whether the topic says which property a message is about."""
        return PROPERTY in self.topic.split("/")


class SparkplugSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics of Sparkplug B edge nodes or of their devices."""

    group: Annotated[str, msgspec.Meta(pattern=r"^[^+#/{}]+\Z")]
    properties: _Properties
    node: _Level = ANY
    device: _Level | Literal[""] = ""


class InspectionMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the outcome of a cycle comes from."""

    topic: _Text
    time: str = "time"


class SensorMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole mapping file."""

    source: tuple[Source, ...] = ()
    sparkplug: tuple[SparkplugSource, ...] = ()
    inspection: InspectionMap | None = None
    subscribe: tuple[str, ...] = ()
    assets: dict[str, TopicLevel] = {}
    qos: Literal[0, 1] = 1
    max_ahead_s: _SECONDS = 86_400.0

    @property
    def filters(self) -> tuple[str, ...]:
        """The topic filters to subscribe to. Sparkplug takes one for each node, since births must come in order."""
        inspection = (topic_filter(self.inspection.topic),) if self.inspection else ()
        topics = (*(source.topic_filter for source in self.source), *inspection)
        return self.subscribe or tuple(dict.fromkeys((*topics, *self._sparkplug_filters)))

    @property
    def properties(self) -> dict[str, PropertyMap]:
        """Every property of the mapping; each stands in one source only."""
        tables = [one.properties for one in self.source] + [one.properties for one in self.sparkplug]
        return {name: p for properties in tables for name, p in properties.items()}

    def called(self, asset: str) -> str:
        """What the plant calls an asset."""
        return next((plants for plants, ours in self.assets.items() if ours == asset), asset)

    @property
    def of_sessions(self) -> tuple[str, ...]:
        """The properties that edge nodes tell: what is said of one holds for as long as its node's session does."""
        return tuple(name for one in self.sparkplug for name in one.properties)

    @property
    def _sparkplug_filters(self) -> tuple[str, ...]:
        nodes: dict[str, set[str]] = {}
        for one in self.sparkplug:
            nodes.setdefault(one.group, set()).add(ANY if one.node == ASSET else one.node)
        return tuple(
            f"{SPARKPLUG}/{group}/+/{node}/#"
            for group, named in nodes.items()
            for node in ([ANY] if ANY in named else sorted(named))
        )


def load_sensor_map(data: bytes, file: str) -> SensorMap:
    """Read the mapping file. Raises ConfigError naming the file and the key."""
    try:
        mapping = msgspec.toml.decode(data, type=SensorMap)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(file, "sensor mapping", str(error)) from error
    if not mapping.source and not mapping.sparkplug:
        raise ConfigError(file, "source", "at least one [[source]] or [[sparkplug]]")
    kinds = [("source", one.properties) for one in mapping.source]
    kinds += [("sparkplug", one.properties) for one in mapping.sparkplug]
    names = [name for _, properties in kinds for name in properties]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(file, f"properties.{twice[0]}", "each property once, in one source")
    for kind, properties in kinds:
        for name, p in properties.items():
            _check_property(p, file, f"{kind}.properties.{name}")
        _check_called(properties, file, kind)
    for source in mapping.source:
        _check_topic(source.topic, file, {ASSET, PROPERTY})
        if source.payload == "number" and not source.names_property and len(source.properties) > 1:
            raise ConfigError(file, "source.payload", f"{source.topic!r} carries one number, so one property")
    if mapping.inspection:
        _check_topic(mapping.inspection.topic, file, {ASSET})
    return mapping


def check_inputs(mapping: SensorMap, inputs: tuple[Input, ...], file: str) -> None:
    """A property that a task learns from has the task's unit: windows must mean what the model takes them for.

    Raises ConfigError.
    """
    for column in inputs:
        p = mapping.properties.get(column.name)
        if p is None or p.unit == column.unit:
            continue
        try:
            same = conversion(p.unit, column.unit) == SAME
        except ValueError:
            same = False
        if not same:
            raise ConfigError(file, f"properties.{column.name}.unit", f"the task's, {column.unit!r}, not {p.unit!r}")


def topic_pattern(topic: str) -> re.Pattern[str]:
    """What matches a mapping's topic, with groups `asset` and `property` where it names them."""
    return re.compile("/".join(_GROUPS.get(level) or re.escape(level) for level in topic.split("/")))


def topic_filter(topic: str) -> str:
    """The MQTT filter of a mapping's topic."""
    return "/".join(ANY if level in _GROUPS else level for level in topic.split("/"))


def _check_property(p: PropertyMap, file: str, key: str) -> None:
    if not p.minimum < p.maximum:
        raise ConfigError(file, f"{key}.minimum", f"below the maximum, {p.maximum}")
    if p.dead_band_percent and (p.dead_band or p.minimum == -HUGE or p.maximum == HUGE):
        raise ConfigError(file, f"{key}.dead_band_percent", "with minimum and maximum, and without dead_band")
    try:
        conversion(p.source_unit or p.unit, p.unit)
    except ValueError as error:
        raise ConfigError(file, f"{key}.{'source_unit' if p.source_unit else 'unit'}", str(error)) from error


def _check_called(properties: dict[str, PropertyMap], file: str, kind: str) -> None:
    called = [p.called or name for name, p in properties.items()]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ConfigError(file, f"{kind}.properties.called", f"{twice[0]!r} for one property only")


def _check_topic(topic: str, file: str, allowed: set[str]) -> None:
    levels = topic.split("/")
    if "#" in topic:
        raise ConfigError(file, "topic", f"{topic!r}: levels and `+`; `#` may stand in `subscribe` only")
    for level in levels:
        if level not in allowed and re.search(r"[{}]", level):
            raise ConfigError(file, "topic", f"{topic!r}: whole levels {' and '.join(sorted(allowed))} only")
        if level != ANY and ANY in level:
            raise ConfigError(file, "topic", f"{topic!r}: `+` stands for a whole level")
    for placeholder in allowed:
        if levels.count(placeholder) > 1:
            raise ConfigError(file, "topic", f"{topic!r}: {placeholder} once")
