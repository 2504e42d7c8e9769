"""The gate as the auditor computes it; what the contract itself says is compared in the replay of real calls."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.console.auditor.gate import Verdict, judge, median

PPMS = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=9)


@given(PPMS)
def test_median_is_the_middle_rounded_down(values):
    assert median(values) == int(statistics.median(values))


def test_median_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing"):
        median([])


@pytest.mark.parametrize(
    ("accuracies", "approvals", "verdict"),
    [
        ((600, 610, 590), 2, Verdict.APPROVED),
        ((600, 610, 590), 1, Verdict.NO_QUORUM),
        ((500, 500, 999), 3, Verdict.APPROVED),  # the threshold itself is enough
        ((499, 499, 999), 3, Verdict.BELOW_THRESHOLD),
        ((499, 499, 999), 1, Verdict.NO_QUORUM),  # the first that fails is the reason
        ((530, 530, 530), 3, Verdict.APPROVED),  # as far below as is allowed
        ((529, 529, 529), 3, Verdict.REGRESSION),
    ],
)
def test_first_condition_that_fails_is_the_verdict(accuracies, approvals, verdict):
    baselines = (550,) * 3 if min(accuracies) > 510 else (500,) * 3
    said = judge(accuracies, baselines, approvals, quorum=2, threshold=500, max_regression=20)
    assert said == (verdict, sorted(accuracies)[1], baselines[0])
