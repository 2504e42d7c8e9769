"""A twin as a W3C Thing Description 1.1: what a Web of Things client needs to read it, watch it and set it.

https://www.w3.org/TR/wot-thing-description11/ and its MQTT binding (terms `mqv:`).

One retained message carries the whole twin, so the schema of each property describes that message down to the value:
an object, in it `properties`, in it the name, in it value, quality and times. The unit stands beside the value. An
alert is an event, and what may be asked for is an action whose input is the request (gemel/twin/desired.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gemel.twin.alerts import AlertEvent
from gemel.twin.schema import ID
from gemel.twin.state import AlertKind, Quality, Settable, Severity, Twin
from gemel.wire import topics

CONTEXT: Final = "https://www.w3.org/2022/wot/td/v1.1"
MQTT_BINDING: Final = "http://www.w3.org/2018/wot/mqtt#"
_JSON: Final = "application/json"
_TIME: Final = {"type": "integer", "minimum": 0, "unit": "ms"}
_REQUEST_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}


def thing_description(twin: Twin, broker: str) -> dict[str, Any]:
    """The Thing Description of `twin` at a broker such as `mqtts://broker.plant:8883`, as a JSON object."""
    forms = _Forms(twin, broker)
    readings = {name: _reading(name, p.unit, forms) for name, p in twin.properties.items()}
    diagnoses = {f"health.{name}": _diagnosis(name, forms) for name in twin.health}
    secure = broker.startswith("mqtts:")
    return {
        "@context": [CONTEXT, {"mqv": MQTT_BINDING}],
        "@type": "Thing",
        "id": f"urn:gemel:twin:{twin.site}:{twin.asset}",
        "title": f"{twin.site}/{twin.asset}",
        "version": {"instance": str(twin.version)},
        # Who may do what is the broker's to decide, by client certificate; the standard has no word for those.
        "securityDefinitions": {"broker": {"scheme": "auto" if secure else "nosec"}},
        "security": "broker",
        "links": [{"href": ID, "rel": "describedby", "type": "application/schema+json"}],
        "properties": readings | diagnoses,
        "actions": {f"set-{name}": _action(name, settable, forms) for name, settable in twin.settable.items()},
        "events": {"alert": _alert(forms)},
    }


def to_json(twin: Twin, broker: str) -> bytes:
    """The Thing Description as text."""
    return msgspec.json.format(msgspec.json.encode(thing_description(twin, broker)), indent=2) + b"\n"


class _Forms:
    """Where and how, in MQTT's words."""

    def __init__(self, twin: Twin, broker: str) -> None:
        self._broker, self._of = broker.rstrip("/"), (twin.site, twin.asset)

    def state(self) -> list[dict[str, Any]]:
        reads = ["readproperty", "observeproperty", "unobserveproperty"]
        return [self._form(topics.twin_state(*self._of), reads, "subscribe") | {"mqv:retain": True}]

    def event(self) -> list[dict[str, Any]]:
        return [self._form(topics.twin_event(*self._of), ["subscribeevent", "unsubscribeevent"], "subscribe")]

    def request(self) -> list[dict[str, Any]]:
        return [self._form(topics.desired_set(*self._of), ["invokeaction"], "publish") | {"mqv:retain": False}]

    def _form(self, topic: str, op: list[str], packet: str) -> dict[str, Any]:
        where = "mqv:topic" if packet == "publish" else "mqv:filter"
        return {
            "href": f"{self._broker}/{quote(topic)}",
            "op": op,
            "contentType": _JSON,
            "mqv:controlPacket": packet,
            "mqv:qos": "1",
            where: topic,
        }


def _within(path: tuple[str, ...], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a message that has `schema` at `path`."""
    for key in reversed(path):
        schema = {"type": "object", "properties": {key: schema}, "required": [key]}
    return dict(schema)


def _reading(name: str, unit: str, forms: _Forms) -> dict[str, Any]:
    entry = {
        "type": "object",
        "properties": {
            "value": {"oneOf": [{"type": "number"}, {"type": "null"}], "unit": unit},
            "unit": {"type": "string", "const": unit},
            "quality": {"type": "string", "enum": list(Quality)},
            "source_time_ms": _TIME,
            "ingest_time_ms": _TIME,
        },
    }
    return _observed(name, ("properties", name), entry, forms) | {"unit": unit}


def _diagnosis(name: str, forms: _Forms) -> dict[str, Any]:
    entry = {
        "type": "object",
        "properties": {
            "condition": {"type": "string"},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "quality": {"type": "string", "enum": list(Quality)},
            "source_time_ms": _TIME,
        },
    }
    return _observed(f"condition of {name}", ("health", name), entry, forms)


def _observed(title: str, path: tuple[str, ...], entry: Mapping[str, Any], forms: _Forms) -> dict[str, Any]:
    return _within(path, entry) | {"title": title, "readOnly": True, "observable": True, "forms": forms.state()}


def _action(name: str, settable: Settable, forms: _Forms) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "number", "unit": settable.unit}
    bounds = {"minimum": settable.minimum, "maximum": settable.maximum}
    return {
        "title": f"set {name}",
        "description": f"Ends in desired.{name} of the twin as applied or failed. The answer goes to Response-Topic.",
        "idempotent": True,
        "safe": False,
        "input": {
            "type": "object",
            "properties": {
                "id": _REQUEST_ID,
                "property": {"type": "string", "const": name},
                "value": value | {key: bound for key, bound in bounds.items() if bound is not None},
                "unit": {"type": "string", "const": settable.unit},
                "deadline_ms": _TIME,
                "expected_version": {"type": "integer", "minimum": 0},
            },
            "required": ["id", "property", "value", "unit", "deadline_ms"],
        },
        "forms": forms.request(),
    }


def _alert(forms: _Forms) -> dict[str, Any]:
    words: dict[str, Any] = {name: {"type": "string"} for name in AlertEvent.__struct_fields__}
    return {
        "title": "an alert was raised or cleared",
        "data": {
            "type": "object",
            "properties": words
            | {
                "event": {"type": "string", "enum": ["raised", "cleared"]},
                "kind": {"type": "string", "enum": list(AlertKind)},
                "severity": {"type": "string", "enum": list(Severity)},
                "value": {"oneOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]},
                "time_ms": _TIME,
            },
            "required": list(AlertEvent.__struct_fields__),
        },
        "forms": forms.event(),
    }
