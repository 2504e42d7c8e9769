"""The JSON Schema (draft 2020-12) of what agents say about their machines, generated from the structs.

`gemel/twin/schema.json` is this text, committed for readers without Python; a test holds it fresh. Agents publish it,
retained, beside each twin. Write it again with `python -m gemel.twin.schema`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from gemel.twin.alerts import AlertEvent
from gemel.twin.delta import TwinDelta
from gemel.twin.desired import DesiredAnswer, DesiredChange
from gemel.twin.state import Twin

FILE: Final = Path(__file__).with_name("schema.json")
ID: Final = "urn:gemel:schema:twin:1"
_KINDS: Final = {
    Twin: "state",
    TwinDelta: "delta",
    AlertEvent: "event",
    DesiredChange: "desired/set",
    DesiredAnswer: "desired/answer",
}


def json_schema() -> dict[str, Any]:
    """A twin document follows the schema itself; what stands on the other topics, one of its `$defs`."""
    (state, *others), components = msgspec.json.schema_components(_KINDS, ref_template="#/$defs/{name}")
    topics = {kind: part["$ref"] for kind, part in zip(_KINDS.values(), (state, *others), strict=True)}
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "gemel.twin/1",
        "$comment": "By topic: " + ", ".join(f"{kind} {ref}" for kind, ref in topics.items()),
        **state,
        "$defs": components,
    }
    portable: dict[str, Any] = _portable(document)
    return portable


def schema_text() -> bytes:
    """The schema as it is published and committed."""
    return msgspec.json.format(msgspec.json.encode(json_schema(), order="sorted"), indent=1) + b"\n"


def _portable(part: Any) -> Any:
    r"""Python's `\Z` is ECMA-262's `$`, which is what a schema's patterns are written in."""
    if isinstance(part, dict):
        return {
            key: re.sub(r"\\Z", "$", value) if key == "pattern" and isinstance(value, str) else _portable(value)
            for key, value in part.items()
        }
    return [_portable(value) for value in part] if isinstance(part, list) else part


if __name__ == "__main__":
    FILE.write_bytes(schema_text())
