"""Large bytes by their digest."""

from __future__ import annotations

from typing import Protocol

from gemel.wire.types import Digest


class Blobs(Protocol):
    """Bytes by digest: models, frames, sums, explanations."""

    async def put(self, data: bytes) -> Digest:
        """Store durably; storing again changes nothing."""
        ...

    async def get(self, digest: Digest) -> bytes:
        """The bytes; their digest is checked. Raises KeyError, or Refused(digest_mismatch) if they rotted."""
        ...

    async def has(self, digest: Digest) -> bool:
        """Whether they are here."""
        ...

    async def drop(self, digest: Digest) -> None:
        """Remove them; missing is fine."""
        ...
