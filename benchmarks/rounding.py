"""What rounding costs a model: rounds with float32 updates beside rounds with quantised ones, paired by seed.

Part of `python -m benchmarks.sealing --accuracy`. Both runs of a pair have the same seed, and with it the same split,
the same M0 and the same shuffles: they differ in how updates travel, and in nothing else.

Updates go through the code that the plant runs: scaled by n_k over the cap, clipped, rounded with error feedback,
packed, added, unpacked, averaged, applied. Encryption alone is left out, because it changes no integer: the
benchmark's own test seals the same updates and finds the same opened bytes.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from gemel.sealing.budget import budget_of
from gemel.sealing.candidate import apply_update, mean_update
from gemel.sealing.frames import OpenedSum
from gemel.sealing.packing import quantise
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector

ROUNDS = 30
POINT = 1.0  # of accuracy: the loss that the interval has to exclude


class SealedAverage:
    """FedAvg as it comes out of a sealed round: a simulator.Combine that keeps the agents' rounding residuals."""

    def __init__(self, policy: SealingPolicy, agents: int) -> None:
        """Every update enters its round's model, so every residual advances."""
        self._policy = policy
        self._residuals: list[Vector | None] = [None] * agents

    def opened(self, updates: Sequence[Vector], weights: Sequence[int]) -> OpenedSum:
        """What a custodian opens: the sum of the packed integers, unpacked."""
        policy, parameters = self._policy, updates[0].size
        packing = budget_of(policy, parameters).packing
        slots = np.zeros((packing.chunks(parameters), packing.slots), np.int64)
        for agent, (update, weight) in enumerate(zip(updates, weights, strict=True)):
            before = self._residuals[agent]
            residual = np.zeros_like(update) if before is None else before
            share = weight / policy.weight_cap
            rounded = quantise(update, residual, clip=policy.clip, bits=policy.bits, share=share)
            self._residuals[agent] = rounded.residual
            slots += packing.pack(rounded.values)
        return OpenedSum(len(updates), packing.unpack(slots, parameters))

    def __call__(self, base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
        """The next model."""
        data = self.opened(updates, weights).pack(self._policy)
        opened = OpenedSum.parse(data, self._policy, base.size)
        return apply_update(base, mean_update(opened, self._policy, sum(weights)))


@dataclass(frozen=True, slots=True)
class Trial:
    """A task to try rounding on. `federate(seed, policy)` gives the accuracy after ROUNDS rounds, 0 to 1.

    Without a policy updates travel as float32. It must be a function that another process can import.
    """

    name: str
    about: str
    federate: Callable[[int, SealingPolicy | None], float]


def compare(
    trial: Trial, policies: Sequence[SealingPolicy], seeds: Sequence[int], workers: int = 1
) -> list[dict[str, Any]]:
    """A row for each policy: against float32, the mean difference in points and its 95 % interval (Student's t).

    A line on stderr as each seed ends. At least two seeds.
    """
    began = time.perf_counter()
    percents: list[tuple[float, ...]] = []  # for each seed: float32, then each policy
    with ProcessPoolExecutor(workers) as pool:
        runs = [[pool.submit(trial.federate, seed, policy) for policy in (None, *policies)] for seed in seeds]
        for seed, arms in zip(seeds, runs, strict=True):
            percents.append(tuple(100 * arm.result() for arm in arms))
            shown = ", ".join(f"{percent:.3f}" for percent in percents[-1])
            print(
                f"{time.perf_counter() - began:7.1f} s  {trial.name}, seed {seed}: {shown} %",
                file=sys.stderr,
                flush=True,
            )
    plain, *rounded = zip(*percents, strict=True)
    about = f"{trial.about}, {ROUNDS} rounds; error feedback; sums computed without encryption, which is exact"
    return [
        {"task": trial.name, "about": about, "seeds": list(seeds)} | _against(plain, theirs, policy)
        for theirs, policy in zip(rounded, policies, strict=True)
    ]


def _against(plain: Sequence[float], rounded: Sequence[float], policy: SealingPolicy) -> dict[str, Any]:
    differences = [ours - theirs for ours, theirs in zip(rounded, plain, strict=True)]
    mean = statistics.mean(differences)
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return {
        "bits": policy.bits,
        "clip": policy.clip,
        "weight_cap": policy.weight_cap,
        "float32_percent": [round(value, 3) for value in plain],
        "rounded_percent": [round(value, 3) for value in rounded],
        "difference_points": round(mean, 3),
        "interval_95": [round(mean - half, 3), round(mean + half, 3)],
        "excludes_a_loss_of_one_point": mean - half > -POINT,
    }
