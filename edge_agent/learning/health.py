"""How a model does on this agent's machine, right after a canary installed it: what it tells the fleet.

The new model and the one before answer the same windows: the newest that were inspected, and the machine's latest. A
model is unhealthy

- when it gives no answer, or one that is not a number;
- when an answer takes longer than a window, so that it could never keep up;
- when more of its answers about inspected windows are wrong than of the model's before: by more than `margin`, and so
  that chance would hardly do it (a sign test over the answers of which only one model's is right);
- where too few windows were inspected to say that: when it answers more than `changed_share` of the machine's latest
  windows otherwise than the model before, although no input has drifted. Not where that one is M0, which has not
  learnt yet: whatever learns answers otherwise.

Otherwise it is healthy. A model that nothing speaks against is not held up: an agent without windows says `healthy`,
and that it had nothing to judge by. It is the fleet's quorum of canaries, and the validators before them, that answer
for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
import structlog

from edge_agent.inferring.inference import Recent
from edge_agent.inferring.judging import judge_window
from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from gemel.errors import GemelError
from gemel.host.workers import WorkerDied
from gemel.learning.task import UNKNOWN, Floats, Labels, Task, Windows, load_task
from gemel.ports import Clock
from gemel.wire.tensors import Model, from_bytes

INSPECTED = 200  # windows at most, the newest
LOOK_S = 0.5  # how often it is looked for new windows
M0_DEPLOYMENT = 1  # the first that a task ever approves

log = structlog.get_logger("gemel.agent.health")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """What counts as unhealthy, and how long a canary looks."""

    watch_s: float = 30.0
    watch_windows: int = 10  # that finished meanwhile are enough, too
    margin: float = 0.1  # of the answers about inspected windows
    chance: float = 0.01  # that a model which is no worse would be called so
    fewest_inspected: int = 20  # windows; with fewer the changed answers count
    fewest_recent: int = 10  # windows that a share of changed answers takes
    changed_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """Two models on the same windows, in plain figures. Answers are counted by window and head."""

    failure: str = ""  # why the new one gives no answer
    answer_s: float = 0.0  # for one window
    inspected: int = 0  # windows with at least one label
    answers: int = 0  # about them that an inspection can be held against
    lost: int = 0  # of these: now wrong, right before
    won: int = 0  # now right, wrong before
    recent: int = 0  # windows of the machine
    changed: float = 0.0  # share of the answers about them that are others than before
    compared: bool = False  # there was a model before


@dataclass(frozen=True, slots=True)
class Health:
    """A canary's verdict."""

    healthy: bool
    reason: str


def judge_trial(trial: Trial, window_s: float, *, learnt: bool, drifted: bool, policy: HealthPolicy) -> Health:
    """`learnt`: the model before is more than M0; `drifted`: an input is no longer as that one has learnt it."""
    if trial.failure:
        return Health(False, f"no answer: {trial.failure}")
    if trial.answer_s > window_s:
        return Health(False, f"an answer takes {trial.answer_s:.1f} s, a window {window_s:.0f} s")
    if trial.compared and trial.inspected >= policy.fewest_inspected:
        worse = (trial.lost - trial.won) / trial.answers
        said = (
            f"of {trial.answers} answers about {trial.inspected} inspected windows {trial.lost} are wrong that were"
            f" right before, {trial.won} right that were wrong"
        )
        return Health(worse <= policy.margin or _chance(trial) > policy.chance, said)
    if trial.compared and trial.recent >= policy.fewest_recent and learnt and not drifted:
        said = f"{trial.changed:.0%} of the answers about the last {trial.recent} windows changed"
        return Health(trial.changed <= policy.changed_share, said)
    return Health(True, "nothing to judge by, but that it answers")


def _chance(trial: Trial) -> float:
    """That of the answers of which one model's is right at least so many are lost, if each were as likely won."""
    odd = trial.lost + trial.won
    ways: int = sum(comb(odd, lost) for lost in range(trial.lost, odd + 1))
    return ways / (1 << odd)


