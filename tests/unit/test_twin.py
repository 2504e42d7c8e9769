"""The twin document and its changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import Malformed
from gemel.twin.state import (
    MAX_TWIN_BYTES,
    Diagnosis,
    InputWeight,
    Property,
    Quality,
    RunningModel,
    Twin,
    blank,
    diagnose,
    distrust,
    from_json,
    hold,
    install,
    mark_stale,
    merge,
    supersedes,
    to_json,
)
from gemel.wire.types import sha256

names = st.sampled_from(["TS1", "TS2", "flow.rate", "9"])
times = st.integers(0, 5) | st.integers(0, 2**53)  # small ones, so that ties happen
qualities = st.sampled_from(Quality)
values = st.none() | st.floats(allow_nan=False, allow_infinity=False)
readings = st.builds(Property, values, st.sampled_from(["degC", "%"]), times, times, qualities)
weights = st.builds(InputWeight, names, st.floats(0, 1))
diagnoses = st.builds(
    Diagnosis, st.sampled_from(["full", "reduced"]), st.floats(0, 1), st.tuples(weights), times, qualities
)
models = st.builds(RunningModel, st.sampled_from([sha256(b"a"), sha256(b"b")]), st.integers(0, 2))
twins = st.builds(
    Twin,
    st.just("gemel.twin/1"),
    st.just("north"),
    st.just("press-1"),
    st.integers(0, 2**53),
    st.dictionaries(names, readings),
    st.dictionaries(names, diagnoses),
    st.none() | models,
)


def good(value: float, at_ms: int, ingest_ms: int | None = None) -> Property:
    return Property(value, "degC", at_ms, at_ms if ingest_ms is None else ingest_ms, Quality.GOOD)


@given(twins)
def test_json_round_trip_gives_equal_twin_and_equal_bytes(twin: Twin) -> None:
    assert from_json(to_json(twin)) == twin
    assert to_json(from_json(to_json(twin))) == to_json(twin)


@given(twins)
def test_merge_with_itself_changes_nothing(twin: Twin) -> None:
    assert merge(twin, twin) == twin


@given(twins, twins)
def test_merge_does_not_depend_on_the_order_of_its_arguments(one: Twin, other: Twin) -> None:
    assert to_json(merge(one, other)) == to_json(merge(other, one))


@given(twins, twins, twins)
def test_merge_does_not_depend_on_grouping(a: Twin, b: Twin, c: Twin) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(twins, st.dictionaries(names, readings), st.lists(names))
def test_version_rises_by_one_with_every_change_and_not_otherwise(
    twin: Twin, arriving: dict[str, Property], silent: list[str]
) -> None:
    for after in (hold(twin, arriving), mark_stale(twin, silent), distrust(twin, dict.fromkeys(silent, "%"), 5)):
        assert after.version == twin.version + (after is not twin)
    assert hold(twin, {}) is mark_stale(twin, []) is distrust(twin, {}, 5) is twin


def test_silent_property_becomes_stale_by_our_clock_and_recovers() -> None:
    machine_clock_ms = 5_000_000_000_000  # the source's clock says nothing about its age
    twin = hold(blank("north", "press-1"), {"TS1": good(2.0, machine_clock_ms, ingest_ms=1_000)})
    assert mark_stale(twin, []) is twin
    stale = mark_stale(twin, ["TS1"])
    assert stale.properties["TS1"].quality is Quality.STALE
    assert stale.properties["TS1"].value == 2.0
    assert mark_stale(stale, ["TS1"]) is stale
    assert mark_stale(twin, ["unheard"]) is twin
    fresh = hold(stale, {"TS1": good(3.0, machine_clock_ms + 1, ingest_ms=10_000)})
    assert fresh.properties["TS1"].quality is Quality.GOOD


def test_distrusted_property_keeps_its_value_and_unknown_one_enters_without_a_value() -> None:
    twin = hold(blank("north", "press-1"), {"TS1": good(2.0, 200)})
    bad = distrust(twin, {"TS1": "degC", "TS2": "%"}, 300)
    assert bad.version == twin.version + 1
    assert bad.properties["TS1"] == Property(2.0, "degC", 200, 300, Quality.BAD)
    assert bad.properties["TS2"] == Property(None, "%", 0, 300, Quality.BAD)
    recovered = hold(bad, {"TS2": Property(9.0, "%", 1, 400, Quality.GOOD)})
    assert recovered.properties["TS2"].quality is Quality.GOOD


def test_health_of_the_previous_model_does_not_stay_beside_the_new_one() -> None:
    old, new = RunningModel(sha256(b"a"), 1), RunningModel(sha256(b"b"), 2)
    health = {"cooler": Diagnosis("full", 0.7, (InputWeight("TS1", 0.5),), 100, Quality.GOOD)}
    twin = diagnose(blank("north", "press-1"), old, health)
    assert diagnose(twin, old, health) is twin
    swapped = install(twin, new)
    assert (swapped.model, swapped.health) == (new, {})
    assert merge(swapped, twin).health == {}


def test_documents_of_two_machines_do_not_merge() -> None:
    with pytest.raises(ValueError, match="two machines"):
        merge(blank("north", "press-1"), blank("north", "press-2"))


def test_document_is_superseded_by_a_higher_version_or_by_an_agent_that_began_anew() -> None:
    first = hold(blank("north", "press-1"), {"TS1": good(2.0, 200)})
    second = hold(first, {"TS1": good(3.0, 300)})
    anew = hold(blank("north", "press-1"), {"TS1": good(4.0, 400)})
    assert supersedes(first, None)
    assert supersedes(second, first)
    assert not supersedes(second, second)
    assert not supersedes(first, second)
    assert supersedes(anew, second)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (MAX_TWIN_BYTES + 1),
        to_json(blank("north", "press-1")).replace(b"twin/1", b"twin/2"),
        to_json(blank("north", "press-1")).replace(b'"press-1"', b'"Press/1"'),
        to_json(blank("north", "press-1")).replace(b'"press-1"', b'"press-1\\n"'),
        to_json(blank("north", "press-1")).replace(b'"version":0', b'"version":-1'),
        to_json(blank("north", "press-1")).replace(b'"version":0', b'"version":NaN'),
    ],
)
def test_anything_but_a_twin_document_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_json(data)


@given(st.binary())
def test_arbitrary_bytes_are_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_json(data)


def test_additions_of_a_later_minor_form_are_ignored() -> None:
    document = to_json(blank("north", "press-1")).replace(b"{", b'{"added":{"deep":[1,2]},', 1)
    assert from_json(document) == blank("north", "press-1")
