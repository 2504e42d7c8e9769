"""Counts the validators' votes as the chain's events bring them, so that a round waits no longer than it must."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from gemel.ports import ChainEvent
from gemel.wire.types import Address

_VERDICTS = ("approved", "no quorum", "below threshold", "regression")  # QualityGate.sol, in the order of its enum


class Votes:
    """Who has voted in which round, and why the contract rejected one."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._voters: dict[int, set[Address]] = defaultdict(set)
        self._reasons: dict[int, str] = {}
        self._cast = asyncio.Event()

    async def on_event(self, event: ChainEvent) -> None:
        """A chain event; others than votes and rejections of our task are passed over."""
        if event.values.get("task") != self._task_id or event.retracted:
            return
        if event.name == "ModelAttested":
            self._voters[_round(event)].add(str(event.values["validator"]))
            self._cast.set()
        elif event.name == "RoundRejected":
            self._reasons[_round(event)] = _VERDICTS[int(str(event.values["reason"]))]

    async def all_of(self, validators: int, round_: int, grace_s: float) -> None:
        """Return when all validators have voted, or when no vote has come for `grace_s`."""
        while len(self._voters[round_]) < validators:
            self._cast.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._cast.wait()
            except TimeoutError:
                return

    async def reason(self, round_: int) -> str:
        """Why the contract rejected the candidate; waits a little for the event that says so."""
        for _ in range(20):
            if round_ in self._reasons:
                return self._reasons[round_]
            await asyncio.sleep(0.25)
        return "unknown: its event has not come"


def _round(event: ChainEvent) -> int:
    return int(str(event.values["round"]))
