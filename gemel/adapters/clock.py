"""Time: the system's, and one that jumps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time


class SystemClock:
    """ports.Clock on the operating system's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never step back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class FakeClock:
    """ports.Clock that stands still until a test calls `advance`."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._start_ms, self._passed_s = now_ms, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ms(self) -> int:
        """The start plus what has been advanced."""
        return self._start_ms + round(self._passed_s * 1000)

    def monotonic_s(self) -> float:
        """Seconds advanced so far."""
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been advanced that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Jump ahead, waking sleepers in the order of their time; each runs before the next is woken."""
        target_s = self._passed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= target_s:
            self._passed_s, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            for _ in range(10):  # a few turns of the loop, so that what the sleeper does next can sleep again
                await asyncio.sleep(0)
        self._passed_s = target_s
