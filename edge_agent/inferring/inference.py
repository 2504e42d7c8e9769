"""After each finished window, and for each new model: what the model in use says about the machine.

Confidence is shown as what it is. A network's own probability says how sure it is, not how often it is right; so it
is bounded by the share of answers about this machine that inspections have borne out lately. A new model inherits
that share from its predecessor, since nothing is deployed that measured clearly worse; at first it is one half.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog

from edge_agent.inferring.drift_watch import DriftWatch
from edge_agent.inferring.judging import Judgement
from edge_agent.learning.model_in_use import InUse, ModelInUse
from gemel.errors import Malformed
from gemel.learning.task import UNKNOWN
from gemel.twin.state import Diagnosis, Quality, RunningModel
from gemel.twin.window import Example, Window

REMEMBERED = 50  # inspections of one head that count
RECENT = 50  # windows of the machine that are kept to try a new model on
AWAITED = 8  # answers that wait for their inspection, and inspections that wait for their answer

Judge = Callable[[InUse, Window], Awaitable[dict[str, Judgement]]]
Told = Callable[[RunningModel, dict[str, Diagnosis]], None]
Scored = Callable[[int, Mapping[str, bool]], None]  # (end of the window, head → whether the answer was right)
_log = structlog.get_logger("gemel.agent.inference")


class TrackRecord:
    """How often the answers about this machine were right lately, head by head."""

    def __init__(self, heads: tuple[str, ...], tell: Scored = lambda _end_ms, _right: None) -> None:
        self._heads, self._tell = heads, tell
        self._hits: dict[str, deque[bool]] = {head: deque(maxlen=REMEMBERED) for head in heads}
        self._answers: dict[int, dict[str, int]] = {}
        self._found: dict[int, tuple[int, ...]] = {}

    def answered(self, window: Window, labels: Mapping[str, int]) -> None:
        """Compare an answer with its inspection, or remember it until that comes."""
        found = self._found.pop(window.start_ms, None)
        if found is not None:
            self._score(window, labels, found)
        else:
            _remember(self._answers, window.start_ms, dict(labels))

    def inspected(self, example: Example) -> None:
        """Compare what was found with the answer about that window, or remember it: a judge may still be busy."""
        answer = self._answers.pop(example.window.start_ms, None)
        if answer is not None:
            self._score(example.window, answer, example.labels)
        else:
            _remember(self._found, example.window.start_ms, example.labels)

    def _score(self, window: Window, answer: Mapping[str, int], found: tuple[int, ...]) -> None:
        right = {
            head: answer[head] == label
            for head, label in zip(self._heads, found, strict=True)
            if head in answer and label != UNKNOWN
        }
        for head, hit in right.items():
            self._hits[head].append(hit)
        self._tell(window.end_ms, right)

    def share(self, head: str) -> float:
        """The share that was right, by Laplace's rule of succession: (hits + 1) / (inspections + 2)."""
        hits = self._hits[head]
        return (sum(hits) + 1) / (len(hits) + 2)


_Awaited = TypeVar("_Awaited")


def _remember(waiting: dict[int, _Awaited], start_ms: int, one: _Awaited) -> None:
    waiting[start_ms] = one
    if len(waiting) > AWAITED:
        del waiting[next(iter(waiting))]


class Recent:
    """The machine's latest windows, newest last, and how many there have been since the start."""

    def __init__(self) -> None:
        self._windows: deque[Window] = deque(maxlen=RECENT)
        self.count = 0

    def add(self, window: Window) -> None:
        """One that has just finished."""
        self._windows.append(window)
        self.count += 1

    @property
    def windows(self) -> tuple[Window, ...]:
        """What is kept of them."""
        return tuple(self._windows)


class Inference:
    """Judges the latest window with the model in use; windows that come while it is busy give way to the latest.

    Where drift is watched for, `watch` sees every window, and every answer that was inspected.
    """

    def __init__(
        self,
        heads: tuple[str, ...],
        model_in_use: ModelInUse,
        judge: Judge,
        tell: Told,
        watch: DriftWatch | None = None,
    ) -> None:
        self._model_in_use, self._judge, self._tell, self._watch = model_in_use, judge, tell, watch
        self.recent = Recent()
        self._window: Window | None = None
        self._something_new = asyncio.Event()
        self._record = TrackRecord(heads) if watch is None else TrackRecord(heads, watch.learn_outcome)

    def look_at(self, window: Window) -> None:
        """The machine's latest window."""
        self._window = window
        self.recent.add(window)
        if self._watch is not None:
            self._watch.look_at(window)
        self._something_new.set()

    def learn_outcome(self, example: Example) -> None:
        """What an inspection found."""
        self._record.inspected(example)

    async def run(self) -> None:
        """Judge for ever. Errors of the judge that are not the model's fault are raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_models(), name="watch models")
            while True:
                await self._something_new.wait()
                self._something_new.clear()
                if self._window is not None and (model := self._model_in_use.current()) is not None:
                    await self._judge_once(model, self._window)

    async def _watch_models(self) -> None:
        seen: InUse | None = None
        while True:
            seen = await self._model_in_use.other_than(seen)
            self._something_new.set()

    async def _judge_once(self, model: InUse, window: Window) -> None:
        try:
            judgements = await self._judge(model, window)
        except Malformed as error:
            _log.error("the model in use gives no answer", deployment=model.deployment, error=str(error))
            return
        except FileNotFoundError:
            return  # swapped meanwhile: the new model is judged next
        if self._model_in_use.current() != model:
            return
        self._record.answered(window, {head: judgement.label for head, judgement in judgements.items()})
        quality = Quality.UNCERTAIN if window.filled or window.uncertain else Quality.GOOD
        self._tell(
            model.running,
            {
                head: Diagnosis(
                    judgement.condition,
                    round(min(judgement.probability, self._record.share(head)), 4),
                    judgement.top_inputs,
                    window.end_ms,
                    quality,
                )
                for head, judgement in judgements.items()
            },
        )
