"""What changed in a twin between two versions: the document `gemel.twin.delta/1`.

    {"schema": "gemel.twin.delta/1", "site": "north", "asset": "press-1", "from": 41, "to": 42,
     "properties": {"TS1": {…the whole reading…}}, "health": {"cooler": null}}

Whole entries change: a reading comes with its time and quality, never alone. An entry that is null has gone, a
section that is absent has not changed. A reader holds a twin and lays deltas over it with `apply`; where that says
that one was missed, the reader takes the full document, which is retained. The agent publishes the full document
first, so that whoever takes it after a delta has everything up to that delta.
A delta that ends at or below the reader's version tells nothing new and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gemel.errors import Malformed
from gemel.twin.state import (
    MAX_TWIN_BYTES,
    Alert,
    Desired,
    Diagnosis,
    Drift,
    Name,
    Property,
    RunningModel,
    Settable,
    Twin,
)
from gemel.wire.messages import decode, encode
from gemel.wire.topics import TopicLevel
from gemel.wire.types import Count

SCHEMA: Final = "gemel.twin.delta/1"
_SECTIONS: Final = ("properties", "health", "settable", "desired", "alerts", "drift")


class TwinDelta(msgspec.Struct, frozen=True, omit_defaults=True, rename={"from_version": "from", "to_version": "to"}):
    """The change from one version to a later one. Begin with `between`."""

    site: TopicLevel
    asset: TopicLevel
    from_version: Count
    to_version: Count
    schema: Literal["gemel.twin.delta/1"]
    properties: dict[Name, Property | None] = {}
    health: dict[Name, Diagnosis | None] = {}
    settable: dict[Name, Settable | None] = {}
    desired: dict[Name, Desired | None] = {}
    alerts: dict[Name, Alert | None] = {}
    drift: dict[Name, Drift | None] = {}
    model: RunningModel | UnsetType | None = UNSET


def between(old: Twin, new: Twin) -> TwinDelta:
    """What turns `old` into `new`, a later version of the same machine's twin."""
    sections: dict[str, Any] = {name: _changes(getattr(old, name), getattr(new, name)) for name in _SECTIONS}
    if new.model != old.model:
        sections["model"] = new.model
    return TwinDelta(new.site, new.asset, old.version, new.version, SCHEMA, **sections)


def apply(twin: Twin, delta: TwinDelta) -> Twin | None:
    """The twin after the change, None where it begins above the twin's version: one was missed.

    Raises ValueError for a delta of another machine.
    """
    if (twin.site, twin.asset) != (delta.site, delta.asset):
        raise ValueError(f"a delta of {delta.site}/{delta.asset} over the twin of {twin.site}/{twin.asset}")
    if delta.to_version <= twin.version:
        return twin
    if delta.from_version != twin.version:
        return None
    sections: dict[str, Any] = {name: _applied(getattr(twin, name), getattr(delta, name)) for name in _SECTIONS}
    if delta.model is not UNSET:
        sections["model"] = delta.model
    return replace(twin, version=delta.to_version, **sections)


def to_json(delta: TwinDelta) -> bytes:
    """Canonical JSON."""
    return encode(delta)


def from_json(data: bytes) -> TwinDelta:
    """Raises Malformed for anything that is not `gemel.twin.delta/1`, and for more than MAX_TWIN_BYTES."""
    if len(data) > MAX_TWIN_BYTES:
        raise Malformed("TwinDelta", f"{len(data)} bytes, at most {MAX_TWIN_BYTES}")
    return decode(TwinDelta, data)


_Entry = TypeVar("_Entry")


def _changes(old: Mapping[str, _Entry], new: Mapping[str, _Entry]) -> dict[str, _Entry | None]:
    changed: dict[str, _Entry | None] = {name: entry for name, entry in new.items() if old.get(name) != entry}
    return changed | dict.fromkeys(old.keys() - new.keys())


def _applied(standing: Mapping[str, _Entry], changes: Mapping[str, _Entry | None]) -> dict[str, _Entry]:
    merged: dict[str, _Entry | None] = {**standing, **changes}
    return {name: entry for name, entry in merged.items() if entry is not None}
