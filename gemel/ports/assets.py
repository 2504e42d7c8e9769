"""What somebody declared about the registry's assets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gemel.wire.types import Count


class AssetRecord(msgspec.Struct, frozen=True):
    """What somebody declared about an asset. `revision` rises with every change."""

    site: str
    asset: str
    revision: Count
    document: msgspec.Raw


class AssetStore(Protocol):
    """Declared documents about assets: where they belong and what they are related to. Raises as TwinStore."""

    async def put_asset(self, site: str, asset: str, document: bytes, *, expected: Count | None) -> Count | None:
        """The new revision; None, and nothing changed, where `expected` (0: none yet) is not the one that stands.

        Raises Refused(too_large) for a new one beyond the store's bound.
        """
        ...

    async def asset(self, site: str, asset: str) -> AssetRecord | None:
        """One asset's document."""
        ...

    async def assets(self) -> Sequence[AssetRecord]:
        """All of them, by site and asset."""
        ...
