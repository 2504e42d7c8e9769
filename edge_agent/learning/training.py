"""An agent's part of a round, for its worker process: train, take the difference, seal it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemel.errors import Refused
from gemel.learning.fleet_statistics import refusal
from gemel.learning.task import Windows, load_task
from gemel.wire import tensors
from gemel.wire.messages import Policy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import Address


@dataclass(frozen=True, slots=True)
class Job:
    """What one round asks of an agent; everything the worker needs."""

    task_path: str
    base: bytes  # safetensors of the model in use
    windows: Windows
    policy: Policy
    context: bytes
    residual: Vector | None  # what rounding left over from the last update that entered a model
    seed: int
    round: int
    agent: Address  # whose update it is: one-time keys are bound to it


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """What comes back. `change` is the mean absolute change of a weight (the paper's figure 7)."""

    body: bytes
    residual: Vector
    samples: int
    loss: float
    accuracy: float
    change: float
    letters: tuple[bytes, ...]  # one-time keys: one for each custodian, still to be signed


def train_and_seal(job: Job) -> SealedUpdate:
    """Train from the base on the agent's own windows, and seal the difference."""
    from gemel.sealing.work import seal_update  # noqa: PLC0415  TenSEAL belongs into the worker, not into the agent

    task = load_task(job.task_path)
    if why := refusal(task, job.policy):
        raise Refused(Reason.TOO_FEW_OWNERS, why)
    base = tensors.from_bytes(job.base, task.manifest)
    trained = task.train(base, job.windows, job.policy.training, job.seed, job.round)
    update = tensors.flatten(trained.model) - tensors.flatten(base)
    residual = np.zeros_like(update) if job.residual is None else job.residual
    sealed = seal_update(job.context, job.policy.sealing, update, trained.samples, residual, job.agent)
    return SealedUpdate(
        sealed.body,
        sealed.residual,
        trained.samples,
        trained.loss,
        trained.accuracy,
        float(np.abs(update).mean()),
        sealed.letters,
    )
