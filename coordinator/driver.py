"""Drives one round: stores the machine's state, then performs its effects, and goes on from there after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from coordinator.machine import (
    BEFORE_VERDICT,
    FINAL,
    CleanUp,
    Effect,
    Event,
    Failed,
    Round,
    State,
    Tick,
    pending,
    step,
)
from gemel.errors import ChainReverted, IllegalEvent, PeerError, Unavailable
from gemel.exchange.chain_watch import RoundEnded
from gemel.ports import Clock, Records

TICK_S = 0.5
RETRY_S = 2.0
_KIND, _CURRENT = "round", "current"

Performer = Callable[[Round], Awaitable[Event | None]]
PhaseObserver = Callable[[State, float], None]

log = structlog.get_logger(__name__)


class Driver:
    """Owns the current round. `performers` gives, for every effect, the coroutine that does it."""

    def __init__(
        self,
        records: Records,
        clock: Clock,
        performers: Callable[[], Mapping[type[Effect], Performer]],
        *,
        observe_phase: PhaseObserver,
        on_stored: Callable[[Round], Awaitable[None]],
    ) -> None:
        self._records, self._clock, self._performers = records, clock, performers
        self._observe_phase, self._on_stored = observe_phase, on_stored
        self._lock = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._final = asyncio.Event()
        self.round: Round | None = None

    async def restore(self) -> None:
        """Take up the stored round: one that a crash interrupted, or the last one. From now on it takes events.

        Call it before anything is heard: what the bus held for us while we were away belongs to this round.
        """
        data = await self._records.get(_KIND, _CURRENT)
        self.round = None if data is None else msgspec.json.decode(data, type=Round)

    async def run(self, begun: Round | None = None, on_begun: Callable[[], Awaitable[None]] | None = None) -> Round:
        """Drive a round that has `begun` (default: the restored one) until it is final; returns it then.

        `on_begun` is called when the round is stored and takes events.
        """
        self._final.clear()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            async with self._lock:
                round_ = begun or self.round
                assert round_ is not None
                await self._store(round_)
                self._start(pending(round_))
            ticking = tasks.create_task(self._tick(), name="tick")
            if on_begun is not None:
                await on_begun()
            await self._final.wait()
            ticking.cancel()
            self._tasks = None
        assert self.round is not None
        return self.round

    async def feed(self, event: Event) -> Round:
        """Apply an event; when this returns, its effect is durable. Raises IllegalEvent."""
        async with self._lock:
            if self.round is None:
                raise IllegalEvent("none", type(event).__name__)
            before = self.round
            after, effects = step(before, event, self._clock.now_ms())
            if after is not before:
                await self._store(after)
                if after.state != before.state:
                    self._moved(before, after)
            self._start(effects)
            return after

    def _moved(self, before: Round, after: Round) -> None:
        entered, left = before.entered_ms.get(before.state), after.entered_ms[after.state]
        if entered is not None:
            self._observe_phase(before.state, (left - entered) / 1000)
        log.info("round", number=after.number, state=after.state.value, reason=after.reason)
        if after.state in FINAL:
            for task in self._running - {asyncio.current_task()}:
                task.cancel()

    async def _store(self, round_: Round) -> None:
        await self._records.put(_KIND, _CURRENT, msgspec.json.encode(round_))
        self.round = round_
        await self._on_stored(round_)

    def _start(self, effects: tuple[Effect, ...]) -> None:
        if self._tasks is None:
            return
        for effect in effects:
            task = self._tasks.create_task(self._perform(effect), name=type(effect).__name__)
            if not isinstance(effect, CleanUp):
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _perform(self, effect: Effect) -> None:
        assert self.round is not None
        number = self.round.number
        event = await self._outcome(effect)
        if isinstance(effect, CleanUp):
            self._final.set()
        if event is None or self.round.number != number:
            return
        try:
            await self.feed(event)
        except IllegalEvent as error:  # the round ended while the effect was under way
            log.info("effect came too late", effect=type(effect).__name__, why=str(error))

    async def _outcome(self, effect: Effect) -> Event | None:
        while True:
            assert self.round is not None
            try:
                return await self._performers()[type(effect)](self.round)
            except Unavailable as error:
                log.warning("once more", effect=type(effect).__name__, why=str(error), retry_s=RETRY_S)
                await self._clock.sleep(RETRY_S)
            except (PeerError, ChainReverted, RoundEnded) as error:
                log.warning("effect failed", effect=type(effect).__name__, why=str(error))
                return Failed(str(error)) if self.round.state in BEFORE_VERDICT else None

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            await self.feed(Tick())


def as_json(round_: Round) -> bytes:
    """A round as it is stored and archived."""
    return msgspec.json.format(msgspec.json.encode(round_), indent=1)
