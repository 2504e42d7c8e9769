"""Who is left out for a while because validators' reports have cost it its trust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gemel.wire.types import Address


class Suspensions(Protocol):
    """contracts/src/Trust.sol; the device registry suspends for good, which is another. Raises as `Chain` does."""

    async def below_floor(self, devices: Sequence[Address]) -> frozenset[Address]:
        """Those of `devices` whose score is below the floor now. Time alone brings a score back."""
        ...
