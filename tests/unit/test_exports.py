"""A historian's exports: lines by time, classes by name, and where a file does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import ConfigError
from gemel.learning.exports import inspections, rows, time_ms_of
from gemel.learning.task import UNKNOWN
from tests.support.tiny_task import HEADS

START_MS = 1_700_000_000_000


def test_rows_have_the_columns_that_were_asked_for_and_empty_fields_where_a_line_ends_early(tmp_path: Path) -> None:
    file = tmp_path / "sensors.csv"
    file.write_text("by,time,TS1,flow\nanna,1700000000000,35.5,1\n,1700000001000,36\n")
    assert [(time_ms, row["TS1"], row["flow"]) for time_ms, row in rows(file, ("TS1", "flow"))] == [
        (START_MS, "35.5", "1"),
        (START_MS + 1000, "36", ""),
    ]


def test_inspections_are_class_numbers_by_the_end_of_their_cycle(tmp_path: Path) -> None:
    file = tmp_path / "inspections.csv"
    file.write_text("time,pump,valve,by\n1700000006000,worn,open,anna\n2023-11-14T22:13:32Z,,-1,\n")
    assert [*inspections(file, HEADS)] == [(START_MS + 6000, (1, 1)), (START_MS + 12_000, (UNKNOWN, UNKNOWN))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,pump\n", "header: also valve"),
        ("time,pump,valve\nnoon,worn,open\n", "line 2: time: ISO 8601"),
        ("time,pump,valve\n1,rusty,open\n", "line 2: pump: one of good, worn, broken, empty or -1"),
        ("\x00", "inspections.csv: "),
    ],
)
def test_inspections_that_do_not_hold_are_refused_with_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "inspections.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        list(inspections(file, HEADS))


def test_missing_file_of_inspections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a readable CSV file"):
        list(inspections(tmp_path / "none.csv", HEADS))


@given(st.integers(0, 253_402_300_799_999))
def test_time_in_milliseconds_is_taken_as_it_stands(time_ms: int) -> None:
    assert time_ms_of(str(time_ms)) == time_ms


@given(st.text())
def test_text_is_a_time_from_1970_on_or_none(text: str) -> None:
    time_ms = time_ms_of(text)
    assert time_ms is None or 0 <= time_ms <= 253_402_300_799_999


def test_time_without_a_zone_is_utc() -> None:
    assert time_ms_of("2023-11-14T22:13:20") == time_ms_of("2023-11-14T23:13:20+01:00") == START_MS
