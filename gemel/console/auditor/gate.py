"""The quality gate once more, in Python: what contracts/src/QualityGate.sol decides from the same votes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from gemel.wire.types import Ppm


class Verdict(IntEnum):
    """The contract's enum: the first condition that fails, or APPROVED."""

    APPROVED = 0
    NO_QUORUM = 1
    BELOW_THRESHOLD = 2
    REGRESSION = 3


def median(values: Sequence[Ppm]) -> Ppm:
    """The middle value; of an even number the mean of the two middle ones, rounded down. ValueError for none."""
    if not values:
        raise ValueError("no median of nothing")
    ranked, middle = sorted(values), len(values) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) // 2


def judge(
    accuracies: Sequence[Ppm],
    baselines: Sequence[Ppm],
    approvals: int,
    *,
    quorum: int,
    threshold: Ppm,
    max_regression: Ppm,
) -> tuple[Verdict, Ppm, Ppm]:
    """Verdict, median accuracy and median baseline of all votes, approving or not."""
    accuracy, baseline = median(accuracies), median(baselines)
    if approvals < quorum:
        return Verdict.NO_QUORUM, accuracy, baseline
    if accuracy < threshold:
        return Verdict.BELOW_THRESHOLD, accuracy, baseline
    if accuracy + max_regression < baseline:
        return Verdict.REGRESSION, accuracy, baseline
    return Verdict.APPROVED, accuracy, baseline
