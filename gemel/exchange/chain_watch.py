"""Waiting for the chain: events wake a service up, and it believes only what it then reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Container, Coroutine
from pathlib import Path

import structlog

from gemel.errors import ChainUnavailable, GemelError, Unavailable
from gemel.ports import Chain, ChainEvent, Clock, PartyRecord, Role, RoundRecord, RoundState
from gemel.wire.types import Address

log = structlog.get_logger(__name__)

EventHandler = Callable[[ChainEvent], Awaitable[None]]

RETRY_S = 2.0
CLOCK_SLACK_S = 2  # by how much our clock may be ahead of the chain's
_ENDED = frozenset({RoundState.REJECTED, RoundState.ABORTED, RoundState.ROLLED_BACK})


class RoundEnded(GemelError):
    """The round ended before it reached the state that was waited for."""

    def __init__(self, round_: int, state: RoundState) -> None:
        super().__init__(f"round {round_} ended: {state.name.lower()}")
        self.round, self.state = round_, state


class Parties:
    """The registered parties of one role, as a container of addresses that `ChainWatch` keeps fresh."""

    def __init__(self, *roles: Role) -> None:
        self._roles = roles
        self.records: dict[Address, PartyRecord] = {}

    def __contains__(self, address: object) -> bool:
        return address in self.records

    def __len__(self) -> int:
        return len(self.records)

    async def refresh(self, chain: Chain) -> None:
        """Read the registry anew: active parties only."""
        self.records = {p.address: p for p in await chain.parties() if p.active and p.role in self._roles}


class AnyOf:
    """Several containers of addresses as one."""

    def __init__(self, *containers: Container[Address]) -> None:
        self._containers = containers

    def __contains__(self, address: object) -> bool:
        return any(address in container for container in self._containers)


class ChainWatch:
    """Follows the contracts' events for one service."""

    def __init__(self, chain: Chain, task: str, checkpoint: Path, clock: Clock, *parties: Parties) -> None:
        self._chain, self._task, self._checkpoint, self._clock = chain, task, checkpoint, clock
        self._parties = parties
        self._changed = asyncio.Condition()
        self._finished = 0  # events, since the start
        self.head = 0  # block of the last event

    async def run(self, on_event: EventHandler | None = None) -> None:
        """Follow for ever. `on_event` has finished with an event before the checkpoint passes it.

        What is away (the chain, or the broker that `on_event` needs) is waited for; the event comes again then.
        """
        while True:
            try:
                async for event in self._chain.events(self._checkpoint):
                    if event.name.startswith("Party"):
                        await self.refresh_parties()
                    if on_event is not None:
                        await on_event(event)
                    self.head = event.block
                    async with self._changed:
                        self._finished += 1
                        self._changed.notify_all()
            except Unavailable as error:
                log.warning("event not finished", why=str(error), retry_s=RETRY_S)
                await self._clock.sleep(RETRY_S)

    async def refresh_parties(self) -> None:
        """Read the device registry for every container that was given."""
        for container in self._parties:
            await container.refresh(self._chain)

    async def reached(self, round_: int, state: RoundState, *, even_if_ended: bool = False) -> RoundRecord:
        """The round's record once it is at or beyond `state`. Raises RoundEnded if it took another way."""
        while True:
            async with self._changed:
                try:
                    record = await self._chain.round(self._task, round_)
                except ChainUnavailable as error:
                    log.warning("chain away", why=str(error))
                    record = None
                if record is not None and record.state in _ENDED and not even_if_ended:
                    raise RoundEnded(round_, record.state)
                if record is not None and record.state >= state:
                    return record
                try:
                    async with asyncio.timeout(RETRY_S):  # an event may have come before we began to wait
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Return when `holds` does: it is asked now, after every event, and every RETRY_S."""
        while True:
            finished = self._finished
            if await holds():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S), self._changed:
                    while self._finished == finished:
                        await self._changed.wait()

    async def within(self, seconds: float, holds: Callable[[], Awaitable[bool]]) -> bool:
        """Whether it comes to hold in so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.until(holds)
        except TimeoutError:
            return False
        return True

    async def now_s(self) -> int:
        """The chain's time: its head's, or our clock's where nobody has sent anything for a while."""
        head = await self._chain.head()
        return max(head.time_s, self._clock.now_ms() // 1000 - CLOCK_SLACK_S)

    async def before_verdict(self, round_: int, work: Coroutine[None, None, None]) -> None:
        """Do `work` of a round; give it up and raise RoundEnded once the round is decided or aborted without it.

        What `work` waits for may never come: a message that a crash or a broken link swallowed.
        """
        working = asyncio.create_task(work, name=f"round {round_}")
        verdict = asyncio.create_task(self.reached(round_, RoundState.APPROVED, even_if_ended=True))
        try:
            await asyncio.wait({working, verdict}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise RoundEnded(round_, verdict.result().state)
            working.result()
        finally:
            working.cancel()
            verdict.cancel()
            await asyncio.gather(working, verdict, return_exceptions=True)
