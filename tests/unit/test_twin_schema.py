"""The published JSON Schema: fresh, valid, and true of what agents say."""

import json

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from gemel.twin.alerts import AlertBook, AlertRule, event_to_json, look
from gemel.twin.delta import between
from gemel.twin.delta import to_json as delta_to_json
from gemel.twin.schema import FILE, json_schema, schema_text
from gemel.twin.state import Property, Quality, Twin, blank, hold, to_json
from tests.unit.test_twin_delta import twins

SCHEMA = json_schema()


def part(kind: str) -> Draft202012Validator:
    return Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"})


def test_committed_schema_is_what_the_structs_give_now() -> None:
    assert FILE.read_bytes() == schema_text(), "write it again: python -m gemel.twin.schema"


def test_schema_is_a_valid_schema_of_draft_2020_12() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "\\Z" not in schema_text().decode()


@settings(max_examples=40)
@given(twins, twins)
def test_every_state_and_delta_follows_it(old: Twin, new: Twin) -> None:
    Draft202012Validator(SCHEMA).validate(json.loads(to_json(old)))
    part("TwinDelta").validate(json.loads(delta_to_json(between(old, new))))


def test_every_event_follows_it() -> None:
    twin = hold(blank("north", "press-1"), {"TS1": Property(80.0, "degC", 1, 2, Quality.GOOD)})
    book, _ = look((AlertRule("hot", "TS1", above=70.0),), AlertBook(), {}, twin, now_s=0, now_ms=5)
    (event,) = book.unsaid
    part("AlertEvent").validate(json.loads(event_to_json(event)))


@pytest.mark.parametrize(
    "change", [{"schema": "gemel.twin/2"}, {"site": "North 1"}, {"version": -1}, {"properties": {"TS1": 5}}]
)
def test_document_that_is_no_twin_does_not_follow_it(change: dict[str, object]) -> None:
    document = json.loads(to_json(blank("north", "press-1"))) | change
    assert not Draft202012Validator(SCHEMA).is_valid(document)
