"""Many agents in one process, on the same training code as the plant's: baselines, figures, tuning.

What the plant adds (sealing, votes, deployment) is left out; what the weights go through is not: pass what happens
to an update on its way as `on_update`, and to their sum as `combine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from gemel.learning.task import Measured, Task, Trained, Windows
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Model, Vector, flatten, unflatten

OnUpdate = Callable[[int, Vector], Vector]  # (agent's number, its update) → what arrives of it
Combine = Callable[[Vector, Sequence[Vector], Sequence[int]], Vector]  # (base, updates, each one's n_k) → next model


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """One round: the averaged model, and what each agent did. `updates` are flat, as they arrived."""

    round_: int
    model: Model
    trained: tuple[Trained, ...]
    updates: tuple[Vector, ...]


def agent_seed(seed: int, agent: int) -> int:
    """Each agent shuffles its windows in its own order."""
    return int(np.random.SeedSequence((seed, agent)).generate_state(1)[0])


def fed_avg(base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """FedAvg (McMahan et al. 2017) in the open: base + Σ n_k/n · update_k."""
    mean = np.average(np.stack(updates), axis=0, weights=np.array(weights, np.float64))
    return (base + mean).astype(np.float32)


def federate(
    agents: Sequence[tuple[Task, Windows]],
    model: Model,
    plan: TrainingPlan,
    *,
    rounds: int,
    seed: int,
    on_update: OnUpdate | None = None,
    combine: Combine = fed_avg,
) -> Iterator[SimulatedRound]:
    """Federated averaging round by round from `model`; `combine` makes each round's model of the updates.

    Each agent brings its own task, so that one of them may misbehave.
    """
    manifest = agents[0][0].manifest
    for round_ in range(1, rounds + 1):
        base = flatten(model)
        trained = tuple(
            task.train(model, windows, plan, agent_seed(seed, number), round_)
            for number, (task, windows) in enumerate(agents)
        )
        updates = tuple(flatten(result.model) - base for result in trained)
        if on_update is not None:
            updates = tuple(on_update(number, update) for number, update in enumerate(updates))
        model = unflatten(combine(base, updates, [result.samples for result in trained]), manifest)
        yield SimulatedRound(round_, model, trained, updates)


def train_locally(task: Task, windows: Windows, model: Model, plan: TrainingPlan, *, rounds: int, seed: int) -> Model:
    """One agent on its own for the budget of so many rounds: what it would have without the others."""
    for round_ in range(1, rounds + 1):
        model = task.train(model, windows, plan, seed, round_).model
    return model


@dataclass(frozen=True, slots=True)
class Central:
    """The central baseline, as it was at its best epoch on the validation windows."""

    model: Model
    epoch: int
    validation: Measured


def train_centrally(
    task: Task, windows: Windows, validation: Windows, model: Model, plan: TrainingPlan, *, rounds: int, seed: int
) -> Central:
    """Everybody's windows in one place for the budget of so many rounds, stopped at the best epoch.

    Best is the highest accuracy on the validation windows, the earliest where several are equal.
    """
    epoch_plan = msgspec.structs.replace(plan, epochs=1)
    best = Central(model, 0, task.evaluate(model, validation))
    for epoch in range(1, rounds * plan.epochs + 1):
        model = task.train(model, windows, epoch_plan, seed, epoch).model
        measured = task.evaluate(model, validation)
        if measured.accuracy > best.validation.accuracy:
            best = Central(model, epoch, measured)
    return best
