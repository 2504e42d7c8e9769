"""Desired values: what is taken up, what is refused, and how it ends."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import Malformed, Refused
from gemel.twin.desired import (
    LONGEST_RETRY_S,
    MAX_CHANGE_BYTES,
    REMEMBERED,
    DesiredBook,
    DesiredChange,
    change_from_json,
    reports,
    request,
    retry_delay_s,
    settle,
)
from gemel.twin.state import DesiredState, Property, Quality, Settable
from gemel.wire.reasons import Reason

SETTABLE = {"speed": Settable("rpm", 0.0, 3000.0), "valve": Settable("%")}
ASKED = DesiredChange("a", "speed", 1500.0, "rpm", deadline_ms=2000)


def asked(book: DesiredBook = DesiredBook(), *, version: int = 7, now_ms: int = 1000, **changes: Any) -> DesiredBook:  # noqa: B008  frozen
    return request(book, replace(ASKED, **changes), SETTABLE, version=version, now_ms=now_ms)


def test_request_is_pending_in_the_next_version() -> None:
    standing = asked().desired["speed"]
    assert (standing.id, standing.value, standing.state) == ("a", 1500.0, DesiredState.PENDING)
    assert (standing.version, standing.since_ms, standing.deadline_ms) == (8, 1000, 2000)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"property": "color"}, Reason.UNKNOWN_PROPERTY),
        ({"unit": "Hz"}, Reason.WRONG_UNIT),
        ({"value": 3000.5}, Reason.OUT_OF_RANGE),
        ({"value": -1.0}, Reason.OUT_OF_RANGE),
        ({"deadline_ms": 1000}, Reason.LATE),
        ({"expected_version": 8}, Reason.VERSION_CONFLICT),
    ],
)
def test_request_that_does_not_hold_is_refused_with_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        asked(**changes)
    assert refused.value.reason == reason


def test_request_on_an_older_look_conflicts_only_where_that_property_was_asked_for_since() -> None:
    book = asked(version=7)  # enters with version 8
    with pytest.raises(Refused, match="version_conflict"):
        asked(book, id="b", expected_version=7, version=30)
    assert asked(book, id="b", expected_version=8, version=30).desired["speed"].id == "b"
    other = asked(book, id="c", property="valve", unit="%", expected_version=7, version=30)
    assert other.desired["valve"].id == "c"


def test_repetition_changes_nothing_even_after_another_request_took_its_place() -> None:
    book = asked(asked(), id="b", value=100.0)
    assert asked(book) is book
    assert asked(book, now_ms=999_999) is book  # a broker may bring it again after its deadline
    assert book.desired["speed"].id == "b"


@given(st.lists(st.integers(0, 1000), max_size=600))
def test_memory_of_requests_is_bounded_and_keeps_the_latest(numbers: list[int]) -> None:
    book = DesiredBook()
    for number in numbers:
        book = asked(book, id=str(number))
    assert len(book.seen) <= REMEMBERED
    assert len(set(book.seen)) == len(book.seen)


def test_pending_request_ends_once() -> None:
    book = asked()
    pending = book.desired["speed"]
    failed = settle(book, "speed", pending, 1500, failed="deadline")
    ended = failed.desired["speed"]
    assert (ended.state, ended.reason, ended.since_ms, ended.version) == (DesiredState.FAILED, "deadline", 1500, 8)
    assert settle(failed, "speed", pending, 1600) is failed
    assert settle(failed, "speed", ended, 1600) is failed
    applied = settle(book, "speed", pending, 1500).desired["speed"]
    assert (applied.state, applied.reason) == (DesiredState.APPLIED, "")


def test_request_that_gave_way_to_a_newer_one_ends_nothing() -> None:
    book = asked()
    newer = asked(book, id="b")
    assert settle(newer, "speed", book.desired["speed"], 1500) is newer


def test_machine_reports_the_value_only_with_a_trusted_reading_within_tolerance() -> None:
    reading = Property(1502.0, "rpm", 1, 2, Quality.GOOD)
    assert reports(reading, 1500.0, 2.0)
    assert not reports(reading, 1500.0, 1.9)
    assert not reports(None, 1500.0, 2.0)
    assert not reports(replace(reading, value=None), 1500.0, 2.0)
    for quality in (Quality.BAD, Quality.STALE):
        assert not reports(replace(reading, quality=quality), 1500.0, 2.0)


@given(st.integers(0, 10**6), st.floats(0.01, 3600))
def test_attempts_come_further_and_further_apart_up_to_a_bound(attempt: int, first_s: float) -> None:
    delay_s = retry_delay_s(attempt, first_s)
    assert first_s <= delay_s <= max(first_s, LONGEST_RETRY_S)
    assert delay_s <= retry_delay_s(attempt + 1, first_s)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 2000,
        b'{"id":"a"}',
        b'{"id":"a","property":"speed","value":NaN,"unit":"rpm","deadline_ms":1}',
        b'{"id":"a","property":"speed","value":1e999,"unit":"rpm","deadline_ms":1}',
        b'{"id":"a","property":"speed","value":"1","unit":"rpm","deadline_ms":1}',
        b'{"id":"a b","property":"speed","value":1,"unit":"rpm","deadline_ms":1}',
        b'{"id":"a","property":"speed","value":1,"unit":"rpm","deadline_ms":1,"expectedVersion":3}',
        b" " * (MAX_CHANGE_BYTES + 1),
    ],
)
def test_bytes_that_are_no_request_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        change_from_json(data)


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"id": text}).encode()))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        change_from_json(data)
