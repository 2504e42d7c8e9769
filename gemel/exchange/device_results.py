"""What the chain's trust does to a round, and what a decided round does to it: the same for everybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gemel.ports.trust_scores import TrustScores
from gemel.wire.messages import WHOLE, DeviceResult, Entry, Policy
from gemel.wire.types import Address, Ppm

GOOD, UNDECIDED, MISSING = WHOLE, WHOLE // 2, 0  # outcomes, ppm
REPORT_DEVICES = 100  # in one report: about 8 million gas


def results_of(listed: Iterable[Entry], included: Iterable[Entry], *, approved: bool) -> tuple[DeviceResult, ...]:
    """A result for every device on the roster, by device. Shares are at most the whole together.

    Whoever is in the sum of an approved model did well, and shares the round's reward by level · n_k. Of a rejected
    one nobody knows whose update was at fault: all who are in it get half, and nothing of the reward. Whoever
    promised an update that is not in the sum gets nothing. So does one that trust left without weight: only the
    coordinator knows whether its update came, and nobody need believe that.
    """
    counted = {entry.device: entry.level * entry.weight for entry in included}
    total = sum(counted.values())
    outcome = GOOD if approved else UNDECIDED
    return tuple(
        DeviceResult(device, outcome, WHOLE * counted[device] // total if approved else 0)
        if device in counted
        else DeviceResult(device, MISSING, 0)
        for device in sorted(entry.device for entry in listed)
    )


def reports_of(results: tuple[DeviceResult, ...]) -> tuple[tuple[DeviceResult, ...], ...]:
    """The same results in parts that fit a block each."""
    return tuple(results[start : start + REPORT_DEVICES] for start in range(0, len(results), REPORT_DEVICES))


async def scores_at(
    scores: TrustScores, policy: Policy, devices: Sequence[Address], block: int
) -> Mapping[Address, Ppm]:
    """The chain's part of r_k, as of the block that the round was opened in. Nothing where no level could show it.

    Raises ChainUnavailable, also from a node that has forgotten the state of that block.
    """
    return await scores.scores(devices, block) if policy.sealing.levels > 1 else {}
