"""The grammar of conditions: whatever is written is read again, and whatever is not of it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import Malformed
from gemel.twin.state import Diagnosis, InputWeight, Property, Quality, Twin, blank
from twin_registry.where import MAX_LENGTH, Condition, fulfils, parse

addresses = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=40)
compares = st.sampled_from(["==", "!=", ">=", "<=", ">", "<"])
OPERATORS = {
    "==": float.__eq__,
    "!=": float.__ne__,
    ">=": float.__ge__,
    "<=": float.__le__,
    ">": float.__gt__,
    "<": float.__lt__,
}


def twin(value: float | None, quality: Quality = Quality.GOOD, condition: str = "good") -> Twin:
    return replace(
        blank("north", "press-1"),
        properties={"TS1": Property(value, "degC", 1, 1, quality)},
        health={"cooler": Diagnosis(condition, 0.7, (InputWeight("TS1", 1.0),), 1, Quality.GOOD)},
    )


@given(addresses, compares, numbers | texts)
def test_condition_that_is_written_is_read_again(address: str, compare: str, value: float | str) -> None:
    condition = Condition(address, compare, value)
    assert parse(str(condition)) == condition


@given(st.text(max_size=300))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = parse(text)
    except Malformed:
        return
    assert parse(str(condition)) == condition


@given(compares, numbers, numbers)
def test_numbers_are_compared_as_numbers(compare: str, standing: float, wanted: float) -> None:
    assert parse(f"TS1{compare}{wanted!r}").holds(twin(standing)) == OPERATORS[compare](standing, wanted)


@pytest.mark.parametrize("compare", OPERATORS)
@pytest.mark.parametrize("known", [twin(None), twin(50.0, Quality.STALE), twin(50.0, Quality.BAD), blank("n", "a")])
def test_nothing_holds_where_nothing_trustworthy_stands(known: Twin, compare: str) -> None:
    assert not parse(f"TS1{compare}50").holds(known)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("health.cooler.condition==near_failure", True),
        ('health.cooler.condition == "near_failure"', True),
        ("health.cooler.condition!=good", True),
        ("health.cooler.condition>a", False),
        ("health.cooler.condition==1", False),
        ("health.cooler.condition!=1", True),
        ("health.cooler.confidence>=0.7", True),
        ("health.cooler.why==TS1", True),
        ("TS1==hot", False),
        ("TS1 > -1e3", True),
    ],
)
def test_conclusions_are_compared_like_readings_and_kinds_are_never_equal(text: str, holds: bool) -> None:
    assert parse(text).holds(twin(1.0, condition="near_failure")) == holds


def test_all_conditions_must_hold_and_none_holds_for_everybody() -> None:
    assert fulfils(twin(1.0), [])
    assert fulfils(twin(1.0), [parse("TS1>0"), parse("TS1<2")])
    assert not fulfils(twin(1.0), [parse("TS1>0"), parse("TS1>2")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TS1",
        "TS1>",
        ">40",
        "TS1=40",
        "TS1>40 or 1==1",
        "TS1>4\n0",
        'TS1=="a',
        "TS1==1e999",
        "x" * MAX_LENGTH + ">1",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)
