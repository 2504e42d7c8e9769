"""What the same training budget gives without federation: all windows in one place, and each gateway on its own.

Kept apart from the report so that the supervisor can compute it in a worker process while the rounds go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gemel.learning.simulator import agent_seed, train_centrally, train_locally
from gemel.learning.task import Measured, Windows, load_task
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import from_bytes


@dataclass(frozen=True, slots=True)
class Baselines:
    """All measured on the report's windows. `local`: gateway → its own model.

    `central_epoch` is the epoch at which central training was stopped (best on the validation windows; 0: M0 was
    best), of `central_epochs` that the budget allows. `seconds` is what computing all this took.
    """

    rounds: int
    central: Measured
    central_epoch: int
    central_epochs: int
    local: Mapping[str, Measured]
    seconds: float


def compute(
    task_path: str,
    initial_model: bytes,
    gateways: Mapping[str, Windows],
    validation: Windows,
    report: Windows,
    plan: TrainingPlan,
    *,
    rounds: int,
    seed: int,
) -> Baselines:
    """Train the baselines from the plant's own M0 (safetensors) for the budget of so many rounds.

    Central: every gateway's windows together for rounds × epochs epochs. Local: each gateway alone, as many epochs
    on its own windows. About 0.2 ms a window and epoch for the rig's network on one core. Raises Malformed for
    models or windows that are not the task's. For worker processes: everything is picklable.
    """
    began = time.perf_counter()
    task = load_task(task_path)
    model = from_bytes(initial_model, task.manifest)
    pooled = Windows(
        np.concatenate([windows.inputs for windows in gateways.values()]),
        np.concatenate([windows.labels for windows in gateways.values()]),
    )
    central = train_centrally(task, pooled, validation, model, plan, rounds=rounds, seed=seed)
    local = {
        name: task.evaluate(
            train_locally(task, windows, model, plan, rounds=rounds, seed=agent_seed(seed, number)), report
        )
        for number, (name, windows) in enumerate(gateways.items())
    }
    return Baselines(
        rounds=rounds,
        central=task.evaluate(central.model, report),
        central_epoch=central.epoch,
        central_epochs=rounds * plan.epochs,
        local=local,
        seconds=time.perf_counter() - began,
    )
