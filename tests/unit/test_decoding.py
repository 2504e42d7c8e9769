"""From topics and payloads to readings: total, and every fault has its name."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.sensing.decoding import MAX_PAYLOAD_BYTES, Decoder, Inspection, Reading
from edge_agent.sensing.mapping import load_sensor_map
from edge_agent.sensing.values import Fault
from gemel.errors import ConfigError
from gemel.learning.task import Head
from gemel.twin.state import Property, Quality

MAPPING = """
[[source]]
topic = "plant/rig1/sensors"
[source.properties.TS1]
unit = "degC"
minimum = 0
maximum = 200
stale_after_s = 2.5
[source.properties.SE]
unit = "%"

[[source]]
topic = "plant/+/flow"
time = "meta.at"
[source.properties.flow]
path = "values.1"
unit = "l/min"

[inspection]
topic = "plant/rig1/inspection"
"""
HEADS = (Head("cooler", ("near_failure", "reduced", "full")), Head("pump", ("tight", "leaking")))
NOW_MS = 1_700_000_000_000
SENSORS, INSPECTION = "plant/rig1/sensors", "plant/rig1/inspection"
mapping = load_sensor_map(MAPPING.encode(), "sensors.toml")
decoder = Decoder(mapping, HEADS, "rig1")


def payload(**fields: Any) -> bytes:
    return json.dumps({"time": NOW_MS - 5, **fields}).encode()


def test_message_gives_a_reading_for_each_property_it_carries() -> None:
    decoded = decoder.decode(SENSORS, payload(TS1=35.1, SE=58, unmapped="x"), NOW_MS)
    assert decoded.fault is None
    assert decoded.readings == (
        Reading("TS1", Property(35.1, "degC", NOW_MS - 5, NOW_MS, Quality.GOOD)),
        Reading("SE", Property(58.0, "%", NOW_MS - 5, NOW_MS, Quality.GOOD)),
    )
    (only,) = decoder.decode(SENSORS, payload(SE=58), NOW_MS).readings
    assert only.name == "SE"


def test_paths_reach_into_objects_and_lists_and_plus_matches_one_level() -> None:
    body = b'{"meta": {"at": "2023-11-14T22:13:20Z"}, "values": [1, 2.5]}'
    (reading,) = decoder.decode("plant/rig9/flow", body, NOW_MS).readings
    assert (reading.property.value, reading.property.source_time_ms) == (2.5, 1_700_000_000_000)
    assert decoder.decode("plant/a/b/flow", body, NOW_MS).fault is Fault.UNKNOWN_TOPIC


@pytest.mark.parametrize(
    ("text", "fault", "value"),
    [
        ("NaN", Fault.NAN, None),
        ('"nan"', Fault.NAN, None),
        ("Infinity", Fault.HUGE, None),
        ("-1e999", Fault.HUGE, None),
        ("1e13", Fault.HUGE, None),
        ("9" * 400, Fault.HUGE, None),
        ("200.01", Fault.OUT_OF_RANGE, 200.01),
        ("-1", Fault.OUT_OF_RANGE, -1.0),
        ('"35.1"', Fault.NOT_A_NUMBER, None),
        ("true", Fault.NOT_A_NUMBER, None),
        ("null", Fault.NOT_A_NUMBER, None),
        ("[35]", Fault.NOT_A_NUMBER, None),
    ],
)
def test_bad_value_has_its_fault_and_leaves_the_other_readings_alone(
    text: str, fault: Fault, value: float | None
) -> None:
    body = f'{{"time": {NOW_MS}, "TS1": {text}, "SE": 58}}'.encode()
    bad, fine = decoder.decode(SENSORS, body, NOW_MS).readings
    assert bad == Reading("TS1", Property(value, "degC", NOW_MS, NOW_MS, Quality.BAD), fault)
    assert fine.fault is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", Fault.MALFORMED),
        (b"35.1", Fault.MALFORMED),
        (b'{"time": 1, "TS1": ', Fault.MALFORMED),
        (b"\xff\xfe\x00", Fault.MALFORMED),
        (b'{"a":' * 20_000, Fault.HUGE),
        (b"[" * 60_000, Fault.MALFORMED),
        (b'{"time": 1, "TS1": ' + b"9" * 5_000 + b"}", Fault.MALFORMED),
        (b" " * (MAX_PAYLOAD_BYTES + 1), Fault.HUGE),
        (b'{"TS1": 1}', Fault.NO_TIME),
        (b'{"time": "yesterday", "TS1": 1}', Fault.NO_TIME),
        (b'{"time": true, "TS1": 1}', Fault.NO_TIME),
        (b'{"time": NaN, "TS1": 1}', Fault.NO_TIME),
        (b'{"time": -1, "TS1": 1}', Fault.NO_TIME),
        (b'{"time": 1e300, "TS1": 1}', Fault.NO_TIME),
        (b'{"time": "0001-01-01T00:00:00+14:00", "TS1": 1}', Fault.NO_TIME),
        (b'{"time": "2123-01-01T00:00:00Z", "TS1": 1}', Fault.IN_FUTURE),
    ],
)
def test_unreadable_message_puts_all_its_properties_under_suspicion(body: bytes, fault: Fault) -> None:
    decoded = decoder.decode(SENSORS, body, NOW_MS)
    assert (decoded.fault, decoded.readings) == (fault, ())
    assert decoded.suspects == {"TS1": "degC", "SE": "%"}


@pytest.mark.parametrize(
    "time", ['"2023-11-14T22:13:20"', '"2023-11-14T23:13:20+01:00"', "1700000000000", "1700000000000.4"]
)
def test_source_time_is_iso_8601_or_milliseconds(time: str) -> None:
    (reading,) = decoder.decode(SENSORS, f'{{"time": {time}, "SE": 1}}'.encode(), NOW_MS).readings
    assert reading.property.source_time_ms == 1_700_000_000_000


def test_inspection_gives_class_numbers_in_the_order_of_the_heads() -> None:
    decoded = decoder.decode(INSPECTION, payload(cycle=7, pump="leaking", cooler="full"), NOW_MS)
    assert (decoded.inspection, decoded.fault) == (Inspection(NOW_MS - 5, (2, 1)), None)


@pytest.mark.parametrize("unknown", [-1, None])
def test_inspection_may_leave_a_head_unknown(unknown: int | None) -> None:
    decoded = decoder.decode(INSPECTION, payload(cooler=unknown), NOW_MS)
    assert (decoded.inspection, decoded.fault) == (Inspection(NOW_MS - 5, (-1, -1)), None)


@pytest.mark.parametrize("strange", ["molten", 2, ["full"], {}, True])
def test_class_that_the_task_does_not_have_is_unknown_and_named(strange: object) -> None:
    decoded = decoder.decode(INSPECTION, payload(cooler=strange, pump="tight"), NOW_MS)
    assert decoded.inspection == Inspection(NOW_MS - 5, (-1, 0))
    assert decoded.fault is Fault.UNKNOWN_CLASS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(
    st.sampled_from(["time", "meta", "values", "TS1", "SE", "cooler", "pump"]), json_values | st.just(NOW_MS)
)


@given(
    st.sampled_from([SENSORS, INSPECTION, "plant/x/flow", "elsewhere"]) | st.text(),
    st.binary() | json_values.map(lambda v: json.dumps(v).encode()) | documents.map(lambda v: json.dumps(v).encode()),
)
@example(SENSORS, b'{"time":"2023-11-14T22:13:20+23:59:59.999999","TS1":1}')
def test_whatever_comes_decodes_without_an_exception(topic: str, body: bytes) -> None:
    decoded = decoder.decode(topic, body, NOW_MS)
    for reading in decoded.readings:
        assert (reading.property.quality is Quality.GOOD) == (reading.fault is None)
        assert reading.fault is not None or reading.property.value is not None


def test_mapping_tells_units_deadlines_and_what_to_subscribe_to() -> None:
    assert {name: p.unit for name, p in mapping.properties.items()} == {"TS1": "degC", "SE": "%", "flow": "l/min"}
    assert mapping.properties["TS1"].stale_after_s == 2.5
    assert mapping.filters == ("plant/rig1/sensors", "plant/+/flow", "plant/rig1/inspection")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("", "source"),
        ("[[source]\n", "sensors.toml"),
        ('[[source]]\ntopic = "a"\n', "properties"),
        (MAPPING.replace('unit = "%"', 'unit = "%"\ntypo = 1'), "typo"),
        (MAPPING.replace("minimum = 0", "minimum = 300"), "TS1.minimum"),
        (MAPPING.replace("properties.flow]", "properties.TS1]"), "each property once"),
        (MAPPING.replace("plant/+/flow", "plant/#"), "`#`"),
        (MAPPING.replace("stale_after_s = 2.5", "stale_after_s = 0"), "stale_after_s"),
    ],
)
def test_wrong_mapping_is_refused_with_file_and_key(broken: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"sensors\.toml") as caught:
        load_sensor_map(broken.encode(), "sensors.toml")
    assert says in str(caught.value)
