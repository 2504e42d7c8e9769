"""The registry's log of reads, and the Merkle roots over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gemel.wire.types import Count, Digest, Millis


class Access(msgspec.Struct, frozen=True):
    """Who read what, when. `sequence` counts from 1 without a gap."""

    sequence: Count
    time_ms: Millis
    reader: str
    what: str


class AccessRoot(msgspec.Struct, frozen=True):
    """The Merkle root over the entries first..last: whoever knows it can be shown that one of them is true."""

    first: Count
    last: Count
    sealed_ms: Millis
    root: Digest


class AccessStore(Protocol):
    """The log of reads, and the roots over it. Raises as TwinStore."""

    async def log_access(self, time_ms: Millis, reader: str, what: str) -> Access:
        """Add an entry; it is committed when this returns."""
        ...

    async def accesses(self, *, after: Count, limit: int) -> Sequence[Access]:
        """At most `limit` entries above `after` that are kept, in order."""
        ...

    async def put_access_root(self, root: AccessRoot) -> None:
        """Keep a root; it follows the one before without a gap."""
        ...

    async def access_roots(self, *, after: Count, limit: int) -> Sequence[AccessRoot]:
        """At most `limit` roots whose first entry is above `after`, oldest first."""
        ...

    async def access_state(self) -> tuple[Count, Count]:
        """(the last entry's number, the last entry under a root)."""
        ...

    async def drop_accesses(self, before_ms: Millis) -> None:
        """Forget the entries under roots that were sealed before; roots stay.

        Never a part of what one root covers: the rest could be proved no more.
        """
        ...
