"""Watches a machine for drift: gathers the streams, has changes looked for in a worker, and tells the twin.

What it knows is saved when something has drifted or no longer does, every SAVE_EVERY samples and at the end, so that
a gateway that was restarted still knows what was usual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from edge_agent.inferring import drift
from edge_agent.inferring.change_detection import Series
from edge_agent.inferring.drift import ERROR, DriftPolicy, Stream, Watched
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from gemel.errors import Malformed
from gemel.host.workers import WorkerDied
from gemel.learning.task import Input
from gemel.ports import Records
from gemel.twin.state import Drift, DriftKind
from gemel.twin.window import Window
from gemel.wire.messages import RoundRequest
from gemel.wire.types import Millis

SAVE_EVERY = 20
LEAST_DEVIATION = 0.01  # of an input's range: below it, a change is none
_KIND, _KEY = "drift", "watched"

FindChanges = Callable[[dict[str, Series], float, int], Awaitable[dict[str, tuple[int, int]]]]
_log = structlog.get_logger("gemel.agent.drift")


class DriftWatch:
    """One machine's streams. Begin with `await DriftWatch.load(...)`; `tell` gets its drift when that changes."""

    def __init__(
        self,
        policy: DriftPolicy,
        inputs: tuple[Input, ...],
        find_changes: FindChanges,
        *,
        model_in_use: ModelInUse,
        records: Records,
        metrics: AgentMetrics,
        tell: Callable[[Mapping[str, Drift]], None],
    ) -> None:
        self.policy = policy
        self._columns = {
            column.name: (index, LEAST_DEVIATION * (column.high - column.low))
            for index, column in enumerate(inputs)
            if column.name in policy.inputs
        }
        self._find_changes, self._model_in_use, self._records, self._tell = find_changes, model_in_use, records, tell
        self._metrics = metrics
        metrics.watch_drift()
        self._watched = Watched()
        self._drifted_before = False
        self._sampled = asyncio.Event()
        self._unsaved = 0

    @classmethod
    async def load(
        cls,
        policy: DriftPolicy,
        inputs: tuple[Input, ...],
        find_changes: FindChanges,
        *,
        model_in_use: ModelInUse,
        records: Records,
        metrics: AgentMetrics,
        tell: Callable[[Mapping[str, Drift]], None],
    ) -> DriftWatch:
        """With what was saved last; streams that are no longer watched are forgotten."""
        watch = cls(
            policy, inputs, find_changes, model_in_use=model_in_use, records=records, metrics=metrics, tell=tell
        )
        saved = await records.get(_KIND, _KEY)
        if saved is not None:
            watched = _decode(saved)
            kept = {
                name: stream
                for name, stream in watched.streams.items()
                if stream.kind is DriftKind.ERROR or name in watch._columns
            }
            watch._watched = Watched(kept, watched.asked_ms)
        tell(watch._watched.drift)
        return watch

    @property
    def since_ms(self) -> Millis | None:
        """Since when something has drifted; None where nothing has."""
        return drift.oldest(self._watched)

    @property
    def has_drifted(self) -> bool:
        """Whether something is no longer as the model before the one in use had learnt it."""
        return self._drifted_before or bool(self._watched.drift)

    def look_at(self, window: Window) -> None:
        """A finished window: its means are a sample of each input."""
        means = window.values.mean(axis=0)
        values = {name: (float(means[column]), least) for name, (column, least) in self._columns.items()}
        self._sample(DriftKind.INPUT, window.end_ms, values)

    def learn_outcome(self, time_ms: Millis, right: Mapping[str, bool]) -> None:
        """Which heads' answers about a window an inspection found right."""
        values = {ERROR + head: (0.0 if hit else 1.0, 0.0) for head, hit in right.items()}
        self._sample(DriftKind.ERROR, time_ms, values)

    async def run(self) -> None:
        """Look for changes for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_models(), name="watch models for drift")
                while True:
                    await self._sampled.wait()
                    self._sampled.clear()
                    await self._look()
                    if self._unsaved >= SAVE_EVERY:
                        await self._save()
        finally:
            await self._save()

    def request(self, examples: int, now_ms: Millis) -> RoundRequest | None:
        """What to ask the coordinator now; `examples`: labelled windows since `since_ms`."""
        return drift.request(self._watched, examples, now_ms, self.policy)

    async def asked(self, now_ms: Millis) -> None:
        """A round is about to be asked for; when this returns, a restart will not ask again too soon."""
        self._become(drift.asked(self._watched, now_ms))
        await self._save()

    def answered(self, asked_ms: Millis, answer: str) -> None:
        """The coordinator's answer to the request of that time."""
        self._become(drift.answered(self._watched, asked_ms, answer))

    def _sample(self, kind: DriftKind, time_ms: Millis, values: Mapping[str, tuple[float, float]]) -> None:
        self._become(drift.sampled(self._watched, kind, time_ms, values, self.policy))
        self._unsaved += 1
        self._sampled.set()

    async def _look(self) -> None:
        calm = self._watched.calm
        series = {name: self._series(stream) for name, stream in calm.items()}
        try:
            indices = await self._find_changes(series, self.policy.delta, self.policy.grace_windows)
        except WorkerDied as error:
            _log.warning("drift not looked for", why=str(error))
            return
        changes = {
            name: (calm[name].samples[begin][0], calm[name].samples[split][0])
            for name, (begin, split) in indices.items()
        }
        self._become(drift.found(self._watched, changes, self.policy))

    def _series(self, stream: Stream) -> Series:
        scale = stream.scale if stream.kind is DriftKind.INPUT else None
        return Series(stream.values, scale, self.policy.threshold(stream.kind))

    def _become(self, watched: Watched) -> None:
        before, self._watched = self._watched, watched
        if watched.drift == before.drift:
            return
        self._tell(watched.drift)
        if watched.drift.keys() != before.drift.keys():
            self._unsaved = SAVE_EVERY
            for name in watched.drift.keys() - before.drift.keys():
                self._metrics.drift(watched.drift[name].kind)
            _log.info("drift", now=sorted(watched.drift), before=sorted(before.drift))

    async def _watch_models(self) -> None:
        seen = self._model_in_use.current()
        while True:
            before, seen = seen, await self._model_in_use.other_than(seen)
            if before is not None and before.digest == seen.digest:
                continue  # it has a higher number, and has learnt nothing new
            self._drifted_before = bool(self._watched.drift)
            self._become(drift.installed(self._watched))

    async def _save(self) -> None:
        self._unsaved = 0
        await self._records.put(_KIND, _KEY, msgspec.msgpack.encode(self._watched))


def _decode(saved: bytes) -> Watched:
    try:
        return msgspec.msgpack.decode(saved, type=Watched)
    except msgspec.DecodeError as error:
        raise Malformed("saved drift", str(error)) from error
