"""Time as an argument."""

from __future__ import annotations

from typing import Protocol

from gemel.wire.types import Millis


class Clock(Protocol):
    """Time as an argument. The system's in services, one that jumps in tests."""

    def now_ms(self) -> Millis:
        """Milliseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never step back; for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
