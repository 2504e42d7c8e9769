"""Who gets which of a recorded rig's cycles. Pure: the same labels and seed give the same split.

Cycles are dealt in blocks of consecutive ones, because neighbours are near copies: a cycle in a reference set whose
neighbour was trained on would be measured too well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.errors import ConfigError
from gemel.learning.task import Labels

Rows = NDArray[np.int64]  # row numbers of cycles, ascending

REDRAWS = 1000  # Dirichlet draws that leave a gateway below its minimum are drawn again, at most so often


@dataclass(frozen=True, slots=True)
class Shares:
    """How many blocks go where; the gateways share what is left. The defaults fit the rig's 147 blocks of 15."""

    block_cycles: int = 15
    gateways: int = 4
    validators: int = 3
    reference_blocks: int = 8  # to the coordinator, and to each validator
    report_blocks: int = 20
    validation_blocks: int = 8  # on which the central baseline is stopped
    minimum_blocks: int = 6  # of each gateway
    alpha: float = 2.0  # Dirichlet: the smaller, the more the gateways differ


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint rows that together are all cycles."""

    gateways: tuple[Rows, ...]
    coordinator: Rows
    validators: tuple[Rows, ...]
    report: Rows
    validation: Rows


def split_cycles(labels: Labels, seed: int, shares: Shares | None = None, by: int = 0) -> Split:
    """Deal the cycles of `labels` (n, heads) to everybody.

    The sets for measuring (coordinator, validators, report, validation) are each made as like the whole as blocks
    allow, so that they hold all classes where possible. The gateways share the rest unevenly: for each class of
    label column `by`, its blocks fall to them by proportions drawn from Dirichlet(alpha), as Hsu, Qi and Brown
    (arXiv 1909.06335) do. Raises ConfigError where there are too few blocks.
    """
    shares = shares or Shares()
    random = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(len(labels)), max(1, len(labels) // shares.block_cycles))
    sizes = [shares.reference_blocks] * (1 + shares.validators) + [shares.report_blocks, shares.validation_blocks]
    needed = sum(sizes) + shares.gateways * shares.minimum_blocks
    if len(blocks) < needed:
        raise ConfigError("split", "cycles", f"{needed} blocks of {shares.block_cycles} needed, {len(blocks)} there")
    *dealt, rest = _deal_alike(np.stack([_histogram(labels, block) for block in blocks]), sizes, random)
    majority = np.array([np.bincount(labels[block, by] + 1).argmax() for block in blocks])
    gateways = _deal_unevenly(majority, rest, shares, random)

    def rows(chosen: list[int]) -> Rows:
        return np.concatenate([np.empty(0, np.int64), *(blocks[number] for number in sorted(chosen))])

    reference = [rows(chosen) for chosen in dealt]
    return Split(
        gateways=tuple(rows(chosen) for chosen in gateways),
        coordinator=reference[0],
        validators=tuple(reference[1:-2]),
        report=reference[-2],
        validation=reference[-1],
    )


def _histogram(labels: Labels, block: Rows) -> NDArray[np.float64]:
    """How often each class of each head occurs in a block, heads side by side."""
    width = int(labels.max(initial=0)) + 1
    return np.concatenate([np.bincount(column[column >= 0], minlength=width) for column in labels[block].T]).astype(
        np.float64
    )


def _deal_alike(histograms: NDArray[np.float64], sizes: list[int], random: np.random.Generator) -> list[list[int]]:
    """Sets of so many blocks, and the rest. In turn, each takes the block that makes it most like the whole."""
    share = histograms.sum(axis=0) / histograms.sum()
    free = list(random.permutation(len(histograms)))
    sets: list[list[int]] = [[] for _ in sizes]
    for turn in range(max(sizes, default=0)):
        for chosen, size in zip(sets, sizes, strict=True):
            if turn < size:
                counts = histograms[chosen].sum(axis=0) + histograms[free]
                distance = ((counts / counts.sum(axis=1, keepdims=True) - share) ** 2).sum(axis=1)
                chosen.append(free.pop(int(distance.argmin())))
    return [*sets, free]


def _deal_unevenly(
    majority: NDArray[np.int64], free: list[int], shares: Shares, random: np.random.Generator
) -> list[list[int]]:
    """The free blocks, class by class, by Dirichlet proportions."""
    for _ in range(REDRAWS):
        gateways: list[list[int]] = [[] for _ in range(shares.gateways)]
        for number in np.unique(majority[free]):
            members = random.permutation([block for block in free if majority[block] == number])
            proportions = random.dirichlet(np.full(shares.gateways, shares.alpha))
            cuts = np.round(np.cumsum(proportions)[:-1] * len(members)).astype(int)
            for gateway, part in zip(gateways, np.split(members, cuts), strict=True):
                gateway.extend(int(block) for block in part)
        if min(len(gateway) for gateway in gateways) >= shares.minimum_blocks:
            return gateways
    raise ConfigError("split", "minimum_blocks", f"no draw in {REDRAWS} gave each gateway {shares.minimum_blocks}")
