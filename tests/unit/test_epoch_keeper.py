"""Whoever closes epochs does it when they are over, and goes on whatever the chain answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chain_listener.handovers import LOOK_S, EpochKeeper
from gemel.adapters.clock import FakeClock
from gemel.errors import ChainReverted, ChainUnavailable
from gemel.exchange.post import Post
from gemel.ports import Sent
from tests.support.parties import LISTENER, TRUST
from tests.support.seats import NOW_MS, NoBus

EPOCH_S = 100


@dataclass
class Election:
    """The contract's clock and answers."""

    clock: FakeClock
    ends_s: int = NOW_MS // 1000 + EPOCH_S
    closed: int = 0
    tried: int = 0
    answers: list[Exception] = field(default_factory=list)

    async def epoch_ends_s(self) -> int:
        return self.ends_s

    async def close_epoch(self) -> Sent:
        self.tried += 1
        if self.answers:
            raise self.answers.pop(0)
        self.closed += 1
        self.ends_s = self.clock.now_ms() // 1000 + EPOCH_S
        return Sent("ab" * 32, 1, 1)


async def keeping(*answers: Exception) -> tuple[Election, FakeClock, asyncio.Task[None]]:
    clock = FakeClock(NOW_MS)
    election = Election(clock, answers=list(answers))
    post = Post(NoBus(), TRUST, LISTENER, clock)  # type: ignore[arg-type]  # it only has the time
    running = asyncio.create_task(EpochKeeper(post, election).run())  # type: ignore[arg-type]  # what it asks
    await asyncio.sleep(0)
    return election, clock, running


async def test_each_epoch_is_closed_when_it_is_over_and_not_before() -> None:
    election, clock, running = await keeping()
    await clock.advance(EPOCH_S - 1)
    assert election.tried == 0
    await clock.advance(1)
    assert election.closed == 1
    await clock.advance(3 * EPOCH_S)
    assert (election.closed, election.tried) == (4, 4)
    running.cancel()


async def test_chain_that_is_away_behind_or_without_candidates_is_asked_again() -> None:
    away, behind = ChainUnavailable("gone"), ChainReverted("closeEpoch", "EpochRunning", {"endsAt": 1})
    few = ChainReverted("closeEpoch", "TooFewCandidates", {"found": 1, "minimum": 4})
    election, clock, running = await keeping(away, behind, few)
    await clock.advance(EPOCH_S + 5)
    assert (election.tried, election.closed) == (3, 0)  # the third said no for longer
    await clock.advance(LOOK_S)
    assert (election.tried, election.closed) == (4, 1)
    running.cancel()
