"""Roots of logs on chain, so that nobody rewrites them afterwards."""

from __future__ import annotations

from typing import Protocol

from gemel.ports.chain import Sent
from gemel.wire.logs import AnchorRecord
from gemel.wire.types import Count, Digest


class Anchors(Protocol):
    """contracts/src/AuditAnchors.sol. `log` is always the log's name as text. Raises as `Chain` does."""

    async def anchor(self, log: str, *, first: Count, last: Count, root: Digest) -> Sent:
        """The log's writer: the root over the next entries. Any other range is refused (NotNext)."""
        ...

    async def anchored_entries(self, log: str) -> Count:
        """The number of the last entry under a root; 0 before the first."""
        ...

    async def anchor_count(self, log: str) -> Count:
        """How many roots there are."""
        ...

    async def anchor_at(self, log: str, index: Count) -> AnchorRecord:
        """A root by its place, from 0 on. Raises ChainReverted(UnknownAnchor)."""
        ...

    async def anchor_of(self, log: str, entry: Count) -> AnchorRecord | None:
        """The root that covers an entry; None where none does."""
        ...
