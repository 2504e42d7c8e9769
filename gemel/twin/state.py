"""The twin document `gemel.twin/1` and every change that it can undergo.

A twin is a frozen value. A change returns a new twin whose version is one higher; where nothing changes, the same
twin comes back, so `after is before` says that there is nothing to publish. On the bus it is canonical JSON:

    {"schema": "gemel.twin/1", "site": "north", "asset": "press-1", "version": 42,
     "properties": {"TS1": {"value": 35.1, "unit": "degC", "quality": "good",
                            "source_time_ms": 1700000000000, "ingest_time_ms": 1700000000012}},
     "health": {"cooler": {"condition": "reduced", "confidence": 0.71, "source_time_ms": 1700000000000,
                           "quality": "good",
                           "top_inputs": [{"input": "TS1", "weight": 0.41}]}},
     "model": {"digest": "…64 hex…", "deployment": 3},
     "settable": {"speed": {"unit": "rpm", "minimum": 0, "maximum": 3000}},
     "desired": {"speed": {"id": "shift-1.17", "value": 1500, "unit": "rpm", "state": "applied", "reason": "",
                           "version": 40, "since_ms": 1700000000000, "deadline_ms": 1700000060000}},
     "alerts": {"hot-oil": {"id": "hot-oil-3", "kind": "value", "property": "TS1", "severity": "warning",
                            "text": "oil is hot", "raised_ms": 1700000000000, "value": 71.5}}}

What was heard, what the model says, what shall be and what is wrong stand in one document under one version;
gemel/twin/addresses.py gives readings and diagnoses one kind of name.

Order is decided by source time, the clock of the machine: a reading that comes late never overwrites a younger
one. Age is decided by ingest time, our own clock, because a machine's clock may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from gemel.errors import Malformed
from gemel.wire.messages import decode, encode
from gemel.wire.topics import TopicLevel
from gemel.wire.types import Count, Digest, Millis

SCHEMA: Final = "gemel.twin/1"
MAX_TWIN_BYTES = 1_000_000
MAX_PROPERTIES = 4096

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}\Z")]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Quality(StrEnum):
    """How far a value can be trusted, in falling order."""

    GOOD = "good"
    UNCERTAIN = "uncertain"  # usable, but something about it was made up (a filled gap)
    BAD = "bad"  # the newest reading was not usable
    STALE = "stale"  # no reading came within the property's deadline


_DOUBT = {quality: rank for rank, quality in enumerate(Quality)}
_CARRIED = {quality: quality for quality in Quality} | {Quality.BAD: Quality.UNCERTAIN}  # its value was not used


class Property(msgspec.Struct, frozen=True):
    """The newest reading of one quantity. `value` is None where the source gave nothing that is a number."""

    value: float | None
    unit: str
    source_time_ms: Millis
    ingest_time_ms: Millis
    quality: Quality


class InputWeight(msgspec.Struct, frozen=True):
    """How much one input weighed in a prediction, as a share of all inputs."""

    input: str
    weight: Share


class Diagnosis(msgspec.Struct, frozen=True):
    """What the model in use says about one component, from the window that ended at `source_time_ms`."""

    condition: str
    confidence: Share
    top_inputs: tuple[InputWeight, ...]
    source_time_ms: Millis
    quality: Quality


class RunningModel(msgspec.Struct, frozen=True):
    """Which model speaks in `health`."""

    digest: Digest
    deployment: Count


class Settable(msgspec.Struct, frozen=True):
    """A property that may be asked for: in which unit, and from where to where."""

    unit: str
    minimum: float | None = None
    maximum: float | None = None


class DesiredState(StrEnum):
    """How far a desired value has come. Nothing follows `applied` or `failed` but a new request."""

    PENDING = "pending"
    APPLIED = "applied"
    FAILED = "failed"


class Desired(msgspec.Struct, frozen=True):
    """The latest request for one property, and what became of it (gemel/twin/desired.py)."""

    id: RequestId
    value: float
    unit: str
    deadline_ms: Millis
    version: Count  # of the twin in which it was asked for
    since_ms: Millis  # since when it is in this state
    state: DesiredState
    reason: str = ""  # why it failed, or what it still waits for


class Severity(StrEnum):
    """How soon somebody must look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertKind(StrEnum):
    """What an alert is about."""

    VALUE = "value"  # a number beyond its bound
    CONDITION = "condition"  # what the model says
    STALE = "stale"  # a property that cannot be trusted: silent, or bad


