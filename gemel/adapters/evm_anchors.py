"""Anchors on any EVM chain: `gemel.ports.anchors.Anchors`."""

from __future__ import annotations

from gemel.adapters.contract_abi import AUDIT_ANCHORS
from gemel.adapters.contract_calls import ContractCalls
from gemel.ports import Sent
from gemel.wire.logs import AnchorRecord, log_id
from gemel.wire.types import Count, Digest


class EvmAnchors:
    """Over an open connection."""

    def __init__(self, calls: ContractCalls) -> None:
        self._calls = calls

    async def anchor(self, log: str, *, first: Count, last: Count, root: Digest) -> Sent:
        """See `Anchors`."""
        return await self._calls.send(AUDIT_ANCHORS, "anchor", log_id(log), first, last, root)

    async def anchored_entries(self, log: str) -> Count:
        """See `Anchors`."""
        entries: int = await self._calls.call(AUDIT_ANCHORS, "anchoredEntries", log_id(log))
        return entries

    async def anchor_count(self, log: str) -> Count:
        """See `Anchors`."""
        count: int = await self._calls.call(AUDIT_ANCHORS, "anchorCount", log_id(log))
        return count

    async def anchor_at(self, log: str, index: Count) -> AnchorRecord:
        """See `Anchors`."""
        found = await self._calls.call(AUDIT_ANCHORS, "anchorAt", log_id(log), index)
        return AnchorRecord(found["root"], found["first"], found["last"], found["anchoredAt"], found["by"])

    async def anchor_of(self, log: str, entry: Count) -> AnchorRecord | None:
        """See `Anchors`. Roots follow each other without a gap, so halving finds it."""
        low, high = 0, await self.anchor_count(log)
        while low < high:
            middle = (low + high) // 2
            anchor = await self.anchor_at(log, middle)
            if anchor.first <= entry <= anchor.last:
                return anchor
            low, high = (low, middle) if entry < anchor.first else (middle + 1, high)
        return None
