"""A host follows the sessions of edge nodes: births, aliases, sequence numbers, deaths, and whatever else comes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sensing import sparkplug, sparkplug_payload
from edge_agent.sensing.decoding import Decoded, Heard
from edge_agent.sensing.hearing import Hearing
from edge_agent.sensing.mapping import load_sensor_map
from edge_agent.sensing.values import Fault
from gemel.twin.state import Quality

MAPPING = b"""
[assets]
"Press 1" = "press-1"
[[sparkplug]]
group = "hall"
device = "{asset}"
[sparkplug.properties.TS1]
called = "Temperature/Oil"
unit = "degC"
source_unit = "degF"
maximum = 150
[sparkplug.properties.count]
unit = "count"
[[sparkplug]]
group = "hall"
[sparkplug.properties.load]
unit = "%"
"""
NOW_MS = 1_700_000_000_000
INT8, INT16, INT32, INT64, UINT32, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING = 1, 2, 3, 4, 7, 8, 9, 10, 11, 12
TEMPLATE = 19
FIELD = {FLOAT: "float_value", DOUBLE: "double_value", BOOLEAN: "boolean_value", STRING: "string_value"}


def metric(name: str = "", value: Any = None, datatype: int = DOUBLE, alias: int | None = None, **more: Any) -> Any:
    """A metric as an edge node builds it; `quality` goes into its property set."""
    made = sparkplug_payload._PAYLOAD().metrics.add(timestamp=more.pop("timestamp", NOW_MS))
    if name:
        made.name, made.datatype = name.encode(), datatype
    if alias is not None:
        made.alias = alias
    if "quality" in more:
        made.properties.keys.append(b"Quality")
        made.properties.values.add(int_value=more["quality"])
    if value is None:
        made.is_null = True
    else:
        field = FIELD.get(datatype, "long_value" if datatype in (INT64, UINT64) else "int_value")
        setattr(made, field, value)
    return made


def template(name: str, *members: Any, is_definition: bool = False, **more: Any) -> Any:
    """An instance of a template, or its definition."""
    made = metric(name, 0, TEMPLATE, **more)
    made.template_value.metrics.extend(members)
    made.template_value.is_definition = is_definition
    return made


def payload(*metrics: Any, seq: int | None = None, timestamp: int = NOW_MS) -> bytes:
    made = sparkplug_payload._PAYLOAD(timestamp=timestamp)
    made.metrics.extend(metrics)
    if seq is not None:
        made.seq = seq
    return bytes(made.SerializeToString())


class EdgeNode:
    """A node with one device, as the host hears it."""

    def __init__(self, *, assets: bytes = MAPPING) -> None:
        self.hearing = Hearing(load_sensor_map(assets, "sensors.toml"), (), "gateway")
        self.monotonic_s = 0.0

    def say(self, kind: str, body: bytes, device: str = "", node: str = "edge") -> Heard:
        topic = f"spBv1.0/hall/{kind}/{node}" + (f"/{device}" if device else "")
        parts = [*self.hearing.hear(topic, body, NOW_MS + 10, self.monotonic_s)]
        commands = [part.command for part in parts if part.command is not None]
        assert len(commands) <= 1
        return Heard(tuple(decoded for part in parts for decoded in part.decoded), *commands)

    def birth(self, bd_seq: int = 0) -> Heard:
        self.say("NBIRTH", payload(metric("bdSeq", bd_seq, INT64), metric("load", 50, INT32, alias=1), seq=0))
        temperature = metric("Temperature/Oil", 212.0, DOUBLE, alias=2)
        counter = metric("count", 7, UINT32, alias=3)
        return self.say("DBIRTH", payload(temperature, counter, metric("other", 1, INT8, alias=4), seq=1), "Press 1")


@pytest.fixture
def node() -> EdgeNode:
    node = EdgeNode()
    node.birth()
    return node


def only(heard: Heard) -> Decoded:
    (decoded,) = heard.decoded
    return decoded


def values(decoded: Decoded) -> dict[str, float | None]:
    return {reading.name: reading.property.value for reading in decoded.readings}


def asks(heard: Heard) -> bool:
    if heard.command is None:
        return False
    said = sparkplug_payload.parse(heard.command.payload)
    assert (heard.command.topic, said.metrics[0].name) == ("spBv1.0/hall/NCMD/edge", b"Node Control/Rebirth")
    assert said.metrics[0].boolean_value
    return True


def test_birth_names_types_and_aliases_and_data_is_read_by_them() -> None:
    node = EdgeNode()
    born = only(node.birth())
    assert (born.asset, values(born)) == ("press-1", {"TS1": pytest.approx(100.0), "count": 7.0})
    decoded = only(node.say("DDATA", payload(metric(value=32.0, alias=2), seq=2), "Press 1"))
    (reading,) = decoded.readings
    assert (reading.name, reading.property.value) == ("TS1", pytest.approx(0.0, abs=1e-9))
    assert (reading.property.unit, reading.property.source_time_ms) == ("degC", NOW_MS)
    own = only(node.say("NDATA", payload(metric(value=60, datatype=INT32, alias=1), seq=3)))
    assert (own.asset, values(own)) == ("gateway", {"load": 60.0})


def test_data_before_a_birth_asks_for_it_and_not_again_at_once() -> None:
    node = EdgeNode()
    first = node.say("NDATA", payload(metric(value=1.0, alias=1), seq=9))
    assert (only(first).fault, asks(first)) == (Fault.NOT_BORN, True)
    assert not asks(node.say("NDATA", payload(metric(value=1.0, alias=1), seq=10)))
    asked = 0
    for node.monotonic_s in range(1, 601):
        asked += asks(node.say("NDATA", payload(seq=node.monotonic_s % 256)))
    assert 5 <= asked <= 7  # ever more rarely


def test_gap_in_the_sequence_shuts_data_out_until_the_next_birth(node: EdgeNode) -> None:
    gap = node.say("DDATA", payload(metric(value=99.0, alias=2), seq=3), "Press 1")
    assert (only(gap).fault, only(gap).readings, asks(gap)) == (Fault.SEQUENCE_GAP, (), True)
    assert only(node.say("DDATA", payload(metric(value=99.0, alias=2), seq=4), "Press 1")).readings == ()
    assert values(only(node.birth())) == {"TS1": pytest.approx(100.0), "count": 7.0}
    assert only(node.say("DDATA", payload(metric(value=50.0, alias=2), seq=2), "Press 1")).fault is None


def test_sequence_goes_around_and_a_repetition_is_a_duplicate(node: EdgeNode) -> None:
    for seq in itertools.chain(range(2, 256), range(3)):
        assert only(node.say("DDATA", payload(metric(value=99.0, alias=2), seq=seq), "Press 1")).fault is None
    again = node.say("DDATA", payload(metric(value=99.0, alias=2), seq=2), "Press 1")
    assert (only(again).fault, asks(again)) == (Fault.DUPLICATE, False)


def test_unknown_alias_asks_for_a_rebirth_and_known_ones_still_count(node: EdgeNode) -> None:
    heard = node.say("DDATA", payload(metric(value=32.0, alias=2), metric(value=1.0, alias=77), seq=2), "Press 1")
    assert asks(heard)
    assert [decoded.fault for decoded in heard.decoded] == [None, Fault.NOT_BORN]
    assert values(heard.decoded[0]) == {"TS1": pytest.approx(0.0, abs=1e-9)}


def test_unmapped_metrics_and_machines_are_followed_in_silence(node: EdgeNode) -> None:
    assert values(only(node.say("DDATA", payload(metric(value=1, datatype=INT8, alias=4), seq=2), "Press 1"))) == {}
    assert node.say("NCMD", payload()) == Heard()
    assert only(node.say("NBIRTH", payload(), node="a/b/c")).fault is Fault.UNKNOWN_TOPIC


@pytest.mark.parametrize(
    ("datatype", "sent", "meant"),
    [
        (INT8, 0xFB, -5),
        (INT8, 0xFFFFFFFB, -5),
        (INT16, 0xFFFE, -2),
        (INT32, 0xFFFFFFFF, -1),
        (INT64, 2**64 - 3, -3),
        (UINT32, 0xFFFFFFFF, 4294967295),
        (INT8, 127, 127),
    ],
)
def test_signed_integers_are_unwrapped(datatype: int, sent: int, meant: int) -> None:
    node = EdgeNode()
    node.say("NBIRTH", payload(metric("load", sent, datatype, alias=1), seq=0))
    data = only(node.say("NDATA", payload(metric(value=sent, datatype=datatype, alias=1), seq=1)))
    assert values(data) == {"load": meant}


@pytest.mark.parametrize(
    ("code", "quality", "fault"),
    [(192, Quality.GOOD, None), (0, Quality.BAD, Fault.SAID_BAD), (500, Quality.STALE, Fault.SAID_BAD)],
)
def test_quality_is_the_nodes_word_and_stands_until_it_says_otherwise(
    node: EdgeNode, code: int, quality: Quality, fault: Fault | None
) -> None:
    for seq, more in ((2, {"quality": code}), (3, {})):
        body = payload(metric(value=32.0, alias=2, **more), seq=seq)
        (reading,) = only(node.say("DDATA", body, "Press 1")).readings
        assert (reading.property.quality, reading.fault) == (quality, fault)


def test_boolean_is_one_or_zero_and_null_where_it_says_nothing() -> None:
    node = EdgeNode()
    born = node.say("NBIRTH", payload(metric("load", value=True, datatype=BOOLEAN, alias=1), seq=0))
    assert values(born.decoded[-1]) == {"load": 1}
    for seq, (told, meant) in enumerate(
        [(metric(value=False, datatype=BOOLEAN, alias=1), 0), (metric(alias=1), None)]
    ):
        assert values(only(node.say("NDATA", payload(told, seq=seq + 1)))) == {"load": meant}
    wrong = metric(value=7, datatype=INT32, alias=1)  # a number where the birth promised a Boolean
    (reading,) = only(node.say("NDATA", payload(wrong, seq=3))).readings
    assert reading.fault is Fault.NOT_A_NUMBER


TEMPLATES = b"""
[[sparkplug]]
group = "hall"
[sparkplug.properties.speed]
called = "Motor/Speed"
unit = "rpm"
[sparkplug.properties.current]
called = "Motor/Drive/Current"
unit = "A"
[sparkplug.properties.ghost]
called = "_types_/Speed"
unit = "rpm"
"""


def test_members_of_a_template_are_metrics_by_path_and_later_by_the_instances_alias() -> None:
    node = EdgeNode(assets=TEMPLATES)
    drive = template("Drive", metric("Current", 4.5, FLOAT), timestamp=NOW_MS - 5)
    drive.template_value.metrics[0].timestamp = 0
    born = node.say(
        "NBIRTH",
        payload(
            template("_types_", metric("Speed", 0.0), is_definition=True),
            template("Motor", metric("Speed", 1500.0), drive, alias=7, quality=64),
            seq=0,
        ),
    )
    told = {reading.name: reading.property for reading in born.decoded[-1].readings}
    assert {name: p.value for name, p in told.items()} == {"speed": 1500.0, "current": 4.5}
    assert {p.quality for p in told.values()} == {Quality.UNCERTAIN}  # the instance's word holds for its members
    assert told["current"].source_time_ms == NOW_MS - 5  # and so does its time

    part = template("", metric("Speed", 1600.0), alias=7, timestamp=NOW_MS + 1)
    assert values(only(node.say("NDATA", payload(part, seq=1)))) == {"speed": 1600.0}
    stranger = node.say("NDATA", payload(template("", metric("Speed", 1.0), alias=8), seq=2))
    assert asks(stranger)


def length(part: bytes) -> bytes:
    """As protobuf writes it before a part."""
    left, digits = len(part), list[int]()
    while left > 0x7F:
        digits.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*digits, left])


def test_more_members_than_are_kept_and_templates_in_templates_without_end_are_refused() -> None:
    node = EdgeNode(assets=TEMPLATES)
    wide = template("Motor", *(metric(f"m{n}", 1.0) for n in range(sparkplug.MAX_METRICS)))
    assert only(node.say("NBIRTH", payload(wide, seq=0))).fault is Fault.HUGE
    empty = template("Motor", *(template("", timestamp=0) for _ in range(sparkplug.MAX_METRICS)))
    assert only(node.say("NBIRTH", payload(empty, seq=0))).fault is Fault.HUGE
    deep = b""
    for _ in range(1000):
        instance = b"\x12" + length(deep) + deep
        deep = b"\x92\x01" + length(instance) + instance
    assert only(node.say("NBIRTH", b"\x12" + length(deep) + deep)).fault is Fault.MALFORMED


def test_large_birth_is_read_in_parts_and_whole() -> None:
    count = sparkplug.MAX_METRICS - 1
    text = '[[sparkplug]]\ngroup = "hall"\n'
    text += "".join(f'[sparkplug.properties.m{n}]\nunit = "count"\n' for n in range(count))
    hearing = Hearing(load_sensor_map(text.encode(), "sensors.toml"), (), "gateway")

    def hears(kind: str, seq: int, name: str) -> list[list[tuple[str, float | None]]]:
        metrics = [metric(name and f"{name}{n}", float(n + seq), alias=n) for n in range(count)]
        parts = [*hearing.hear(f"spBv1.0/hall/{kind}/edge", payload(*metrics, seq=seq), NOW_MS, 0.0)]
        read = [[(r.name, r.property.value) for d in part.decoded for r in d.readings] for part in parts]
        return [part for part in read if part]

    for kind, seq, name in (("NBIRTH", 0, "m"), ("NDATA", 1, "")):
        parts = hears(kind, seq, name)
        assert max(map(len, parts)) == sparkplug.PART
        assert [one for part in parts for one in part] == [(f"m{n}", float(n + seq)) for n in range(count)]


def test_null_and_what_is_no_number_is_bad(node: EdgeNode) -> None:
    (null,) = only(node.say("DDATA", payload(metric(alias=2), seq=2), "Press 1")).readings
    assert (null.property.value, null.property.quality, null.fault) == (None, Quality.BAD, Fault.NOT_A_NUMBER)
    text = metric("Temperature/Oil", b"hot", STRING, alias=2)
    (worded,) = only(node.say("DDATA", payload(text, seq=3), "Press 1")).readings
    assert worded.fault is Fault.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("time_ms", "fault"), [(0, Fault.NO_TIME), (2**60, Fault.NO_TIME), (NOW_MS * 2, Fault.IN_FUTURE)]
)
def test_metric_without_a_possible_time_puts_its_property_under_suspicion(
    node: EdgeNode, time_ms: int, fault: Fault
) -> None:
    body = payload(metric(value=32.0, alias=2, timestamp=time_ms), seq=2, timestamp=0)
    decoded = only(node.say("DDATA", body, "Press 1"))
    assert (decoded.fault, decoded.suspects, decoded.readings) == (fault, {"TS1": "degC"}, ())


def test_death_of_this_session_silences_node_and_devices_and_an_older_one_does_not() -> None:
    node = EdgeNode()
    node.birth(bd_seq=4)
    assert only(node.say("NDEATH", payload(metric("bdSeq", 3, INT64)))).fault is Fault.OLD_DEATH
    dead = node.say("NDEATH", payload(metric("bdSeq", 4, INT64)))
    assert {decoded.asset: decoded.silenced for decoded in dead.decoded} == {
        "gateway": ("load",),
        "press-1": ("TS1", "count"),
    }
    assert only(node.say("NDATA", payload(metric(value=1.0, alias=1), seq=2))).fault is Fault.NOT_BORN


def test_death_of_a_device_silences_it_alone(node: EdgeNode) -> None:
    assert only(node.say("DDEATH", payload(seq=2), "Press 1")).silenced == ("TS1", "count")
    assert only(node.say("NDATA", payload(metric(value=60, datatype=INT32, alias=1), seq=3))).fault is None
    late = node.say("DDATA", payload(metric(value=1.0, alias=2), seq=4), "Press 1")
    assert (only(late).fault, asks(late)) == (Fault.NOT_BORN, True)


def test_new_session_silences_what_the_old_one_left_and_a_rebirth_does_not(node: EdgeNode) -> None:
    again = node.say("NBIRTH", payload(metric("bdSeq", 0, INT64), seq=0))
    assert not any(decoded.silenced for decoded in again.decoded)
    node.birth(bd_seq=0)
    other = node.say("NBIRTH", payload(metric("bdSeq", 1, INT64), seq=0))
    assert ("TS1", "count") in [decoded.silenced for decoded in other.decoded]


def test_death_of_a_node_never_heard_silences_what_the_mapping_names() -> None:
    assert only(EdgeNode().say("NDEATH", payload(metric("bdSeq", 3, INT64)))).silenced == ("load",)


def test_too_many_nodes_metrics_and_bytes_are_refused(monkeypatch: pytest.MonkeyPatch, node: EdgeNode) -> None:
    assert only(node.say("NDATA", b" " * (sparkplug.MAX_PAYLOAD_BYTES + 1))).fault is Fault.HUGE
    many = payload(*(metric(alias=n, value=1.0) for n in range(sparkplug.MAX_METRICS + 1)), seq=2)
    assert only(node.say("NDATA", many)).fault is Fault.HUGE
    for number in range(1, sparkplug.MAX_NODES):
        assert only(node.say("NBIRTH", payload(seq=0), node=f"n{number}")).fault is None
    assert only(node.say("NBIRTH", payload(seq=0), node="one-more")).fault is Fault.OVER_BOUND
    assert only(node.say("NDATA", payload(seq=2))).fault is None


def test_device_whose_name_is_no_asset_is_refused(node: EdgeNode) -> None:
    assert only(node.say("DBIRTH", payload(seq=2), "Press 2")).fault is Fault.BAD_NAME


kinds = st.sampled_from(["NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH", "NCMD", "STATE", "X", ""])
metrics = st.builds(
    metric,
    name=st.sampled_from(["", "bdSeq", "Temperature/Oil", "load"]) | st.text(max_size=3),
    value=st.none() | st.integers(0, 2**32 - 1),
    datatype=st.sampled_from([INT8, INT32, INT64, UINT32, UINT64]),
    alias=st.none() | st.integers(0, 4) | st.just(2**64 - 1),
    timestamp=st.sampled_from([0, NOW_MS, 2**63]),
    quality=st.sampled_from([0, 64, 192, 500, 2**32 - 1]),
)
templates = st.recursive(
    metrics,
    lambda inner: st.builds(
        lambda name, members, **more: template(name, *members, **more),
        st.sampled_from(["", "load", "Temperature"]),
        st.lists(inner, max_size=3),
        alias=st.none() | st.integers(0, 4),
        is_definition=st.booleans(),
    ),
    max_leaves=6,
)
payloads = st.builds(
    lambda metrics, seq: payload(*metrics, seq=seq), st.lists(templates, max_size=4), st.integers(0, 9)
)


@given(st.lists(st.tuples(kinds, st.binary(max_size=60) | payloads, st.sampled_from(["", "press-1", "ü", "a/b"]))))
def test_whatever_comes_decodes_without_an_exception(messages: list[tuple[str, bytes, str]]) -> None:
    node = EdgeNode()
    for kind, body, device in messages:
        heard = node.say(kind, body, device)
        for reading in (reading for decoded in heard.decoded for reading in decoded.readings):
            assert (reading.fault is None) == (reading.property.quality in (Quality.GOOD, Quality.UNCERTAIN))
            assert reading.fault is not None or reading.property.value is not None


@given(st.binary(max_size=300))
def test_flipped_and_cut_births_decode_without_an_exception(noise: bytes) -> None:
    whole = payload(metric("load", 50, INT32, alias=1, quality=192), metric("bdSeq", 0, INT64), seq=0)
    flipped = bytes(a ^ b for a, b in itertools.zip_longest(whole, noise[: len(whole)], fillvalue=0))
    for body in (flipped, whole[: len(noise)]):
        EdgeNode().say("NBIRTH", body)