class Alert(msgspec.Struct, frozen=True):
    """An alert that stands. `id` names this occurrence: raised and cleared events carry it."""

    id: str
    kind: AlertKind
    property: str  # an address (gemel/twin/addresses.py)
    severity: Severity
    text: str
    raised_ms: Millis
    value: float | str | None  # that raised it


class DriftKind(StrEnum):
    """What has drifted."""

    INPUT = "input"  # the mean of a quantity over a window
    ERROR = "error"  # the share of a head's answers that inspections found wrong


class Drift(msgspec.Struct, frozen=True):
    """What is no longer as the model in use has learnt it: since when, from where to where, and how strong."""

    kind: DriftKind
    since_ms: Millis  # source time
    before: float
    after: float
    strength: Annotated[float, msgspec.Meta(ge=0)]  # in standard deviations of before; an error: in shares
    asked_ms: Millis | None = None  # when a round was asked for because of it, last
    answer: str = ""  # the coordinator's


class Twin(msgspec.Struct, frozen=True):
    """What is known of one machine. Begin with `blank`. `desired` goes by property, `alerts` by the rule's id."""

    schema: Literal["gemel.twin/1"]
    site: TopicLevel
    asset: TopicLevel
    version: Count
    properties: Annotated[dict[Name, Property], msgspec.Meta(max_length=MAX_PROPERTIES)]
    health: Annotated[dict[Name, Diagnosis], msgspec.Meta(max_length=MAX_PROPERTIES)]
    model: RunningModel | None
    settable: Annotated[dict[Name, Settable], msgspec.Meta(max_length=MAX_PROPERTIES)] = {}
    desired: Annotated[dict[Name, Desired], msgspec.Meta(max_length=MAX_PROPERTIES)] = {}
    alerts: Annotated[dict[Name, Alert], msgspec.Meta(max_length=MAX_PROPERTIES)] = {}
    drift: Annotated[dict[Name, Drift], msgspec.Meta(max_length=MAX_PROPERTIES)] = {}  # by input, or `error.HEAD`


def blank(site: str, asset: str) -> Twin:
    """The twin of a machine nothing is known of yet, at version 0."""
    return Twin(SCHEMA, site, asset, 0, {}, {}, None)


def hold(twin: Twin, readings: Mapping[str, Property]) -> Twin:
    """The twin with these readings, whatever stands: who calls has decided on their order."""
    return _changed(twin, properties={**twin.properties, **readings}) if readings else twin


def distrust(twin: Twin, names: Mapping[str, str], now_ms: Millis) -> Twin:
    """Mark properties bad because a message about them could not be read. Value and source time stay.

    The ingest time moves, since the source was heard: a garbling source is bad, a silent one becomes stale.
    `names` maps property to unit; one that the twin has never seen enters without a value, at source time 0.
    """
    changed = {
        name: replace(twin.properties[name], quality=Quality.BAD, ingest_time_ms=now_ms)
        if name in twin.properties
        else Property(None, unit, 0, now_ms, Quality.BAD)
        for name, unit in names.items()
    }
    return _changed(twin, properties={**twin.properties, **changed}) if changed else twin


def mark_stale(twin: Twin, names: Iterable[str]) -> Twin:
    """Mark properties that nothing was heard of within their deadline, or whose source has died."""
    stale = {
        name: replace(twin.properties[name], quality=Quality.STALE)
        for name in names
        if name in twin.properties and twin.properties[name].quality is not Quality.STALE
    }
    return _changed(twin, properties={**twin.properties, **stale}) if stale else twin


def doubt_health(twin: Twin, inputs: Iterable[str]) -> Twin:
    """Carry the quality of a model's inputs into what it says: stale makes stale, bad or uncertain makes uncertain.

    What has been doubted stays so until the next diagnosis.
    """
    carried = [_CARRIED[twin.properties[name].quality] for name in inputs if name in twin.properties]
    worst = max(carried, key=_DOUBT.__getitem__, default=Quality.GOOD)
    health = {
        name: replace(said, quality=max(said.quality, worst, key=_DOUBT.__getitem__))
        for name, said in twin.health.items()
    }
    return twin if health == twin.health else _changed(twin, health=health)


