"""A service's own small durable state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Records(Protocol):
    """A service's own small durable state: values by (kind, key), each change committed before it returns.

    What is acknowledged, deployed, opened or promised stands here, so a crash goes on from there.
    """

    async def put(self, kind: str, key: str, value: bytes) -> None:
        """Insert or replace."""
        ...

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        """Insert; False, and nothing changed, if there is one already."""
        ...

    async def get(self, kind: str, key: str) -> bytes | None:
        """The value, or None."""
        ...

    async def items(self, kind: str) -> Sequence[tuple[str, bytes]]:
        """All of a kind, by key."""
        ...

    async def drop(self, kind: str, key: str) -> None:
        """Remove; missing is fine."""
        ...
