"""How a canary judges the model that it has just installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from edge_agent.inferring.inference import Recent
from edge_agent.learning.examples import Examples
from edge_agent.learning.health import CanaryWatch, Health, HealthPolicy, Trial, judge_trial, try_out
from edge_agent.learning.model_in_use import ModelInUse
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.host.workers import WorkerDied
from gemel.learning.task import Floats, Windows
from gemel.twin.window import Example, Window
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Model, to_bytes
from gemel.wire.types import sha256
from tests.support.tiny_task import WINDOW_S, sample_windows, task

TASK_PATH = "tests.support.tiny_task:task"
POLICY = HealthPolicy()
NOTHING = sample_windows(1).take(np.arange(0))


def judged(trial: Trial, *, learnt: bool = True, drifted: bool = False) -> Health:
    return judge_trial(trial, WINDOW_S, learnt=learnt, drifted=drifted, policy=POLICY)


INSPECTED = Trial(inspected=50, answers=100, compared=True)
RECENT = Trial(recent=20, compared=True)


@pytest.mark.parametrize(
    ("trial", "healthy", "said"),
    [
        (Trial(failure="ValueError: an answer is not a number"), False, "not a number"),
        (Trial(answer_s=WINDOW_S + 0.1), False, "6 s"),
        (Trial(answer_s=WINDOW_S - 0.1), True, "nothing to judge by"),
        (replace(INSPECTED, lost=10, won=0), True, "10 are wrong"),  # a tenth is the margin
        (replace(INSPECTED, lost=11, won=0), False, "11 are wrong"),
        (replace(INSPECTED, lost=30, won=25), True, "25 right"),  # restless, and hardly worse
        (replace(INSPECTED, lost=25, won=14), True, "25 are wrong"),  # beyond the margin, and chance might do it
        (replace(INSPECTED, lost=34, won=14), False, "34 are wrong"),
        (replace(INSPECTED, lost=0, won=60), True, "60 right"),
        (replace(INSPECTED, inspected=19, lost=100), True, "nothing to judge by"),
        (replace(INSPECTED, lost=100, compared=False), True, "nothing to judge by"),
        (replace(RECENT, changed=0.5), True, "50% of the answers about the last 20 windows"),
        (replace(RECENT, changed=0.51), False, "51%"),
        (replace(RECENT, recent=9, changed=1.0), True, "nothing to judge by"),
        (replace(RECENT, changed=1.0, inspected=50, answers=100), True, "0 are wrong"),  # inspections know better
    ],
)
def test_verdict(trial: Trial, healthy: bool, said: str) -> None:
    health = judged(trial)
    assert health.healthy is healthy, health
    assert said in health.reason


@pytest.mark.parametrize("excuse", [{"learnt": False}, {"drifted": True}])
def test_changed_answers_are_no_fault_after_m0_or_on_a_machine_that_has_drifted(excuse: dict[str, bool]) -> None:
    assert judged(replace(RECENT, changed=1.0), **excuse).healthy


def learnt() -> Model:
    plan = TrainingPlan(epochs=30, batch_size=16, learning_rate=0.5)
    return task.train(task.initial_model(1), sample_windows(1, 200), plan, 1, 1).model


def contrary(model: Model) -> Model:
    """It holds the least likely for the most likely."""
    return {name: -values for name, values in model.items()}


def overflowing(model: Model) -> Model:
    """Finite, as an agent checks before it installs it; its answers are not."""
    return {name: np.full_like(values, 3e38) for name, values in model.items()}


def saved(folder: Path, model: Model) -> str:
    data = to_bytes(model)
    path = folder / f"{sha256(data)}.safetensors"
    path.write_bytes(data)
    return str(path)


def test_trial_counts_what_was_lost_and_won_against_the_inspections(tmp_path: Path) -> None:
    good, bad = saved(tmp_path, learnt()), saved(tmp_path, contrary(learnt()))
    inspected = sample_windows(2, 40)
    inspected.labels[:10, 0] = -1
    worse = try_out(TASK_PATH, bad, good, inspected, inspected.inputs)
    assert (worse.inspected, worse.answers, worse.recent, worse.compared) == (40, 70, 40, True)
    assert worse.lost > 50
    assert worse.won == 0
    assert worse.changed > 0.9
    better = try_out(TASK_PATH, good, bad, inspected, inspected.inputs)
    assert (better.lost, better.won) == (0, worse.lost)
    assert 0 < better.answer_s < WINDOW_S


def test_unlabelled_windows_are_not_inspected(tmp_path: Path) -> None:
    windows = sample_windows(2, 30)
    windows.labels[:] = -1
    trial = try_out(
        TASK_PATH, saved(tmp_path, learnt()), saved(tmp_path, task.initial_model(1)), windows, windows.inputs
    )
    assert (trial.inspected, trial.answers, trial.lost, trial.won) == (0, 0, 0, 0)
    assert judged(trial, learnt=False).healthy


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_model_whose_answers_are_no_numbers_fails_even_without_any_window(tmp_path: Path) -> None:
    trial = try_out(TASK_PATH, saved(tmp_path, overflowing(learnt())), None, NOTHING, NOTHING.inputs)
    assert trial.failure == "ValueError: an answer is not a number"


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_nothing_is_held_against_a_model_whose_predecessor_is_broken_or_gone(tmp_path: Path) -> None:
    windows = sample_windows(2, 30)
    broken = saved(tmp_path, overflowing(learnt()))
    for before in (broken, str(tmp_path / "gone.safetensors")):
        trial = try_out(TASK_PATH, saved(tmp_path, contrary(learnt())), before, windows, windows.inputs)
        assert (trial.failure, trial.compared) == ("", False)
        assert judged(trial).healthy


def test_agent_without_windows_is_healthy_and_says_that_it_cannot_tell(tmp_path: Path) -> None:
    model = saved(tmp_path, learnt())
    health = judged(try_out(TASK_PATH, model, model, NOTHING, NOTHING.inputs))
    assert (health.healthy, "nothing to judge by" in health.reason) == (True, True)


# --- the watch ---------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A canary with its stores; models are tried out in this process."""

    watch: CanaryWatch
    clock: FakeClock
    recent: Recent
    examples: Examples
    model_in_use: ModelInUse
    tried: list[tuple[int, int]] = field(default_factory=list)  # windows inspected and recent, by look
    dying: int = 0  # workers that die

    async def install(self, *models: Model) -> None:
        for model in models:
            data = to_bytes(model)
            await self.model_in_use.install(self.model_in_use.deployment + 1, sha256(data), data)

    async def inspect(self, windows: Windows) -> None:
        start = 6000 * await self.examples.count()
        await self.examples.add(
            [
                Example(Window(start + n * 6000, start + (n + 1) * 6000, values, 0), tuple(map(int, labels)))
                for n, (values, labels) in enumerate(zip(windows.inputs, windows.labels, strict=True))
            ]
        )

    def show(self, windows: Windows) -> None:
        for n, values in enumerate(windows.inputs):
            self.recent.add(Window(n * 6000, (n + 1) * 6000, values, 0))

    async def verdict(self, seconds: float) -> Health:
        """The watch's, which must be there after so much time and not before."""
        watching = asyncio.create_task(self.watch.health())
        while not watching.done() and self.clock.monotonic_s() < seconds:
            await asyncio.sleep(0.02)
            await self.clock.advance(0.5)
        return await asyncio.wait_for(watching, 5)


