"""An agent's part of training on encrypted data, for its worker process: a call a message, nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.sealing.encrypted_training.plan import HeadPlan
from gemel.sealing.encrypted_training.trainer import Floats, SealedRows, Trainer, seal_rows


@dataclass(frozen=True, slots=True)
class Run:
    """One agent's training in one round: what all of its steps need."""

    context: bytes  # public
    plan: HeadPlan
    base: Floats
    rows: tuple[bytes, ...]  # sealed


@dataclass(frozen=True, slots=True)
class Request:
    """A message for the custodian, and the masks that its answer is to be freed from."""

    message: bytes
    masks: list[list[int]]


def begin(context: bytes, plan: HeadPlan, base: Floats, features: Floats, labels: Floats) -> tuple[Run, Request]:
    """Seal the rows and take the first step. Raises as Trainer and seal_rows."""
    trainer = Trainer(context, plan, base)
    rows = seal_rows(trainer.context, plan, features, labels)
    message = trainer.request(rows)
    return Run(context, plan, base, rows.to_bytes()), Request(message, trainer.masks)


def step(run: Run, last: Request, answer: bytes) -> Request:
    """The next step, from the custodian's answer to the last."""
    trainer = Trainer(run.context, run.plan, run.base)
    trainer.accept(answer, last.masks)
    message = trainer.request(SealedRows.from_bytes(trainer.context, run.plan, run.rows))
    return Request(message, trainer.masks)


def release(run: Run, last: Request, answer: bytes, factor: float) -> Request:
    """After the last step: the change of the weights times `factor`, to be sealed as integers."""
    trainer = Trainer(run.context, run.plan, run.base)
    trainer.accept(answer, last.masks)
    message, masks = trainer.release(factor)
    return Request(message, [masks])
