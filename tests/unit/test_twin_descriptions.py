"""A twin in the words of two standards: Thing Description 1.1, held to what it demands, and AAS, read back."""

import io
import json
import sys
from typing import Any

import pytest
from basyx.aas import model
from basyx.aas.adapter.json import read_aas_json_file
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gemel.errors import ConfigError
from gemel.twin import asset_shell, thing_description
from gemel.twin.alerts import AlertBook, AlertRule, event_to_json, look
from gemel.twin.desired import DesiredChange
from gemel.twin.state import Property, Quality, Settable, Twin, hold, offer, to_json
from gemel.wire.messages import encode
from tests.unit.test_twin_delta import twins
from tests.unit.test_twin_sections import diagnosed

BROKER = "mqtts://broker.plant:8883"
OPERATIONS = {
    "properties": {"readproperty", "observeproperty", "unobserveproperty"},
    "actions": {"invokeaction"},
    "events": {"subscribeevent", "unsubscribeevent"},
}
TYPES = {"boolean", "integer", "number", "string", "object", "array", "null"}


def machine() -> Twin:
    twin = hold(diagnosed(), {"TS1": Property(None, "degC", 3, 4, Quality.BAD)})
    return offer(twin, {"speed": Settable("rpm", 0.0, 3000.0), "valve": Settable("%")})


def hold_to_the_standard(thing: dict[str, Any]) -> None:
    """The mandatory terms and allowed values of sections 5.3 and 5.4 of the standard, as far as we use them."""
    assert thing["@context"][0] == "https://www.w3.org/2022/wot/td/v1.1"
    assert thing["title"]
    assert thing["security"] in thing["securityDefinitions"]
    assert all(
        d["scheme"] in {"nosec", "auto", "basic", "psk", "bearer"} for d in thing["securityDefinitions"].values()
    )
    assert all(link["href"] for link in thing["links"])
    for kind, operations in OPERATIONS.items():
        for affordance in thing[kind].values():
            assert affordance["forms"]
            for form in affordance["forms"]:
                assert form["href"].startswith(BROKER)
                assert set(form["op"]) <= operations
                assert form["mqv:controlPacket"] in {"publish", "subscribe"}
                assert ("mqv:topic" in form) == (form["mqv:controlPacket"] == "publish") != ("mqv:filter" in form)
                assert form["mqv:qos"] in {"0", "1", "2"}
    for schema in [*thing["properties"].values(), *(action["input"] for action in thing["actions"].values())]:
        hold_schema(schema)
    for event in thing["events"].values():
        hold_schema(event["data"])


def hold_schema(schema: dict[str, Any]) -> None:
    if "oneOf" not in schema:
        assert schema["type"] in TYPES  # one word, unlike in JSON Schema
    for inner in [*schema.get("properties", {}).values(), *schema.get("oneOf", [])]:
        hold_schema(inner)


@settings(max_examples=30)
@given(twins)
def test_every_twin_has_a_thing_description_that_the_standard_allows(twin: Twin) -> None:
    hold_to_the_standard(json.loads(thing_description.to_json(twin, BROKER)))


def test_description_names_units_topics_alerts_and_actions() -> None:
    thing = thing_description.thing_description(machine(), BROKER)
    hold_to_the_standard(thing)
    assert thing["properties"]["flow.rate"]["unit"] == "l/min"
    (form,) = thing["properties"]["TS1"]["forms"]
    assert form["href"] == f"{BROKER}/gemel/v1/north/twin/press-1/state"
    assert set(thing["properties"]) == {"TS1", "flow.rate", "health.cooler.main"}
    (form,) = thing["actions"]["set-speed"]["forms"]
    assert (form["mqv:topic"], form["mqv:retain"]) == ("gemel/v1/north/twin/press-1/desired/set", False)
    (form,) = thing["events"]["alert"]["forms"]
    assert form["mqv:filter"] == "gemel/v1/north/twin/press-1/event"


def test_messages_are_what_the_description_says_of_them() -> None:
    twin = machine()
    thing = thing_description.thing_description(twin, BROKER)
    for described in thing["properties"].values():
        Draft202012Validator(described).validate(json.loads(to_json(twin)))
    speed = Draft202012Validator(thing["actions"]["set-speed"]["input"])
    change = json.loads(encode(DesiredChange("a", "speed", 1500.0, "rpm", 5, 3)))
    speed.validate(change)
    assert not speed.is_valid(change | {"value": 3001})
    assert not speed.is_valid(change | {"unit": "Hz"})
    book, _ = look((AlertRule("low", "flow.rate", below=9.0),), AlertBook(), {}, twin, now_s=0, now_ms=5)
    Draft202012Validator(thing["events"]["alert"]["data"]).validate(json.loads(event_to_json(book.unsaid[0])))


def test_shell_is_read_back_by_the_sdk_with_units_and_times() -> None:
    store = read_aas_json_file(io.StringIO(asset_shell.to_json(machine()).decode()), failsafe=False)
    shell = store.get_item("urn:gemel:twin:north:press-1:shell")
    assert isinstance(shell, model.AssetAdministrationShell)
    readings, health = (store.get_item(f"urn:gemel:twin:north:press-1:{one}") for one in ("readings", "health"))
    assert {reference.resolve(store) for reference in shell.submodel} == {readings, health}
    flow = readings.get_referable("flow_2e_rate")
    assert flow.display_name["en"] == "flow.rate"
    assert (flow.get_referable("value").value, flow.get_referable("unit").value) == (8.0, "l/min")
    assert readings.get_referable("TS1").get_referable("value").value is None
    assert health.get_referable("cooler_2e_main").get_referable("condition").value == "near_failure"


@settings(max_examples=15)
@given(twins)
def test_every_twin_has_a_shell(twin: Twin) -> None:
    read_aas_json_file(io.StringIO(asset_shell.to_json(twin).decode()), failsafe=False)


@given(st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"), unique=True, max_size=20))
def test_two_names_never_become_one(names: list[str]) -> None:
    assert len({asset_shell.id_short(name) for name in names}) == len(names)
    assert asset_shell.id_short("1a") != asset_shell.id_short("n1a")


def test_shell_without_the_sdk_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "basyx.aas", None)
    with pytest.raises(ConfigError, match=r"gemel\[aas\]"):
        asset_shell.to_json(machine())
