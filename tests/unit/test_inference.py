"""What the model says about the machine, and how far it may be believed."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_agent.inferring.inference import Inference, TrackRecord
from edge_agent.inferring.judging import Judgement, judge
from edge_agent.learning.model_in_use import InUse, ModelInUse
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Malformed
from gemel.learning.tasks.hydraulic import task
from gemel.twin.state import Diagnosis, InputWeight, Quality, RunningModel
from gemel.twin.window import Example, Window
from gemel.wire.tensors import to_bytes
from gemel.wire.types import sha256

HEADS = ("cooler", "pump")


def window(start_ms: int, filled: int = 0, uncertain: int = 0) -> Window:
    return Window(start_ms, start_ms + 60_000, np.zeros((60, 8), np.float32), filled, uncertain)


def says(label: int, probability: float = 0.9) -> dict[str, Judgement]:
    return {head: Judgement(label, f"class {label}", probability, (InputWeight("TS1", 0.5),)) for head in HEADS}


def test_judge_gives_every_heads_class_probability_and_three_heaviest_inputs(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(task.initial_model(7)))
    values = np.random.default_rng(1).uniform(20, 60, (60, 8)).astype(np.float32)
    judgements = judge("gemel.learning.tasks.hydraulic:task", str(path), values)
    assert list(judgements) == [head.name for head in task.heads]
    for head in task.heads:
        given = judgements[head.name]
        assert head.classes[given.label] == given.condition
        assert 1 / len(head.classes) <= given.probability <= 1
        weights = [top.weight for top in given.top_inputs]
        assert len(weights) == 3
        assert weights == sorted(weights, reverse=True)
        assert 3 / 8 <= sum(weights) <= 1  # the heaviest three of eight


def test_model_that_is_not_the_tasks_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes({"weight": np.zeros(3, np.float32)}))
    with pytest.raises(Malformed):
        judge("gemel.learning.tasks.hydraulic:task", str(path), window(0).values)


def test_share_of_right_answers_starts_at_one_half_and_follows_inspections() -> None:
    record = TrackRecord(HEADS)
    assert record.share("cooler") == 0.5
    for n in range(10):
        record.answered(window(n), {"cooler": 1, "pump": 0})
        record.inspected(Example(window(n), (1 if n < 7 else 2, -1)))
    assert record.share("cooler") == 8 / 12
    assert record.share("pump") == 0.5  # never inspected


def test_inspection_of_a_window_that_was_not_judged_says_nothing() -> None:
    record = TrackRecord(HEADS)
    record.inspected(Example(window(1), (1, 1)))
    record.answered(window(2), {"cooler": 1, "pump": 1})
    record.inspected(Example(window(2), (1, 1)))
    record.inspected(Example(window(2), (1, 1)))
    assert record.share("cooler") == 2 / 3


class Running:
    """An Inference whose judge is held and released by the test."""

    def __init__(self, model_in_use: ModelInUse) -> None:
        self.asked: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.told: asyncio.Queue[tuple[RunningModel, dict[str, Diagnosis]]] = asyncio.Queue()
        self.answers: asyncio.Queue[dict[str, Judgement] | Exception] = asyncio.Queue()
        self.inference = Inference(
            HEADS, model_in_use, self._judge, lambda model, health: self.told.put_nowait((model, health))
        )

    async def _judge(self, model: InUse, seen: Window) -> dict[str, Judgement]:
        self.asked.put_nowait((model.deployment, seen.start_ms))
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("filled", "uncertain", "quality"),
    [(0, 0, Quality.GOOD), (1, 0, Quality.UNCERTAIN), (0, 1, Quality.UNCERTAIN)],
)
async def test_made_up_and_uncertain_readings_make_what_was_inferred_from_them_uncertain(
    tmp_path: Path, filled: int, uncertain: int, quality: Quality
) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        await model.install(1, sha256(b"1"), b"1")
        running = Running(model)
        task_ = asyncio.create_task(running.inference.run())
        running.inference.look_at(window(0, filled, uncertain))
        running.answers.put_nowait(says(1))
        _, health = await running.told.get()
        assert {said.quality for said in health.values()} == {quality}
        task_.cancel()
        await asyncio.gather(task_, return_exceptions=True)


async def test_latest_window_wins_new_models_judge_again_and_old_answers_are_dropped(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        running = Running(model)
        task_ = asyncio.create_task(running.inference.run())
        try:
            running.inference.look_at(window(0))  # no model yet: nobody is asked
            await model.install(1, sha256(b"1"), b"1")
            assert await running.asked.get() == (1, 0)
            for start_ms in (1, 2, 3):
                running.inference.look_at(window(start_ms, filled=1))
            running.answers.put_nowait(says(1))
            told, health = await running.told.get()
            assert (told.deployment, health["cooler"].quality) == (1, Quality.GOOD)
            running.answers.put_nowait(says(2))
            _, health = await running.told.get()
            assert await running.asked.get() == (1, 3)
            assert health["pump"] == Diagnosis("class 2", 0.5, (InputWeight("TS1", 0.5),), 60_003, Quality.UNCERTAIN)

            running.inference.learn_outcome(Example(window(3), (2, -1)))  # the cooler's answer was right
            running.inference.look_at(window(4))
            assert await running.asked.get() == (1, 4)
            await model.install(2, sha256(b"2"), b"2")  # swapped while the old one is judging
            running.answers.put_nowait(says(0))
            running.answers.put_nowait(says(1, probability=0.3))
            told, health = await running.told.get()
            assert (told.deployment, health["cooler"].confidence) == (2, 0.3)
            assert await running.asked.get() == (2, 4)

            running.answers.put_nowait(Malformed("model", "not finite"))  # a bad answer ends nothing
            running.answers.put_nowait(says(1))
            running.inference.look_at(window(5))
            assert await running.asked.get() == (2, 5)
            running.inference.look_at(window(6))
            _, health = await running.told.get()
            assert await running.asked.get() == (2, 6)
            assert health["cooler"].confidence == pytest.approx(2 / 3, abs=1e-4)  # inherited from model 1
            assert health["pump"].confidence == 0.5
            assert running.asked.empty()
        finally:
            task_.cancel()
            await asyncio.gather(task_, return_exceptions=True)
