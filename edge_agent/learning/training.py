"""An agent's part of a round, for its worker process: train, take the difference, seal it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gemel.errors import Refused
from gemel.learning.fleet_statistics import refusal
from gemel.learning.linear_head import WEIGHT, LinearHead
from gemel.learning.task import Windows, load_task
from gemel.sealing.encrypted_training.plan import plan_for
from gemel.wire import tensors
from gemel.wire.messages import Policy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import Address

if TYPE_CHECKING:
    from gemel.sealing.encrypted_training.work import Request, Run


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


# --- on encrypted data ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BegunTraining:
    """A training on ciphertexts after its first step. `factor` makes integers of weights, as the policy says.

    Loss, accuracy and change are those of a rehearsal: the owner of the rows may know them.
    """

    run: Run
    request: Request
    factor: float
    samples: int
    loss: float
    accuracy: float
    change: float


def begin_encrypted(job: Job, training_context: bytes) -> BegunTraining:
    """Seal the windows' rows and take the first step.

    The owner of the rows rehearses in the open first: past the cubic's range, which nobody sees under encryption, an
    update would spoil the sum of all. Raises Refused and Malformed for what must not be trained on, ConfigError for a
    policy that does not fit.
    """
    from gemel.sealing.encrypted_training.work import begin  # noqa: PLC0415  see train_and_seal
    from gemel.sealing.packing import largest_value  # noqa: PLC0415  see train_and_seal

    task, policy = load_task(job.task_path), job.policy
    if not isinstance(task, LinearHead):
        raise Refused(Reason.WRONG_POLICY, f"training.encrypted is for linear heads, and {task.name} is none")
    base = tensors.from_bytes(job.base, task.manifest)
    rehearsed = task.train(base, job.windows, policy.training, job.seed, job.round)
    features, labels = task.rows(job.windows)
    plan = plan_for(policy, task.manifest, len(features))
    run, request = begin(training_context, plan, base[WEIGHT].astype(np.float64), features, labels)
    share = rehearsed.samples / policy.sealing.weight_cap
    return BegunTraining(
        run,
        request,
        factor=share * largest_value(policy.sealing.bits) / policy.sealing.clip,
        samples=rehearsed.samples,
        loss=rehearsed.loss,
        accuracy=rehearsed.accuracy,
        change=float(np.abs(rehearsed.model[WEIGHT] - base[WEIGHT]).mean()),
    )


def go_on(begun: BegunTraining, step: int, last: Request, answer: bytes) -> Request:
    """What follows the custodian's answer to step `step`, counted from 0: the next step, or the release."""
    from gemel.sealing.encrypted_training import work  # noqa: PLC0415  see train_and_seal

    if step + 1 == begun.run.plan.steps:
        return work.release(begun.run, last, answer, begun.factor)
    return work.step(begun.run, last, answer)


def unmask_update(job: Job, begun: BegunTraining, last: Request, body: bytes) -> SealedUpdate:
    """The update, its masks taken off under encryption. Rounding is dithered, so that nothing is left over of it."""
    from gemel.sealing.encrypted_training.release import unmask  # noqa: PLC0415  see train_and_seal

    (masks,) = last.masks
    return SealedUpdate(
        unmask(job.context, job.policy.sealing, body, masks),
        np.zeros(len(masks), np.float32),
        begun.samples,
        begun.loss,
        begun.accuracy,
        begun.change,
        letters=(),
    )
