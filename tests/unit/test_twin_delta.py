"""Deltas of a twin: what they carry, and what a reader makes of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import Malformed
from gemel.twin.delta import apply, between, from_json, to_json
from gemel.twin.state import Property, Quality, Twin, blank, hold
from tests.unit.test_twin import twins as plain_twins
from tests.unit.test_twin_sections import alerts, desired, names, settable

twins = st.builds(
    lambda twin, *sections: replace(
        twin, version=twin.version // 2, **dict(zip(("settable", "desired", "alerts"), sections, strict=True))
    ),
    plain_twins,
    st.dictionaries(names, settable, max_size=3),
    st.dictionaries(names, desired, max_size=3),
    st.dictionaries(names, alerts, max_size=3),
)


@given(twins, twins)
def test_delta_laid_over_the_old_twin_gives_the_new_one(old: Twin, new: Twin) -> None:
    new = replace(new, version=old.version + 1)
    assert apply(old, from_json(to_json(between(old, new)))) == new


@given(twins, twins)
def test_delta_that_was_heard_already_changes_nothing(old: Twin, new: Twin) -> None:
    new = replace(new, version=old.version + 1)
    assert apply(new, between(old, new)) is new


@given(twins, twins, st.integers(1, 9))
def test_reader_that_missed_one_is_told_so(old: Twin, new: Twin, gap: int) -> None:
    behind, old = replace(old, version=5), replace(old, version=5 + gap)
    assert apply(behind, between(old, replace(new, version=99))) is None


def test_delta_carries_what_changed_and_nothing_else() -> None:
    reading = Property(1.0, "degC", 7, 8, Quality.GOOD)
    old = hold(blank("north", "press-1"), {"TS1": reading})
    old = hold(old, {"TS2": reading})
    new = hold(old, {"TS2": replace(reading, value=2.0, source_time_ms=9)})
    assert json.loads(to_json(between(old, new))) == {
        "schema": "gemel.twin.delta/1",
        "site": "north",
        "asset": "press-1",
        "from": 2,
        "to": 3,
        "properties": {
            "TS2": {"value": 2.0, "unit": "degC", "source_time_ms": 9, "ingest_time_ms": 8, "quality": "good"}
        },
    }


def test_delta_of_another_machine_is_our_own_mistake() -> None:
    one, other = blank("north", "press-1"), blank("north", "press-2")
    with pytest.raises(ValueError, match="press-2"):
        apply(one, between(other, replace(other, version=1)))


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_bytes_that_are_no_delta_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_json(data)