def diagnose(twin: Twin, model: RunningModel, health: Mapping[str, Diagnosis]) -> Twin:
    """Replace health with what `model` says; the diagnoses of another model do not stay beside it."""
    if twin.model == model and twin.health == health:
        return twin
    return _changed(twin, model=model, health=dict(health))


def install(twin: Twin, model: RunningModel | None) -> Twin:
    """Name the model in use, or that there is none; what its predecessor said is dropped."""
    return twin if twin.model == model else _changed(twin, model=model, health={})


def offer(twin: Twin, settable: Mapping[str, Settable]) -> Twin:
    """Say what may be asked for."""
    return twin if twin.settable == settable else _changed(twin, settable=dict(settable))


def desire(twin: Twin, desired: Mapping[str, Desired]) -> Twin:
    """Replace what is desired."""
    return twin if twin.desired == desired else _changed(twin, desired=dict(desired))


def warn(twin: Twin, alerts: Mapping[str, Alert]) -> Twin:
    """Replace the alerts that stand."""
    return twin if twin.alerts == alerts else _changed(twin, alerts=dict(alerts))


def adrift(twin: Twin, drift: Mapping[str, Drift]) -> Twin:
    """Replace what has drifted."""
    return twin if twin.drift == drift else _changed(twin, drift=dict(drift))


def merge(one: Twin, other: Twin) -> Twin:
    """What two documents of one machine know together: of each property the younger, of models the later.

    What is settable, desired, wrong and adrift is the later document's: each of them may also come to an end.

    Idempotent, commutative and associative. Raises ValueError for documents of two machines.
    """
    if (one.site, one.asset) != (other.site, other.asset):
        raise ValueError(f"{one.site}/{one.asset} and {other.site}/{other.asset} are two machines")
    if one.model == other.model:
        health = _youngest(one.health, other.health)
    else:
        health = max(one, other, key=_model_order).health
    later = max(one, other, key=_version_order)
    return replace(
        later,
        properties=_youngest(one.properties, other.properties),
        health=health,
        model=max(one, other, key=_model_order).model,
    )


def supersedes(new: Twin, standing: Twin | None) -> bool:
    """Whether a document that came in replaces the one that stands.

    A higher version does. So does an agent that lost its state and counts from the beginning again: its document has
    heard younger readings. A repetition of what stands, or of something older, does not.
    """
    if standing is None or new.version > standing.version:
        return True
    return _heard_ms(new) > _heard_ms(standing)


def to_json(twin: Twin) -> bytes:
    """Canonical JSON: equal twins give equal bytes."""
    return encode(twin)


def from_json(data: bytes) -> Twin:
    """Read a twin document; unknown fields are ignored, so that additions do not break older readers.

    Raises Malformed for anything else that is not `gemel.twin/1`, and for more than MAX_TWIN_BYTES.
    """
    if len(data) > MAX_TWIN_BYTES:
        raise Malformed("Twin", f"{len(data)} bytes, at most {MAX_TWIN_BYTES}")
    return decode(Twin, data)


def _changed(twin: Twin, **changes: object) -> Twin:
    return replace(twin, version=twin.version + 1, **changes)


def _heard_ms(twin: Twin) -> int:
    return max((p.ingest_time_ms for p in twin.properties.values()), default=-1)


def _model_order(twin: Twin) -> tuple[int, str]:
    return (twin.model.deployment, twin.model.digest) if twin.model else (-1, "")


def _version_order(twin: Twin) -> tuple[int, bytes]:
    """Documents of one version are told apart by the bytes of what comes from the later one whole."""
    sections = (twin.settable, twin.desired, twin.alerts, twin.drift)
    return twin.version, msgspec.json.encode(sections, order="sorted")


_Dated = TypeVar("_Dated", Property, Diagnosis)


def _youngest(one: Mapping[str, _Dated], other: Mapping[str, _Dated]) -> dict[str, _Dated]:
    """Of each name the younger; equally old ones are told apart by their bytes, so the order is moot."""
    names = one.keys() | other.keys()
    return {name: max((d[name] for d in (one, other) if name in d), key=_age) for name in sorted(names)}


def _age(dated: Property | Diagnosis) -> tuple[int, int, int, bytes]:
    ingest_time_ms = dated.ingest_time_ms if isinstance(dated, Property) else 0
    return (dated.source_time_ms, ingest_time_ms, _DOUBT[dated.quality], encode(dated))
