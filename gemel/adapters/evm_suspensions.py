"""Trust scores below the floor on any EVM chain: `gemel.ports.suspensions.Suspensions`."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.adapters.contract_abi import TRUST
from gemel.adapters.contract_calls import ContractCalls
from gemel.wire.types import Address

_PAGE = 200  # devices in one question


class EvmSuspensions:
    """Over an open connection."""

    def __init__(self, calls: ContractCalls) -> None:
        self._calls = calls

    async def below_floor(self, devices: Sequence[Address]) -> frozenset[Address]:
        """See `Suspensions`."""
        floor = (await self._calls.call(TRUST, "terms"))["floor"]
        below: set[Address] = set()
        for start in range(0, len(devices), _PAGE):
            page = devices[start : start + _PAGE]
            scores = await self._calls.call(TRUST, "scoresOf", list(page))
            below |= {device for device, score in zip(page, scores, strict=True) if score < floor}
        return frozenset(below)
