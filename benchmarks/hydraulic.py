"""Rounding on the hydraulic rig: the demo's gateways, its training plan and its policy, rehearsed in one process."""

from __future__ import annotations

import msgspec
import numpy as np

from benchmarks.rounding import ROUNDS, SealedAverage
from gemel.demo import plan
from gemel.demo.rig import read_cycles
from gemel.learning.simulator import fed_avg, federate
from gemel.learning.splits import split_cycles
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import PLAN, task
from gemel.wire.messages import SealingPolicy

POLICY = msgspec.structs.replace(plan.POLICY.sealing, bits=4)
ABOUT = "hydraulic rig, four gateways, on the report's cycles, mean over four heads"


def newest(windows: Windows) -> Windows:
    """As many as the policy lets an agent train on."""
    cap = POLICY.weight_cap
    return windows.take(np.arange(max(0, len(windows) - cap), len(windows)))


def federated(seed: int, policy: SealingPolicy | None, rounds: int = ROUNDS) -> float:
    """See rounding.Trial."""
    cycles = read_cycles()
    split = split_cycles(cycles.labels, seed)
    agents = [(task, newest(cycles.take(rows))) for rows in split.gateways]
    combine = fed_avg if policy is None else SealedAverage(policy, len(agents))
    *_, last = federate(agents, task.initial_model(seed), PLAN, rounds=rounds, seed=seed, combine=combine)
    return task.evaluate(last.model, cycles.take(split.report)).accuracy