def try_out(task_path: str, model_path: str, before_path: str | None, inspected: Windows, recent: Floats) -> Trial:
    """For a worker process. `recent`: the machine's latest windows (n, window length, inputs), newest last.

    Raises OSError where the model's file is gone; without that of the one before nothing is compared.
    """
    task = load_task(task_path)
    shown = recent if len(recent) else _ends(task)
    model = from_bytes(Path(model_path).read_bytes())
    try:
        after_inspected, after_recent = _answers(task, model, inspected.inputs), _answers(task, model, shown)
        begin_s = time.perf_counter()
        judge_window(task, model, shown[-1])
        trial = Trial(answer_s=time.perf_counter() - begin_s)
    except Exception as error:  # noqa: BLE001  whatever a model makes its task raise is what we are looking for
        return Trial(failure=f"{type(error).__name__}: {error}"[:200])
    if before_path is None or not Path(before_path).exists():
        return trial
    try:
        before = from_bytes(Path(before_path).read_bytes())
        before_inspected, before_recent = _answers(task, before, inspected.inputs), _answers(task, before, shown)
    except (OSError, ValueError, GemelError):
        return trial  # one that was given up itself is nothing to compare with
    known = inspected.labels != UNKNOWN
    right, right_before = after_inspected == inspected.labels, before_inspected == inspected.labels
    return replace(
        trial,
        inspected=int(known.any(axis=1).sum()),
        answers=int(known.sum()),
        lost=int((known & right_before & ~right).sum()),
        won=int((known & right & ~right_before).sum()),
        recent=len(recent),
        changed=float((after_recent != before_recent).mean()),
        compared=True,
    )


def _answers(task: Task, model: Model, inputs: Floats) -> Labels:
    """(n, heads). Raises ValueError where an answer is not a number."""
    if len(inputs) == 0:
        return np.empty((0, len(task.heads)), np.int64)
    given = task.predict(model, inputs)
    if not all(np.isfinite(given[head.name]).all() for head in task.heads):
        raise ValueError("an answer is not a number")
    return np.stack([given[head.name].argmax(axis=1) for head in task.heads], axis=1).astype(np.int64)


def _ends(task: Task) -> Floats:
    """Windows at the ends of all ranges, where the machine has shown none yet: (2, window length, inputs)."""
    ends = np.array([[column.low for column in task.inputs], [column.high for column in task.inputs]], np.float32)
    return np.repeat(ends[:, np.newaxis, :], task.window_s, axis=1)


@dataclass(slots=True)
class CanaryWatch:
    """One agent's look at the model that it has just installed."""

    task: Task
    model_in_use: ModelInUse
    examples: Examples
    recent: Recent
    drifted: Callable[[], bool]
    try_out: Callable[[str, str | None, Windows, Floats], Awaitable[Trial]]  # in a worker
    clock: Clock
    policy: HealthPolicy

    async def health(self) -> Health:
        """Unhealthy at once where it is; otherwise after the watch, with what the machine showed meanwhile."""
        health = await self._look()
        if not health.healthy:
            return health
        enough = self.recent.count + self.policy.watch_windows
        until_s = self.clock.monotonic_s() + self.policy.watch_s
        while self.clock.monotonic_s() < until_s and self.recent.count < enough:
            await self.clock.sleep(LOOK_S)
        return await self._look()

    async def _look(self) -> Health:
        current, before = self.model_in_use.current(), self.model_in_use.before()
        assert current is not None
        trial = await self._try(str(current.path), None if before is None else str(before.path))
        learnt = before is not None and before.deployment > M0_DEPLOYMENT
        return judge_trial(trial, self.task.window_s, learnt=learnt, drifted=self.drifted(), policy=self.policy)

    async def _try(self, model_path: str, before_path: str | None) -> Trial:
        inspected, windows = await self.examples.newest(INSPECTED), self.recent.windows
        recent = np.stack([window.values for window in windows]) if windows else _ends(self.task)[:0]
        for attempt in range(2):
            try:
                return await self.try_out(model_path, before_path, inspected, recent)
            except WorkerDied as error:  # once may be another's fault: training runs there too
                log.warning("model not tried out", why=str(error), attempt=attempt)
        return Trial(failure="the worker process died of it twice")
