"""The clock that jumps."""

from __future__ import annotations

import asyncio

from gemel.adapters.clock import FakeClock, SystemClock
from gemel.ports import Clock


async def test_sleepers_wake_in_order_and_may_sleep_again_within_one_jump() -> None:
    clock, woken = FakeClock(now_ms=1000), list[tuple[str, float]]()

    async def sleeper(name: str, *naps_s: float) -> None:
        for nap_s in naps_s:
            await clock.sleep(nap_s)
            woken.append((name, clock.monotonic_s()))

    tasks = [asyncio.create_task(sleeper("a", 3)), asyncio.create_task(sleeper("b", 1, 1, 10))]
    await asyncio.sleep(0)
    await clock.advance(5)
    assert woken == [("b", 1.0), ("b", 2.0), ("a", 3.0)]
    assert (clock.now_ms(), clock.monotonic_s()) == (6000, 5.0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await clock.advance(100)
    assert len(woken) == 3


async def test_both_clocks_are_clocks() -> None:
    for clock in (FakeClock(), SystemClock()):
        port: Clock = clock
        await port.sleep(0)
        assert port.now_ms() > 1_700_000_000_000
