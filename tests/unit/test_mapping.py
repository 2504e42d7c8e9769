"""The mapping file: topics that name assets and properties, plain numbers, units, and what is refused at start."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sensing.decoding import MAX_PAYLOAD_BYTES, Decoded
from edge_agent.sensing.hearing import Hearing
from edge_agent.sensing.mapping import check_inputs, load_sensor_map
from edge_agent.sensing.values import Fault
from gemel.errors import ConfigError
from gemel.learning.task import Input
from gemel.twin.state import Quality

NOW_MS = 1_700_000_000_000
MAPPING = """
[assets]
"Press 1" = "press-1"

[[source]]
topic = "plant/{asset}/{property}/value"
payload = "number"
[source.properties.flow]
called = "FS-1"
unit = "l/min"
source_unit = "m^3/h"
[source.properties.pressure]
unit = "bar"

[[source]]
topic = "works/+/{asset}/{property}"
time = "t"
[source.properties.TS1]
unit = "degC"
source_unit = "degF"
minimum = 0
maximum = 100
quality = "q"

[[source]]
topic = "old/press"
time = ""
[source.properties.TS2]
unit = "degC"

[[sparkplug]]
group = "hall"
node = "n1"
[sparkplug.properties.load]
unit = "%"
"""


def hear(topic: str, body: bytes, hearing: Hearing | None = None, now_ms: int = NOW_MS) -> Decoded:
    hearing = hearing or Hearing(load_sensor_map(MAPPING.encode(), "sensors.toml"), (), "gateway")
    (heard,) = hearing.hear(topic, body, now_ms, 0.0)
    (decoded,) = heard.decoded
    return decoded


def test_what_holds_for_an_edge_nodes_session_only_is_told_apart() -> None:
    assert load_sensor_map(MAPPING.encode(), "sensors.toml").of_sessions == ("load",)


def test_topic_names_asset_and_property_of_a_plain_number() -> None:
    decoded = hear("plant/Press 1/FS-1/value", b" 6.0\n")
    (reading,) = decoded.readings
    assert (decoded.asset, reading.name, reading.property.value) == ("press-1", "flow", pytest.approx(100.0))
    assert (reading.property.unit, reading.property.source_time_ms) == ("l/min", NOW_MS)
    other = hear("plant/press-2/pressure/value", b"-1e2")
    assert (other.asset, other.readings[0].property.value) == ("press-2", -100.0)


def test_json_value_is_converted_and_held_against_limits_in_the_twins_unit() -> None:
    (fine,) = hear("works/7/gateway/TS1", json.dumps({"t": NOW_MS, "value": 95}).encode()).readings
    assert (fine.property.value, fine.property.unit, fine.fault) == (pytest.approx(35.0), "degC", None)
    (hot,) = hear("works/7/gateway/TS1", json.dumps({"t": NOW_MS, "value": 300}).encode()).readings
    assert (hot.fault, hot.property.quality) == (Fault.OUT_OF_RANGE, Quality.BAD)


@pytest.mark.parametrize(
    ("said", "quality"),
    [
        ("good", Quality.GOOD),
        ("Uncertain", Quality.UNCERTAIN),
        (192, Quality.GOOD),
        (64, Quality.UNCERTAIN),
        (0, Quality.BAD),
        (500, Quality.STALE),
        ("bad", Quality.BAD),
        ("so-so", Quality.UNCERTAIN),
        (None, Quality.UNCERTAIN),
    ],
)
def test_sources_own_word_on_quality_counts(said: object, quality: Quality) -> None:
    body = json.dumps({"t": NOW_MS, "value": 95, "q": said}).encode()
    (reading,) = hear("works/7/gateway/TS1", body).readings
    assert reading.property.quality is quality
    assert (reading.fault is Fault.SAID_BAD) == (quality in (Quality.BAD, Quality.STALE))


def test_two_messages_without_a_time_in_one_millisecond_are_two_readings_even_where_our_clock_steps_back() -> None:
    hearing = Hearing(load_sensor_map(MAPPING.encode(), "sensors.toml"), (), "gateway")
    times = [
        hear("old/press", b'{"TS2": 1}', hearing, now).readings[0].property.source_time_ms
        for now in (NOW_MS, NOW_MS, NOW_MS - 1, NOW_MS - 3_600_000)
    ]
    assert times == [NOW_MS, NOW_MS + 1, NOW_MS + 2, NOW_MS - 3_600_000]


@pytest.mark.parametrize(
    ("topic", "body", "fault"),
    [
        ("plant/press-1/FS-9/value", b"1", Fault.UNKNOWN_PROPERTY),
        ("plant/Press 2/FS-1/value", b"1", Fault.BAD_NAME),
        ("plant/../FS-1/value", b"1", Fault.BAD_NAME),
        ("plant/press-1/FS-1", b"1", Fault.UNKNOWN_TOPIC),
        ("plant/press-1/FS-1/value", b"1" * (MAX_PAYLOAD_BYTES + 1), Fault.HUGE),
        ("plant/press-1/FS-1/value", "1".encode("utf-16"), Fault.MALFORMED),
        ("works/7/gateway/TS1", b'{"t": 1, "value": ' + b"[" * 50_000, Fault.MALFORMED),
    ],
)
def test_what_cannot_be_understood_says_why(topic: str, body: bytes, fault: Fault) -> None:
    assert hear(topic, body).fault is fault


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", Fault.NOT_A_NUMBER),
        (b"35,1", Fault.NOT_A_NUMBER),
        (b"1_000", Fault.NOT_A_NUMBER),
        ("٣٥".encode(), Fault.NOT_A_NUMBER),
        (b"0x10", Fault.NOT_A_NUMBER),
        (b"on", Fault.NOT_A_NUMBER),
        (b"NaN", Fault.NAN),
        (b"1e400", Fault.HUGE),
        (b"9" * 5_000, Fault.HUGE),
    ],
)
def test_text_that_is_no_number_is_a_bad_reading(body: bytes, fault: Fault) -> None:
    (reading,) = hear("plant/press-1/pressure/value", body).readings
    assert (reading.property.value, reading.property.quality, reading.fault) == (None, Quality.BAD, fault)


@given(st.binary() | st.text().map(str.encode) | st.floats().map(lambda x: str(x).encode()))
def test_whatever_comes_as_a_number_decodes_without_an_exception(body: bytes) -> None:
    decoded = hear("plant/press-1/pressure/value", body)
    assert decoded.fault is Fault.MALFORMED or len(decoded.readings) == 1


def test_subscriptions_are_the_topics_with_their_names_left_open() -> None:
    mapping = load_sensor_map(MAPPING.encode(), "sensors.toml")
    assert mapping.filters == ("plant/+/+/value", "works/+/+/+", "old/press", "spBv1.0/hall/+/n1/#")
    wider = load_sensor_map(MAPPING.replace('node = "n1"', 'node = "{asset}"').encode(), "sensors.toml")
    assert wider.filters[-1] == "spBv1.0/hall/+/+/#"


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('source_unit = "degF"', 'source_unit = "bar"', "source.properties.TS1.source_unit", "converts to degC"),
        ('unit = "bar"', 'unit = "barr"', "source.properties.pressure.unit", "Pint knows"),
        ("{asset}/{property}/value", "{asset}/x{property}/value", "topic", "whole levels"),
        ("{asset}/{property}/value", "{asset}/{asset}/value", "topic", "once"),
        ("{asset}/{property}/value", "a+/{property}/value", "topic", "whole level"),
        ("{asset}/{property}/value", "press/value", "source.payload", "one number"),
        ('unit = "bar"', 'unit = "bar"\ncalled = "FS-1"', "source.properties.called", "FS-1"),
        ('unit = "bar"', 'unit = "bar"\ndead_band_percent = 1', "pressure.dead_band_percent", "minimum and maximum"),
        ('unit = "bar"', 'unit = "bar"\nmax_rate_hz = 0', "sensor mapping", "max_rate_hz"),
        ('node = "n1"', 'node = "n/1"', "sensor mapping", "node"),
        ('"Press 1" = "press-1"', '"Press 1" = "Press 1"', "sensor mapping", "assets"),
        ('payload = "number"', 'payload = "xml"', "sensor mapping", "payload"),
    ],
)
def test_wrong_mapping_is_refused_with_file_and_key(old: str, new: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"sensors\.toml") as caught:
        load_sensor_map(MAPPING.replace(old, new, 1).encode(), "sensors.toml")
    assert key in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", ["degF", "K", "bar", "no-unit"])
def test_a_property_in_another_unit_than_the_task_learns_in_is_refused(unit: str) -> None:
    mapping = load_sensor_map(MAPPING.encode(), "sensors.toml")
    check_inputs(
        mapping, (Input("TS1", "degC", 0, 100), Input("load", "percent", 0, 1), Input("none", "s", 0, 1)), "f"
    )
    with pytest.raises(ConfigError, match=r"properties\.TS1\.unit"):
        check_inputs(mapping, (Input("TS1", unit, 0, 100),), "sensors.toml")