@pytest_asyncio.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with (
        SqliteRecords(tmp_path / "records.sqlite") as records,
        Examples(tmp_path / "examples.sqlite", task, 1000) as examples,
    ):
        clock, recent = FakeClock(), Recent()
        model_in_use = await ModelInUse.load(records, tmp_path / "models")

        async def in_process(model: str, before: str | None, inspected: Windows, latest: Floats) -> Trial:
            made.tried.append((len(inspected), len(latest)))
            if made.dying:
                made.dying -= 1
                raise WorkerDied("try_out")
            return try_out(TASK_PATH, model, before, inspected, latest)

        policy = HealthPolicy(watch_s=3, watch_windows=4)
        watch = CanaryWatch(task, model_in_use, examples, recent, lambda: False, in_process, clock, policy)
        made = Machine(watch, clock, recent, examples, model_in_use)
        yield made


async def test_model_worse_than_the_one_before_is_unhealthy_at_once(machine: Machine) -> None:
    await machine.install(task.initial_model(1), learnt(), contrary(learnt()))
    await machine.inspect(sample_windows(2, 40))
    health = await machine.verdict(0)
    assert not health.healthy
    assert "wrong that were right before" in health.reason
    assert machine.tried == [(40, 0)]


async def test_good_model_is_watched_for_as_long_as_the_policy_says(machine: Machine) -> None:
    await machine.install(task.initial_model(1), learnt())
    await machine.inspect(sample_windows(2, 40))
    health = await machine.verdict(3)
    assert health.healthy
    assert machine.tried == [(40, 0), (40, 0)]
    assert machine.clock.monotonic_s() == 3


async def test_what_the_machine_shows_during_the_watch_counts_and_ends_it(machine: Machine) -> None:
    """Installed on a machine that had shown nothing: its first windows, and what was found in them, tell."""
    await machine.install(task.initial_model(1), learnt(), contrary(learnt()))
    watching = asyncio.create_task(machine.watch.health())
    while not machine.tried and not watching.done():  # noqa: ASYNC110  it happens in a task that says nothing
        await asyncio.sleep(0.001)
    machine.show(sample_windows(3, 4))
    await machine.inspect(sample_windows(3, 30))
    await asyncio.sleep(0.02)
    await machine.clock.advance(0.5)
    assert not (await asyncio.wait_for(watching, 5)).healthy
    assert machine.tried == [(0, 0), (30, 4)]


async def test_worker_that_dies_once_is_forgiven(machine: Machine) -> None:
    await machine.install(task.initial_model(1), learnt())
    machine.dying = 1
    assert (await machine.verdict(3)).healthy


async def test_worker_that_dies_twice_is_the_models_fault(machine: Machine) -> None:
    await machine.install(task.initial_model(1), learnt())
    machine.dying = 2
    health = await machine.verdict(0)
    assert not health.healthy
    assert "died" in health.reason
